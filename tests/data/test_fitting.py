"""Over-long samples: the pieces are checked token by token against what the policies promise."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mftcoder.data.fitting import Encoded, Piece, cut, fit, fit_all

HEAD, ANSWER = 1, 2  # kinds of tokens, in ids of 1000 * kind + exchange


def conversation(*exchanges: tuple[int, int, bool], head: int = 2, alone: bool = True) -> Encoded:
    """A sample of exchanges (tokens of the prompt, of the answer, whether supervised); ids tell what a token is."""
    ids = [1000 * HEAD] * head
    mask = [False] * head
    ends = []
    for number, (prompt, answer, supervised) in enumerate(exchanges):
        ids += [number] * prompt + [1000 * ANSWER + number] * answer
        mask += [False] * prompt + [supervised] * answer
        ends.append(len(ids))
    return Encoded(np.array(ids, np.int32), np.array(mask), np.array([head if alone else -1, *ends], np.int32))


def text(length: int) -> Encoded:
    return Encoded(np.arange(length, dtype=np.int32), np.arange(length) > 0, np.zeros(0, np.int32))


def tokens(sample: Encoded, pieces: list[Piece]) -> list[list[int]]:
    ids = sample.input_ids.tolist()
    return [ids[: piece.head] + ids[piece.start : piece.stop] for piece in pieces]


def exchanges_of(piece: list[int]) -> list[int]:
    return sorted({id % 1000 for id in piece if id // 1000 != HEAD})


class InMemory(list[Encoded]):
    """Samples as ``fit_all`` takes them."""

    @property
    def lengths(self) -> np.ndarray:
        return np.array([len(sample.input_ids) for sample in self], np.int32)


THREE = conversation((1, 2, True), (1, 2, True), (1, 2, True))  # the drawing in fitting.py


@pytest.mark.parametrize(
    ("sample", "length", "over_long", "pieces"),
    [
        (THREE, 11, "truncate", [(0, 0, 11)]),
        (THREE, 8, "truncate", [(0, 0, 8)]),
        (THREE, 8, "split", [(0, 0, 8), (2, 8, 11)]),
        (THREE, 7, "truncate", [(0, 0, 5)]),
        (THREE, 7, "split", [(0, 0, 5), (2, 5, 8), (2, 8, 11)]),
        (THREE, 10, "drop", []),
        (THREE, 11, "drop", [(0, 0, 11)]),
        (THREE, 4, "truncate", [(0, 0, 4)]),  # the first exchange alone is too long: cut at its end
        (conversation((9, 2, True), (1, 2, True)), 5, "truncate", [(2, 13, 16)]),  # nothing of the first answer fits
        (conversation((1, 2, False), (1, 2, False), (1, 2, True)), 8, "truncate", [(2, 5, 11)]),
        (conversation((1, 2, True), (9, 2, True), (1, 2, True)), 6, "split", [(0, 0, 5), (2, 16, 19)]),
        (conversation((1, 2, True), (1, 9, True), (1, 2, True)), 6, "split", [(0, 0, 5), (2, 5, 9), (2, 15, 18)]),
        (conversation((1, 2, True), (1, 2, True), alone=False), 7, "split", [(0, 0, 5)]),
        (conversation((1, 2, False), (1, 4, True), alone=False), 8, "truncate", [(0, 0, 8)]),
        (conversation((1, 2, True), (1, 2, True), head=6), 6, "split", []),
        (text(10), 4, "drop", [(0, 0, 4), (0, 4, 8), (0, 8, 10)]),
        (text(9), 4, "truncate", [(0, 0, 4), (0, 4, 8)]),  # nothing predicts the last token
    ],
)
def test_hand_made_cases(sample: Encoded, length: int, over_long: str, pieces: list[tuple]) -> None:
    assert [tuple(piece) for piece in fit(sample, length, over_long).pieces] == pieces


SIZES = st.tuples(st.integers(1, 6), st.integers(1, 6), st.booleans())
CONVERSATIONS = st.builds(
    lambda exchanges, head, alone: conversation(*exchanges, head=head, alone=alone),
    st.lists(SIZES, min_size=1, max_size=6),
    st.integers(0, 4),
    st.booleans(),
)


@given(CONVERSATIONS | st.builds(text, st.integers(2, 40)), st.integers(2, 20), st.sampled_from(["truncate", "split"]))
def test_pieces_keep_what_they_promise(sample: Encoded, length: int, over_long: str) -> None:
    assume(sample.supervised.any())
    fitted = fit(sample, length, over_long)
    assert bool(fitted.dropped) == (not fitted.pieces)
    ids, mask = sample.input_ids.tolist(), sample.supervised.tolist()
    head = [id for id in ids if id // 1000 == HEAD]
    covered = [place for piece in fitted.pieces for place in range(piece.start, piece.stop)]
    assert len(covered) == len(set(covered))  # no token is in two pieces, the system prompt apart
    for piece, found in zip(fitted.pieces, tokens(sample, fitted.pieces), strict=True):
        assert 1 < len(found) <= length
        places = [*range(piece.head), *range(piece.start, piece.stop)]
        assert any(mask[place] for place in places[1:])
        if len(sample.borders):
            assert found[: len(head)] == head[:length]
            inside = exchanges_of(found)
            whole = [id for id in ids if id // 1000 != HEAD and id % 1000 in inside]
            assert found[len(head) :] == whole[: len(found) - len(head)]
            if len(found) < len(head) + len(whole):  # an exchange is cut only alone, or where none can stand alone
                assert len(inside) == 1 or sample.borders[0] < 0
    if fitted.pieces:
        assert fitted.counts["lost_tokens"] == len(ids) - len(covered)
        assert fitted.counts["truncated"] == (len(covered) < len(ids))
        assert fitted.counts["split"] == (len(fitted.pieces) > 1)
    if over_long == "split" and len(sample.borders) and sample.borders[0] >= 0:
        for start, end in itertools.pairwise(sample.borders):  # every supervised exchange that fits is in a piece
            if any(mask[start:end]) and len(head) + end - start <= length:
                assert set(range(start, end)) <= set(covered)
    if over_long == "truncate" and len(sample.borders):
        assert len(fitted.pieces) <= 1


@given(st.lists(CONVERSATIONS | st.builds(text, st.integers(2, 40)), max_size=8), st.integers(2, 20))
def test_all_samples_at_once_are_as_one_by_one(samples: list[Encoded], length: int) -> None:
    samples = [sample for sample in samples if sample.supervised.any()]
    pieces, counts, dropped = fit_all(InMemory(samples), length, "split")
    fitted = [fit(sample, length, "split") for sample in samples]
    expected = [(place, *piece) for place, one in enumerate(fitted) for piece in one.pieces]
    assert list(zip(*(array.tolist() for array in pieces), strict=True)) == expected
    assert counts.total() == sum(one.counts.total() for one in fitted)
    assert dropped.total() == sum(not one.pieces for one in fitted)
    for sample, one in zip(samples, fitted, strict=True):
        made = [cut(sample, piece) for piece in one.pieces]
        assert [piece.input_ids.tolist() for piece in made] == tokens(sample, one.pieces)
        for cut_out, (head, start, stop) in zip(made, one.pieces, strict=True):
            mask = [*sample.supervised[:head], *sample.supervised[start:stop]]
            assert cut_out.supervised.tolist() == [False, *mask[1:]]
