"""What has come before, kept on disk: a run over any number of files takes the same memory."""

import hashlib
import sqlite3
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mftcoder.construct.functions import LeftOut
from mftcoder.data.filters.minhash import Shingles, jaccard, shingles, sign

CACHE_KIB = 32_768
MOST_ALIKE = 50  # files that share a band and are compared
Digest = int  # 63 bits: two of 10^8 texts are taken for equal, and are not, with a probability of 0.05 %


def digest(text: str, kind: str = "") -> Digest:
    """Of a text, whitespace aside, among those of its kind."""
    raw = f"{kind}\0{' '.join(text.split())}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest()) >> 1


def bands(text: str, similarity: float) -> list[int]:
    """What texts of at least ``similarity`` share some of, nearly always."""
    [row] = sign(shingles([text]), similarity).bands.astype(np.uint64)
    numbers: NDArray[np.uint64] = np.arange(len(row), dtype=np.uint64) << np.uint64(32)
    return [int(value) for value in row + numbers]


class Seen:
    """Digests of all texts so far, and which files share which bands, in a private file that nobody else sees."""

    def __init__(self) -> None:
        self._base = sqlite3.connect("", isolation_level=None)
        for line in (
            f"PRAGMA cache_size = -{CACHE_KIB}",
            "PRAGMA journal_mode = OFF",
            "PRAGMA synchronous = OFF",
            "CREATE TABLE digests (digest INTEGER PRIMARY KEY)",
            "CREATE TABLE bands (band INTEGER, file INTEGER, PRIMARY KEY (band, file)) WITHOUT ROWID",
            "CREATE TABLE files (file INTEGER PRIMARY KEY, root INTEGER, path TEXT)",
        ):
            self._base.execute(line)

    def once(self, found: Digest) -> None:
        """Raises LeftOut where the same text was here before."""
        if self._base.execute("INSERT OR IGNORE INTO digests VALUES (?)", (found,)).rowcount == 0:
            raise LeftOut("duplicate")

    def unlike(
        self, own: list[int], place: tuple[int, str], similarity: float, read: Callable[[int, str], str]
    ) -> None:
        """Raises LeftOut where an earlier file that stayed is at least as similar; ``read`` reads a file again."""
        marks = ",".join("?" * len(own))
        found = self._base.execute(
            f"SELECT DISTINCT file FROM bands WHERE band IN ({marks}) ORDER BY file LIMIT {MOST_ALIKE}", own
        )
        candidates = [file for (file,) in found]
        if candidates:
            mine = _shingles(read(*place))
            for file in candidates:
                [other] = self._base.execute("SELECT root, path FROM files WHERE file = ?", (file,))
                if jaccard(mine, _shingles(read(*other))) >= similarity:
                    raise LeftOut("near-duplicate")
        file = self._base.execute("INSERT INTO files (root, path) VALUES (?, ?)", place).lastrowid
        self._base.executemany("INSERT INTO bands VALUES (?, ?)", [(band, file) for band in own])

    def close(self) -> None:
        self._base.close()


def _shingles(text: str) -> Shingles:
    return shingles([text])[0]
