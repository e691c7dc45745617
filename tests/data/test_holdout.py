import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mftcoder.data.holdout import Holdout, Split, divide, group_hash, hold_out, seeded

groups_strategy = st.lists(st.integers(0, 12), min_size=1, max_size=60)


def hashed(groups: list[int], seed: int = 0) -> np.ndarray:
    return seeded(np.array([group_hash(str(group)) for group in groups], np.uint64), seed)


def unnamed(groups: list[int], fraction: float) -> Holdout:
    return hold_out(hashed(groups), np.zeros(len(groups), np.bool_), fraction)


def named(groups: list[int], fraction: float) -> Holdout:
    return hold_out(hashed(groups), np.ones(len(groups), np.bool_), fraction)


def half_named(groups: list[int], fraction: float) -> Holdout:
    return hold_out(hashed(groups), np.array(groups) % 2 == 0, fraction)


@pytest.mark.parametrize("divide", [unnamed, named, half_named])
@given(groups_strategy, st.sampled_from([0.0, 0.05, 0.3, 0.9]))
def test_splits_are_whole_groups_and_hold_every_sample_once(divide, groups: list[int], fraction: float) -> None:
    members, shared = divide(groups, fraction)
    parts = [members[Split.TRAIN], members[Split.VALIDATION], *([] if shared else [members[Split.PROBE]])]
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(groups)))
    of_part = [{groups[i] for i in part} for part in parts]
    assert sum(map(len, of_part)) == len(set(groups))
    assert len(members[Split.TRAIN]) > 0
    assert (len(members[Split.VALIDATION]) > 0) == (fraction > 0 and len(set(groups)) > 1)
    assert (len(members[Split.PROBE]) > 0) == (len(members[Split.VALIDATION]) > 0)
    if shared:
        assert members[Split.PROBE].tolist() == members[Split.VALIDATION].tolist()


@pytest.mark.parametrize(
    ("num_samples", "fraction", "held", "probe"),
    [
        (100, 0.05, 5, 3),
        (100, 0.1, 10, 5),
        (9, 0.05, 1, 1),
        (2, 0.5, 1, 1),
        (3, 0.9, 2, 1),
        (1, 0.5, 0, 0),
        (50, 0.0, 0, 0),
    ],
)
def test_sizes_of_the_parts_for_samples_without_groups(
    num_samples: int, fraction: float, held: int, probe: int
) -> None:
    members, shared = unnamed(list(range(num_samples)), fraction)
    assert len(members[Split.TRAIN]) == num_samples - held
    assert len(members[Split.PROBE]) == probe
    assert len(members[Split.VALIDATION]) == (held if shared else held - probe)
    assert shared == (held == 1)


def test_held_out_samples_stay_held_out_when_samples_are_reordered_or_added() -> None:
    def held(groups: list[int]) -> set[int]:
        members, _ = unnamed(groups, 0.1)
        return {groups[i] for split in (Split.PROBE, Split.VALIDATION) for i in members[split]}

    before = held(list(range(1000)))
    assert held(list(range(999, -1, -1))) == before
    after = held(list(range(1100)))
    # Of 110 held out, those among the old 1000 are the lowest hashes of the old ones: all but a few of the same.
    assert len(before & after) >= 90
    assert len({group for group in after if group < 1000} - before) == 0 or len(before - after) == 0


def test_named_groups_are_held_out_alike_whatever_else_a_task_holds() -> None:
    def held(groups: list[int]) -> set[int]:
        members, _ = named(groups, 0.1)
        return {groups[i] for split in (Split.PROBE, Split.VALIDATION) for i in members[split]}

    everywhere = held(list(range(1000)))
    assert 70 <= len(everywhere) <= 130  # binomial: 100 ± 9.5
    sizes = np.random.default_rng(0).pareto(1, 700)  # a few groups are most of the task
    task = [group for group, size in zip(range(300, 1000), sizes, strict=True) for _ in range(1 + int(size))]
    assert held(task) == everywhere & set(task)


def test_the_hashes_never_change_and_depend_on_the_seed() -> None:
    assert group_hash("a") == 4681665781835383343
    assert seeded(np.array([0, group_hash("a")], np.uint64), 1).tolist() == [15916886550466581944, 16015091699921437339]
    hashes = np.random.default_rng(0).integers(0, 2**64, 1000, np.uint64)
    orders = [np.argsort(seeded(hashes, seed)) for seed in (1, 2)]
    assert abs(np.corrcoef(*orders)[0, 1]) < 0.15  # five standard errors


@pytest.mark.parametrize(
    ("num_samples", "number", "held"), [(100, 7, 7), (100, 1, 1), (100, 60, 50), (3, 2, 1), (2, 9, 1), (1, 1, 0)]
)
def test_a_number_of_samples_is_held_out_but_never_more_than_half(num_samples: int, number: int, held: int) -> None:
    members, shared = unnamed(list(range(num_samples)), number)
    assert len(members[Split.TRAIN]) == num_samples - held
    assert shared == (held == 1)


@given(groups_strategy, st.integers(1, 20), st.booleans())
def test_a_number_is_reached_with_whole_groups_of_the_lowest_hashes(
    groups: list[int], number: int, names: bool
) -> None:
    members, _ = hold_out(hashed(groups), np.full(len(groups), names), number)
    trained = {groups[i] for i in members[Split.TRAIN]}
    held = sorted(set(groups) - trained, key=lambda group: int(hashed([group])[0]))
    assert trained
    if not held:
        assert len(set(groups)) == 1
        return
    assert max(hashed(held)) < min(hashed(sorted(trained)))
    wanted = max(1, min(number, len(groups) // 2))
    assert sum(groups.count(group) for group in held[:-1]) < wanted
    assert len(trained) == 1 or sum(map(groups.count, held)) >= wanted


@given(groups_strategy, st.data())
def test_given_samples_are_held_out_as_they_are_in_two_parts_of_whole_groups(groups: list[int], data) -> None:
    held = np.array(data.draw(st.lists(st.booleans(), min_size=len(groups), max_size=len(groups))))
    members, shared = divide(hashed(groups), held)
    assert members[Split.TRAIN].tolist() == np.flatnonzero(~held).tolist()
    probe, validation = members[Split.PROBE].tolist(), members[Split.VALIDATION].tolist()
    assert sorted({*probe, *validation}) == np.flatnonzero(held).tolist()
    of_probe, of_validation = ({groups[i] for i in part} for part in (probe, validation))
    if shared:
        assert probe == validation
        assert len(of_probe) == 1
    else:
        assert not of_probe & of_validation
        assert bool(probe) == bool(validation) == bool(held.any())
