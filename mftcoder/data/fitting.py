"""Samples longer than a row: which of their tokens become segments of rows. Pure functions of lengths and borders.

``fit`` needs nothing but a sample's length, mask and borders, so samples are tokenized once for any sequence_length.
A conversation of three exchanges, ``borders`` [2, 5, 8, 11], and rows of 8 tokens::

    |s s|1 1 1|2 2 2|3 3 3|            s: system prompt; 1, 2, 3: a user's message and its answer
    |s s|1 1 1|2 2 2|                  "truncate"
    |s s|1 1 1|2 2 2|  |s s|3 3 3|     "split"
"""

from collections import Counter
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

OverLong = Literal["truncate", "drop", "split"]
TOO_LONG = "longer than a row"
NOTHING_LEFT = "no supervised token left after truncation"


class Encoded(NamedTuple):
    """A sample of L tokens."""

    input_ids: NDArray[np.int32]  # [L]
    supervised: NDArray[np.bool_]  # [L]; never true of token 0, which nothing predicts
    # Where a conversation of n exchanges may be cut: [n + 1] ascending numbers of tokens. The first is the length of
    # what begins every part of it (bos, system prompt), or -1 if later exchanges cannot stand alone; then the end of
    # each exchange, the last L. Empty for plain text, which may be cut anywhere.
    borders: NDArray[np.int32]


class Piece(NamedTuple):
    """The tokens [0, head) and [start, stop) of a sample: what becomes one segment of a row."""

    head: int
    start: int
    stop: int


class Fitted(NamedTuple):
    """What becomes of one sample."""

    pieces: list[Piece]  # each of at most a row, with a supervised token; none if the sample is dropped
    dropped: str | None  # why it is
    counts: Counter[str]  # split: 1 if in several pieces; truncated: 1 if in part in none; lost_tokens: that part


class Pieces(NamedTuple):
    """P pieces of N samples, in the order of the samples."""

    sample: NDArray[np.int64]  # [P] index of each one's sample
    head: NDArray[np.int64]  # [P] as in Piece
    start: NDArray[np.int64]
    stop: NDArray[np.int64]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """[P] tokens."""
        return self.head + self.stop - self.start


def fit(sample: Encoded, sequence_length: int, over_long: OverLong) -> Fitted:
    """The pieces of ``sample``, which has a supervised token, for rows of ``sequence_length`` tokens.

    Plain text is split into pieces of a row whatever ``over_long`` is. "truncate" takes whole exchanges off the end of
    a conversation, or off its beginning where no supervised token would be left, and keeps the system prompt; only an
    exchange that is too long alone is cut. "split" makes pieces of whole exchanges, each with the system prompt; a
    conversation whose later exchanges cannot stand alone is truncated.
    """
    length = len(sample.supervised)
    if length <= sequence_length:
        return Fitted([Piece(0, 0, length)], None, Counter())
    is_text = not len(sample.borders)
    if over_long == "drop" and not is_text:
        return Fitted([], TOO_LONG, Counter())
    if is_text:
        cuts = range(0, length, sequence_length)
        runs = [Piece(0, start, min(start + sequence_length, length)) for start in cuts]
    else:
        runs = _runs(sample.borders.tolist(), sequence_length)
    seen = np.concatenate([[0], np.cumsum(sample.supervised)])
    pieces = [run for run in runs if seen[run.stop] > seen[run.start + (run.head == 0)]]  # token 0 predicted by nothing
    if not pieces:
        return Fitted([], NOTHING_LEFT, Counter())
    if not is_text and (over_long == "truncate" or sample.borders[0] < 0):
        pieces = [_extended(pieces[0], sample.borders, sequence_length)]
    lost = length - sum(piece.stop - piece.start for piece in pieces)
    return Fitted(pieces, None, Counter(split=int(len(pieces) > 1), truncated=int(lost > 0), lost_tokens=lost))


def _runs(borders: list[int], sequence_length: int) -> list[Piece]:
    """A conversation as runs of exchanges that fit a row; an exchange that does not fit alone is cut at its end."""
    head, *ends = borders
    runs = []
    start = 0
    while start < ends[-1]:
        before = head if start else 0
        room = start + sequence_length - before
        fitting = [end for end in ends if start < end <= room]
        following = next(end for end in ends if end > start)
        if before < sequence_length:
            runs.append(Piece(before, start, fitting[-1] if fitting else room))
        if head < 0:  # another cut, should the exchanges that fit have no supervised token
            return [*runs, Piece(0, 0, sequence_length)]
        start = fitting[-1] if fitting else following
    return runs


def _extended(run: Piece, borders: NDArray[np.int32], sequence_length: int) -> Piece:
    """``run`` with the exchanges before it that fit too, if there are any."""
    earliest = run.stop + run.head - sequence_length
    return run._replace(start=int(borders[1:][borders[1:] >= earliest][0])) if run.start else run


class Samples(Protocol):
    """N encoded samples, each with a supervised token."""

    lengths: NDArray[np.int32]  # [N] tokens

    def __getitem__(self, index: int, /) -> Encoded: ...


def fit_all(samples: Samples, sequence_length: int, over_long: OverLong) -> tuple[Pieces, Counter[str], Counter[str]]:
    """``fit`` of all of ``samples``: their pieces, the sums of the counts, and reason -> number of dropped samples."""
    counts: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    cut_up = []
    for index in np.flatnonzero(samples.lengths > sequence_length).tolist():
        fitted = fit(samples[index], sequence_length, over_long)
        cut_up += [(index, *piece) for piece in fitted.pieces]
        counts += fitted.counts
        if fitted.dropped:
            dropped[fitted.dropped] += 1
    whole = np.flatnonzero(samples.lengths <= sequence_length)
    table = np.zeros((len(whole) + len(cut_up), 4), np.int64)
    table[: len(whole), 0], table[: len(whole), 3] = whole, samples.lengths[whole]
    table[len(whole) :] = np.array(cut_up, np.int64).reshape(-1, 4)
    return Pieces(*table[np.argsort(table[:, 0], kind="stable")].T), counts, dropped


def cut(sample: Encoded, piece: Piece) -> Encoded:
    """The sample that ``piece`` of ``sample`` is. It is not to be cut again, and its first token is not supervised."""
    if piece == (0, 0, len(sample.input_ids)):
        return sample
    ids, supervised = (
        np.concatenate([array[: piece.head], array[piece.start : piece.stop]])
        for array in (sample.input_ids, sample.supervised)
    )
    supervised[0] = False
    return Encoded(ids, supervised, sample.borders[:0])
