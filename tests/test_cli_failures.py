"""What lies outside the program: a disk that is full, a folder that cannot be, libraries that talk too much."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mftcoder import cli

MFTCODER = [sys.executable, "-m", "mftcoder"]
FULL_DISK = Path("/dev/full")


def without(variable: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != variable}


@pytest.fixture
def project(base_model, tmp_path):
    """A config with one task and no shards yet."""
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    config = {
        "output_dir": str(tmp_path / "run"),
        "model": {"path": str(base_model)},
        "data": {"sequence_length": 64, "tasks": [{"name": "a", "path": str(tmp_path / "a.jsonl")}]},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def test_a_folder_below_a_file_ends_with_1_and_its_path(project, capsys):
    argv = ["tokenize", str(project / "config.json"), "--set", f"data.shards={project / 'a.jsonl' / 'shards'}"]
    assert cli.main(argv) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"mftcoder tokenize: {project / 'a.jsonl' / 'shards'}.lock: Not a directory"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_to_write_ends_with_1_and_its_path(project, capsys):
    locked = project / "locked"
    locked.mkdir()
    locked.chmod(0o500)
    assert cli.main(["tokenize", str(project / "config.json"), "--set", f"data.shards={locked / 'shards'}"]) == 1
    assert f"{locked / 'shards'}.lock: Permission denied" in capsys.readouterr().err


@pytest.mark.skipif(not FULL_DISK.exists() or not stat.S_ISCHR(FULL_DISK.stat().st_mode), reason="no /dev/full")
@pytest.mark.parametrize("command", ["schema", "env"])  # more and less than Python keeps in its buffer
def test_an_output_that_is_full_ends_with_1_and_one_line(command):
    with FULL_DISK.open("w") as full:
        ran = subprocess.run(
            [*MFTCODER, command], stdout=full, stderr=subprocess.PIPE, text=True, env=without("PYTHONUNBUFFERED")
        )
    assert (ran.returncode, ran.stderr) == (1, f"mftcoder {command}: No space left on device\n")


@pytest.mark.engine
def test_libraries_are_loaded_without_a_word():
    code = """
import warnings
from mftcoder.cli import main
main(["completion", "bash"])
print("libraries:")
import deepspeed, transformers
from deepspeed.accelerator import get_accelerator
get_accelerator()
warnings.warn("`gradient_checkpointing_enable` is deprecated", FutureWarning)
from bitsandbytes.backends.cpu import ops
ops.logger.warning("Failed to load CPU gemm_4bit_forward")
"""
    pytest.importorskip("bitsandbytes")
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=without("DS_ACCELERATOR"))
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split("libraries:")[1].strip() == ""
    assert ran.stderr == ""
