"""No input breaks anything: it is taken, or refused with a message, and nothing is written, run or asked for elsewhere.

Here is a fixed share of the inputs; ``tools/fuzz.py`` runs as many as one likes.
"""

import os
import pickle
import shutil
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import Drawn
from oracle import HarmError, StuckError, refused, watched
from targets import SHARES, TARGETS

from mftcoder.errors import MftcoderError

INPUTS = 2000  # of all targets together
LONG = 20_000


def inputs(name: str, total: int) -> range:
    """The seeds of a target's share."""
    return range(total * SHARES[name] // sum(SHARES.values()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz").resolve()


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.engine] * (n == "deepspeed")) for n in TARGETS])
def test_every_input_is_taken_or_refused(name: str, folder: Path) -> None:
    run = TARGETS[name](folder)
    outcomes = [refused(run, Random(seed), folder) for seed in inputs(name, INPUTS)]
    assert outcomes.count(None) or name == "templates", "no input was valid: the target tests nothing"
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.mark.long
@pytest.mark.engine
@pytest.mark.parametrize("name", list(TARGETS))
def test_many_inputs_are_taken_or_refused(name: str, folder: Path) -> None:
    run = TARGETS[name](folder)
    for seed in inputs(name, LONG):
        refused(run, Random(seed + 10**6), folder)
    shutil.rmtree(folder)
    folder.mkdir()


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(data=st.binary(min_size=100, max_size=4000))
def test_configs_as_hypothesis_draws_and_shrinks_them(data: bytes, folder: Path) -> None:
    refused(TARGETS["configs"](folder), Drawn(data), folder)


def test_the_oracle_sees_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(_: Random) -> None:
        os.symlink("/etc", tmp_path / "inside" / "link")
        (tmp_path / "inside" / "link" / "written").write_text("")

    def load(_: Random) -> None:
        pickle.loads(pickle.dumps(Path("x")))

    def hide(_: Random) -> None:
        try:
            while True:
                pass
        except Exception:
            pass

    def write(_: Random) -> None:
        (tmp_path / "outside").write_text("")

    def remove(_: Random) -> None:
        shutil.rmtree(tmp_path / "inside" / ".." / "more")

    (tmp_path / "inside").mkdir()
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "file").touch()
    for harm in (write, remove, load):
        with pytest.raises(HarmError):
            refused(harm, Random(0), tmp_path / "inside")
    with pytest.raises((HarmError, OSError)):
        refused(link, Random(0), tmp_path / "inside")
    monkeypatch.setattr("oracle.SECONDS", 0.2)
    with pytest.raises(StuckError):
        refused(hide, Random(0), tmp_path / "inside")
    with watched(tmp_path / "inside"):
        (tmp_path / "inside" / "file").write_text("")

    def silent(_: Random) -> None:
        raise MftcoderError(" ")

    with pytest.raises(HarmError):
        refused(silent, Random(0), tmp_path / "inside")
