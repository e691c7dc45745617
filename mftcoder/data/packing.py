"""From the lengths of samples to rows: pure functions of NumPy arrays.

``pack`` fills rows of ``capacity`` tokens in two ways and takes the one of fewer rows: best-fit decreasing, and exact
fits. Samples of 6, 5, 4, 3 and 2 tokens, capacity 10::

    row 0 |a a a a a a|d d d d|      a = 6, d = 4      full
    row 1 |b b b b b|c c c|e e|      b = 5, c = 3, e = 2   full

A layout is compressed: the samples of row r are ``order[row_starts[r]:row_starts[r + 1]]``.
"""

from heapq import heappop, heappush
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mftcoder.data.permutation import permutation

IntArray = NDArray[np.integer]


class Layout(NamedTuple):
    """Which samples make up which of R rows."""

    order: NDArray[np.int64]  # [N] indices of samples, row after row
    row_starts: NDArray[np.int64]  # [R + 1] into order


def best_fit_decreasing(lengths: IntArray, capacity: int) -> Layout:
    """Place samples of ``lengths`` [N], longest first, each into the fullest row that still has room for it.

    Ties go to the lower index, of samples as of rows, so the result is unique. Takes O(N · capacity / 64) bit
    operations: about two seconds per million samples. ValueError if a length is not in 1 … capacity.
    """
    if len(lengths) and not 1 <= lengths.min() <= lengths.max() <= capacity:
        raise ValueError(f"lengths must lie in 1 … {capacity}; found {lengths.min()} … {lengths.max()}")
    decreasing = np.argsort(-lengths.astype(np.int64), kind="stable")
    row_of = np.empty(len(lengths), np.int64)
    rows_with: list[list[int]] = [[] for _ in range(capacity + 1)]  # heaps of rows, by the space left in them
    spaces = 0  # bit s is set while rows_with[s] is not empty; the lowest bit from `length` on is the best fit
    num_rows = 0
    for place, length in enumerate(lengths[decreasing].tolist()):
        fitting = spaces >> length
        if fitting:
            space = length + (fitting & -fitting).bit_length() - 1
            row = heappop(rows_with[space])
            if not rows_with[space]:
                spaces ^= 1 << space
        else:
            space, row, num_rows = capacity, num_rows, num_rows + 1
        row_of[place] = row
        left = space - length
        if left:
            heappush(rows_with[left], row)
            spaces |= 1 << left
    order = decreasing[np.argsort(row_of, kind="stable")]
    return Layout(order, np.concatenate([[0], np.cumsum(np.bincount(row_of, minlength=num_rows))]))


def fill_exactly(lengths: IntArray, capacity: int) -> Layout:
    """Begin each row with the longest sample left, add others drawn at random until one or two fill it exactly.

    Leaves less space than ``best_fit_decreasing`` where samples are many and short: that one keeps the shortest for
    the end, and so has nothing left for gaps that are shorter still; here all lengths last until the end. Exact fits
    are the idea of Gupta and Ho's minimum bin slack (1999). Of samples of one length the lower index comes first.
    """
    drawn = iter(lengths[permutation(len(lengths), 0)].tolist())
    by_length = np.argsort(lengths, kind="stable").tolist()
    ends = np.cumsum(np.bincount(lengths, minlength=capacity + 1))
    following = (ends - np.diff(ends, prepend=0)).tolist()  # of each length: its next sample, in by_length
    ends = ends.tolist()
    present = np.diff(ends, prepend=0) > 0
    lengths_left = sum(1 << length for length in np.flatnonzero(present).tolist())  # as bits
    order: list[int] = []
    row_starts = [0]

    def take(*taken: int) -> None:
        nonlocal lengths_left
        for length in taken:
            order.append(by_length[following[length]])
            following[length] += 1
            if following[length] == ends[length]:
                present[length] = False
                lengths_left ^= 1 << length

    while lengths_left:
        space = capacity
        while fitting := lengths_left & ((2 << space) - 1):
            longest = fitting.bit_length() - 1
            taken = (longest,) if longest == space or space > 2 * longest else _pair(present, following, ends, space)
            if sum(taken) < space:
                length = next(drawn, longest) if space < capacity else longest
                taken = (length if fitting >> length & 1 else longest,)
            take(*taken)
            space -= sum(taken)
        row_starts.append(len(order))
    return Layout(np.array(order, np.int64), np.array(row_starts))


def _pair(present: NDArray[np.bool_], following: list[int], ends: list[int], space: int) -> tuple[int, ...]:
    """Two lengths that are ``present`` and sum to ``space``, the shorter first; nothing if there are none."""
    half = space // 2
    both = present[1 : half + 1] & present[space - 1 : space - half - 1 : -1]
    for short in (np.flatnonzero(both)[:2] + 1).tolist():
        if 2 * short < space or ends[short] - following[short] > 1:
            return short, space - short
    return ()


def one_per_row(num_samples: int) -> Layout:
    """Every sample a row of its own."""
    return Layout(np.arange(num_samples), np.arange(num_samples + 1))


def shuffle_rows(layout: Layout, new_order: IntArray) -> Layout:
    """The rows ``new_order`` [R] of ``layout``, in that order."""
    sizes = np.diff(layout.row_starts)[new_order]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    shift = np.repeat(layout.row_starts[:-1][new_order] - starts[:-1], sizes)
    return Layout(layout.order[np.arange(len(layout.order)) + shift], starts)


def pack(lengths: IntArray, capacity: int, mode: Literal["pack", "pad", "pad_to_max"], *key: int) -> Layout:
    """Rows of samples of ``lengths`` [N], in an order that ``key`` fixes. Only mode "pack" puts several in a row."""
    if mode == "pack":
        layouts = (method(lengths, capacity) for method in (best_fit_decreasing, fill_exactly))
        layout = min(layouts, key=lambda layout: len(layout.row_starts))
    else:
        layout = one_per_row(len(lengths))
    return shuffle_rows(layout, permutation(len(layout.row_starts) - 1, *key))
