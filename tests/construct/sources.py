"""A small project in every language: functions that are documented, with loops and conditions, and their tests."""

FILES = {
    "c/list.c": """\
#include <stdio.h>

/*
 * Counts the items above a limit.
 */
int count_above(const int *items, int n, int limit)
{
	int count = 0;
	int i = 0;

	for (i = 0; i < n; i++) {
		if (items[i] > limit)
			count++;
	}
	return count;
}
""",
    "cc/box.cc": """\
#include "box.h"

/// Counts the items above a limit that is given.
template <class T>
int Box<T>::countAbove(int limit, int start) const {
  int count = 0;
  for (int i = start; i < size(); i++) {
    if (items[i] > limit && !skip(i, limit)) {
      count = count + 1;
    }
  }
  return count;
}

static int other(int *a, int *b) {
  int x = *a;
  int y = *b;
  return x - y;
}
""",
    "cc/box_test.cc": """\
#include "box.h"

TEST(BoxTest, CountAboveCountsLarger) {
  Box<int> box({1, 2, 3});
  int found = box.countAbove(1, 0);
  EXPECT_EQ(found, 2);
}
""",
    "go/box.go": """\
package box

// CountAbove counts the items above a limit,
// from the start on.
func CountAbove(items []int, limit int, start int) int {
	count := 0
	for i := start; i < len(items); i++ {
		if items[i] > limit && i >= 0 {
			count = count + 1
		} else {
			continue
		}
	}
	return count
}
""",
    "go/box_test.go": """\
package box

import "testing"

func TestCountAbove(t *testing.T) {
	found := CountAbove([]int{1, 2, 3}, 1, 0)
	if found != 2 {
		t.Fatalf("found %d", found)
	}
}
""",
    "jv/src/main/java/a/Box.java": """\
package a;

/** A box of numbers, contact jane@corp.com for more. */
public class Box {
    private final int[] items;

    /**
     * Counts the items above a limit.
     *
     * @param limit what they must exceed
     */
    @Deprecated
    public int countAbove(int limit, int start) {
        int count = 0;
        for (int i = start; i < items.length; i++) {
            if (!(items[i] <= limit) && i > 0) {
                count = count + 1;
            } else {
                break;
            }
        }
        return Math.max(count, start);
    }
}
""",
    "jv/src/test/java/a/BoxTest.java": """\
package a;

import static org.junit.Assert.*;

public class BoxTest {
    @Test
    public void countAboveCountsOnlyLarger() {
        Box box = new Box(1, 2, 3);
        int found = box.countAbove(1, 0);
        assertEquals(2, found);
    }
}
""",
    "js/list.js": """\
/**
 * Counts the words of a list that are longer than a limit.
 */
function countLong(words, limit) {
  let count = 0;
  for (const word of words) {
    if (word && word.length > limit) {
      count = count + 1;
    }
  }
  return count;
}

module.exports = { countLong };
""",
    "js/__tests__/list.test.js": """\
const { countLong } = require("../list");

describe("lists", () => {
  test("countLong leaves out what is short", () => {
    const words = ["a", "long"];
    const found = countLong(words, 2);
    expect(found).toBe(1);
  });
});
""",
    "py/box.py": '''\
"""Boxes of numbers that are counted in several ways, for the tests of the tests."""


def count_above(items, limit, start=0):
    """Count the items above a limit."""
    count = 0
    for item in items[start:]:
        if item > limit:
            count += 1
    return count
''',
    "py/tests/test_box.py": """\
import unittest

from box import count_above


class BoxTest(unittest.TestCase):
    def test_count_above(self):
        items = [1, 2, 3]
        found = count_above(items, 1)
        self.assertEqual(found, 2)
        self.assertEqual(count_above([], 1), 0)
""",
    "rs/lib.rs": """\
/// Counts the items above a limit.
/// From the first on.
#[inline]
pub fn count_above(items: &[i32], limit: i32, start: i32) -> usize {
    let mut count: usize = 0;
    for item in items.iter() {
        if *item > limit && *item != start {
            count = count + 1;
        } else {
            break;
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn count_above_counts_larger() {
        let items = vec![1, 2, 3];
        let found = count_above(&items, 1, 0);
        assert_eq!(found, 2);
    }
}
""",
    "ts/sum.test.ts": """\
import { sumOver } from "./sum";

describe("sumOver", () => {
  it("sums what is over the limit in sumOver", () => {
    const list = [1, 2, 3];
    const found = sumOver(list, 1);
    expect(found).toBe(5);
  });
});
""",
    "ts/sum.ts": """\
/** Sums the numbers of a list that are over a limit. */
export function sumOver(list: number[], limit: number): number {
  let total: number = 0;
  for (const item of list) {
    if (item > limit && !Number.isNaN(item)) {
      total = total + item;
    }
  }
  return total;
}

export class Stack {
  private items: number[] = [];

  /** Puts an item on the stack and tells its size. */
  push(item: number, times: number): number {
    for (let i = 0; i < times; i++) {
      this.items.push(item);
    }
    return this.items.length - 1;
  }
}

/**
 * Joins words by a mark that is given.
 */
export const joined = (words: string[], mark: string) => {
  const parts = words.filter((w) => w.length > 0);
  const text = parts.join(mark);
  return text + mark;
};
""",
}
