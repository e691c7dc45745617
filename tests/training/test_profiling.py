"""Which steps lie in a trace."""

import gzip
import json

import pytest
import torch

from mftcoder.config.schema import Profile
from mftcoder.distributed import Group
from mftcoder.errors import MftcoderError
from mftcoder.training.profiling import Profiling, check_ranks


def names_in(path) -> set[str]:
    return {event.get("name") for event in json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]}


def run(profiling: Profiling, first: int, last: int) -> None:
    profiling.follow(first - 1)
    for step in range(first, last + 1):
        with torch.profiler.record_function(f"step {step}"):
            torch.ones(8).sum()
        profiling.follow(step)
    profiling.close()


@pytest.mark.parametrize(
    ("first", "last", "file", "recorded"),
    [
        (1, 6, "from-step-3-rank-0.json.gz", {3, 4}),
        (4, 6, "from-step-4-rank-0.json.gz", {4}),  # resumed in their middle
        (1, 3, "from-step-3-rank-0.json.gz", {3}),  # ended in their middle
    ],
)
def test_the_trace_holds_the_steps_that_were_asked_for(tmp_path, first, last, file, recorded):
    told = []
    run(Profiling(Profile(steps=[3, 4]), tmp_path, Group(), told.append), first, last)
    assert {name for name in names_in(tmp_path / "profile" / file) if name and name.startswith("step ")} == {
        f"step {step}" for step in recorded
    }
    assert len(told) == 1
    assert file in told[0]


@pytest.mark.parametrize("settings", [None, Profile(steps=[3, 4], ranks=[1]), Profile(steps=[8, 9])])
def test_what_is_not_asked_for_is_not_recorded(tmp_path, settings):
    run(Profiling(settings, tmp_path, Group(size=2), pytest.fail), 1, 6)
    assert not (tmp_path / "profile").exists()


def test_a_rank_that_there_is_not_is_an_error():
    check_ranks(Profile(steps=[1, 2], ranks=[0, 3]), 4)
    with pytest.raises(MftcoderError, match=r"must be below 2.*found 3"):
        check_ranks(Profile(steps=[1, 2], ranks=[0, 3]), 2)
