import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mftcoder import __version__, cli
from mftcoder.config import load

ROOT = Path(__file__).parents[1]


def python(*argv, **options):
    return subprocess.run([sys.executable, *argv], capture_output=True, text=True, cwd=ROOT, **options)


@pytest.fixture
def project(base_model, tmp_path):
    """A config with two small tasks, and its folder."""
    (tmp_path / "chat.jsonl").write_text(
        "".join(json.dumps({"prompt": f"{n} + {n}?", "completion": f"It is {2 * n}."}) + "\n" for n in range(40))
    )
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": f"def f{n}(): ..."}) + "\n" for n in range(40)))
    config = {
        "output_dir": str(tmp_path / "run"),
        "model": {"path": str(base_model)},
        "data": {
            "shards": str(tmp_path / "shards"),
            "sequence_length": 64,
            "tasks": [{"name": name, "path": str(tmp_path / f"{name}.jsonl")} for name in ("chat", "text")],
        },
        "training": {"per_device_train_batch_size": 2},
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    return path


def test_the_package_runs_as_a_module():
    ran = python("-m", "mftcoder", "--version")
    assert (ran.returncode, ran.stdout) == (0, f"mftcoder {__version__}\n")


@pytest.mark.parametrize("option", ["--local_rank=1", "--local-rank=1"])
def test_the_rank_that_launchers_put_first_is_taken(option, capsys):
    assert cli.main([option, "schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "Config"


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_explains_itself_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert "example:\n" in shown
    assert command in shown.split("example:\n")[1]


def test_the_parser_knows_exactly_the_commands(capsys):
    with pytest.raises(SystemExit):
        cli.main(["nonsense"])
    listed = capsys.readouterr().err.split("choose from")[1]
    assert {word.strip("' ()\n") for word in listed.split(",")} == set(cli.COMMANDS)


def test_tokenize_inspect_validate(project, capsys):
    assert cli.main(["tokenize", str(project), "--json"]) == 0
    manifest = json.loads(capsys.readouterr().out)
    assert [task["name"] for task in manifest["tasks"]] == ["chat", "text"]

    assert cli.main(["tokenize", str(project)]) == 0
    again = capsys.readouterr()
    assert "exist already" in again.err
    assert "chat" in again.out

    shards = str(project.parent / "shards")
    assert cli.main(["inspect", shards, "--task", "chat", "--limit", "1"]) == 0
    assert "«It is " in capsys.readouterr().out
    assert cli.main(["inspect", shards, "--task", "chat", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    answers = [
        part["text"] for row in rows for sample in row["samples"] for part in sample["stretches"] if part["supervised"]
    ]
    assert answers
    assert all(answer.startswith("It is ") for answer in answers)

    assert cli.main(["validate", str(project), "--world-size", "3", "--json"]) == 0
    checks = {check["name"]: check["finding"] for check in json.loads(capsys.readouterr().out)}
    rows = sum(task["splits"]["train"]["rows"] for task in manifest["tasks"])
    assert f"{rows} rows, {-(-rows // 6)} steps per epoch" in checks["shards"]  # 2 rows on each of 3 ranks
    assert checks["batch"].startswith("6 rows of at most 64 tokens per step")

    assert cli.main(["validate", str(project), "--set", "data.sequence_length=32"]) == 2
    assert "problem  shards" in capsys.readouterr().out

    profile = 'logging.profile={"steps": [1, 2], "ranks": [2]}'
    assert cli.main(["validate", str(project), "--set", profile, "--world-size", "3"]) == 0
    assert cli.main(["validate", str(project), "--set", profile, "--world-size", "2"]) == 2
    assert "problem  logging    logging.profile.ranks" in capsys.readouterr().out


def test_env_needs_no_torch():
    code = "import sys; sys.modules['torch'] = None; from mftcoder.cli import main; sys.exit(main(['env', '--json']))"
    ran = python("-c", code)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["cuda"] == []
    assert found["versions"]["mftcoder"] == __version__
    assert found["memory_gib"] > 0


def test_env_lists_versions(capsys):
    assert cli.main(["env"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["mftcoder"] == __version__
    assert lines["python"] == ".".join(map(str, sys.version_info[:3]))


def test_import_config_writes_what_load_reads(tmp_path, capsys):
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(json.dumps({"data_paths": "[a, b]", "output_dir": "o", "pretrained_model_path": "m", "seed": 3}))
    assert cli.main(["import-config", str(old)]) == 0
    shown = capsys.readouterr()
    assert cli.main(["import-config", str(old), "--to", str(new)]) == 0
    assert json.loads(shown.out) == json.loads(new.read_text())
    assert load(new).seed == 3
    assert "seed: seed." in shown.err


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_is_a_script_of_its_shell(shell, capsys):
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(command in script for command in cli.COMMANDS)
    if shutil.which(shell):
        assert subprocess.run([shell, "-n"], input=script, text=True).returncode == 0


def test_a_reader_that_stops_early_is_no_error():
    code = "import sys; from mftcoder.cli import main; sys.exit(main(['schema']))"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    ) as running:
        running.stdout.close()
        assert running.stderr.read() == b""
