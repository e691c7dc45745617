"""Valid input, spoilt: parts of a JSON value replaced, renamed, taken out; stretches of bytes cut, flipped, doubled.

All that is drawn comes from a ``Random``, so that a seed is an input, and Hypothesis and atheris can give one too.
"""

import json
from random import Random
from typing import Any

STRINGS = [
    "",
    " ",
    "..",
    "../../outside",
    "/tmp/outside",
    "~",
    "a\0b",
    "a" * 5000,
    "\ud800",
    "\u202e\u0000",
    "\r\n",
    "NaN",
    "auto",
    "null",
    "{{ 7 * 7 }}",
    "{% for x in y %}",
    "<|im_end|>",
    "[red]x[/red]",
    "[/",
    "<script>alert(1)</script>",
    "%s%n",
    "*",
    "[",
    "s3://bucket/x",
    "file:///etc/passwd",
    "nosuch://x",
    "(((((",
    "step-1",
    "é" * 300,
]
NUMBERS = [0, -1, 1, 2, 3, 10**18, 2**63, -(2**63) - 1, 10**400, -(10**4000), 0.5, -0.0, 1e-320, 1e308, -1e308]
NUMBERS += [float("inf"), float("-inf"), float("nan")]
OTHERS: list[Any] = [None, True, False, [], {}, [[]], [None], [{}], {"": None}, {"type": None}, {"type": []}, [1, "a"]]
RAW = [
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\x00",
    b"\xff",
    b"\xed\xa0\x80",
    b"NaN",
    b"Infinity",
    b"-",
    b"1e999",
    b'"',
    b"\\",
]
RAW += [b"{", b"}", b"[", b"]", b",", b":", b"\n", b"\r", b"null", b"[" * 3000, b'{"a":' * 3000, b"9" * 5000]


class Drawn(Random):
    """A ``Random`` that draws from the bytes that a fuzzer gives, and zeros behind their end."""

    def __init__(self, data: bytes) -> None:
        self._data, self._place = data, 0
        super().__init__(0)

    def getrandbits(self, number: int, /) -> int:
        size = (number + 7) // 8
        taken = self._data[self._place : self._place + size]
        self._place += size
        return int.from_bytes(taken, "big") & ((1 << number) - 1)

    def random(self) -> float:
        return self.getrandbits(16) / 2**16


def chance(random: Random, share: float) -> bool:
    """True in ``share`` of the cases."""
    return random.random() < share


def spoilt(random: Random, value: Any, most: int = 3) -> Any:
    """``value``, of JSON, after one to ``most`` changes; ``value`` itself stays as it is."""
    for _ in range(random.randint(1, most)):
        value = _spoilt(random, value, value)
    return value


def _spoilt(random: Random, node: Any, whole: Any) -> Any:
    if not isinstance(node, dict | list) or not node or chance(random, 0.01 if node is whole else 0.15):
        return _replaced(random, node, whole)
    places = list(node) if isinstance(node, dict) else range(len(node))
    place, new = random.choice(places), node.copy()
    drawn = random.random()
    if drawn < 0.06:
        del new[place]
    elif drawn < 0.12 and isinstance(new, dict):
        new[_key(random, place)] = new.pop(place)
    elif drawn < 0.18:
        if isinstance(new, dict):
            new[_key(random, place)] = new[place]
        else:
            new.insert(place, new[place])
    else:
        new[place] = _spoilt(random, node[place], whole)
    return new


def _key(random: Random, key: Any) -> str:
    return random.choice([f"{key}s", str(key)[:-1], str(key).upper(), random.choice(STRINGS), "type", "name"])


def _replaced(random: Random, node: Any, whole: Any) -> Any:
    drawn = random.random()
    if drawn < 0.25:
        return random.choice(STRINGS)
    if drawn < 0.5:
        return random.choice(NUMBERS)
    if drawn < 0.7:
        return random.choice(OTHERS)
    if drawn < 0.78:
        return _part(random, whole)
    if drawn < 0.82:
        return nested(random.choice([50, 99, 150, 900]), list_too=chance(random, 0.5))
    if isinstance(node, bool):
        return not node
    if isinstance(node, float) and node != node:
        return -1
    if isinstance(node, int | float):
        return random.choice(
            [-node, node + 1, node * 10, node // 3, f"{node:.30}" if isinstance(node, float) else hex(node), [node]]
        )
    if isinstance(node, str):
        return random.choice(
            [node + random.choice(STRINGS), random.choice(STRINGS) + node, node[:-1], [node], node * 2]
        )
    return [node] if chance(random, 0.5) else {"x": node}


def _part(random: Random, node: Any) -> Any:
    """Something that lies anywhere in ``node``."""
    while isinstance(node, dict | list) and node and chance(random, 0.7):
        node = random.choice(list(node.values()) if isinstance(node, dict) else node)
    return node


def nested(depth: int, *, list_too: bool) -> Any:
    """Objects, or lists, in each other."""
    value: Any = 1
    for _ in range(depth):
        value = [value] if list_too else {"a": value}
    return value


def as_bytes(random: Random, value: Any, damage: float = 0.1, **style: Any) -> bytes:
    """JSON text of ``value``; ``damage``: the share that is then spoilt as text."""
    text = json.dumps(value, ensure_ascii=chance(random, 0.5), **style).encode("utf-8", "surrogatepass")
    return damaged(random, text) if chance(random, damage) else text


def damaged(random: Random, data: bytes) -> bytes:
    """``data`` after one to three changes."""
    for _ in range(random.randint(1, 3)):
        start = random.randint(0, len(data))
        stop = min(len(data), start + random.choice([1, 2, 8, 100]))
        match random.randint(0, 6):
            case 0:
                data = data[:start]
            case 1:
                data = data[:start] + data[stop:]
            case 2:
                data = data[:stop] + data[start:]
            case 3:
                data = data[:start] + random.choice(RAW) + data[start:]
            case 4:
                data = data[:start] + random.choice(RAW) + data[stop:]
            case _ if data:
                place = random.randrange(len(data))
                data = data[:place] + bytes([data[place] ^ 1 << random.randint(0, 7)]) + data[place + 1 :]
    return data
