"""No secret stands in any file that a run leaves behind, nor in what it says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from data_targets import project

from mftcoder import cli

SECRETS = {
    "HF_TOKEN": "hf_plantedPlantedPlantedPlanted",
    "HUGGING_FACE_HUB_TOKEN": "hf_secondSecondSecondSecond",
    "OPENAI_API_KEY": "sk-plantedPlantedPlantedPlanted",
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "AWS_ACCESS_KEY_ID": "AKIAPLANTEDPLANTEDPL",
    "AWS_SECRET_ACCESS_KEY": "wJalrXPlantedPlantedPlantedPlantedEXAMPLE",
}


def leaked(text: bytes) -> list[str]:
    return [name for name, secret in SECRETS.items() if secret.encode() in text]


@pytest.mark.engine
def test_no_file_of_a_run_and_nothing_it_says_holds_a_secret_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    project(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["training"] = {"max_steps": 2, "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    config["training"] |= {"per_device_train_batch_size": 2}
    config["model"]["dtype"] = "float32"
    config["logging"] = {"report_to": ["tensorboard", "wandb", "trackio"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    run = config["output_dir"]
    train = [sys.executable, "-m", "mftcoder", "train", "config.json"]  # a process joins a process group only once
    offline = {"WANDB_MODE": "offline", "TRACKIO_DIR": str(tmp_path / "trackio")}
    done = subprocess.run(train, cwd=tmp_path, env=os.environ | SECRETS | offline, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert not leaked(done.stdout + done.stderr)
    monkeypatch.chdir(tmp_path)
    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)
    for argv, code in (
        (["validate", "config.json"], 0),
        (["validate", "config.json", "--set", "model.path=nowhere"], 2),
        (["export", run, "--to", "exported"], 0),
        (["evaluate", "exported", "--shards", "shards", "--output", "evaluation.json"], 0),
        (["report", run, "--to", "report.html"], 0),
        (["env", "--json"], 0),
    ):
        assert cli.main(argv) == code
        said = capfd.readouterr()
        assert not leaked((said.out + said.err).encode()), argv
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {"config.json", "metrics.jsonl", "checkpoint.json", "report.html", "evaluation.json"} <= {
        f.name for f in files
    }
    assert any("tfevents" in file.name for file in files)
    assert any(file.suffix == ".wandb" for file in files)
    assert any("trackio" in file.parts and file.suffix == ".db" for file in files)
    assert not {str(file): found for file in files if (found := leaked(file.read_bytes()))}
    assert leaked(SECRETS["HF_TOKEN"].encode())  # it would have been found


URLS = [
    "s3://key:s3cr3t@bucket/a.jsonl",
    "https://s3cr3t@huggingface.co/x",
    "ftp://:s3cr3t@host/x",
    "zip://a::http://u:s3cr3t@h/z",
]


@pytest.mark.parametrize("url", URLS)
def test_a_config_that_holds_a_password_is_refused_without_repeating_it(tmp_path, capsys, url):
    file = tmp_path / "config.json"
    good = {"output_dir": "o", "model": {"path": "m"}, "data": {"tasks": [{"name": "a", "path": "a.jsonl"}]}}
    for config in (
        good | {"output_dir": url},
        good | {"deepspeed": {"x": [{"y": url}]}},
        {"endpoint": {"base_url": url}},
    ):
        file.write_text(json.dumps(config))
        for argv in (["validate"], ["import-config"], ["construct", "run"]):
            assert cli.main([*argv, str(file)]) == 2
            said = capsys.readouterr()
            assert "holds a URL with a password or token" in said.err
            assert "s3cr3t" not in said.err + said.out
    file.write_text(json.dumps(good))
    assert cli.main(["validate", str(file), "--set", f"data.tasks.0.path={url}"]) == 2
    assert "s3cr3t" not in capsys.readouterr().err


COMMANDS = [
    ["validate", "URL"],
    ["tokenize", "URL"],
    ["inspect", "URL"],
    ["train", "URL"],
    ["generate", "URL", "--prompt", "x"],
    ["generate", "m", "--held-out", "URL"],
    ["chat", "URL"],
    ["serve", "URL"],
    ["evaluate", "URL", "--shards", "s"],
    ["evaluate", "m", "--shards", "URL"],
    ["evaluate", "m", "--benchmark", "URL"],
    ["evaluate", "m", "--shards", "s", "--against", "URL"],
    ["export", "URL", "--to", "x"],
    ["export", "x", "--to", "URL"],
    ["report", "URL"],
    ["compare", "URL", "x"],
    ["simulate", "--weighting", "{}", "--losses", "URL"],
    ["import-config", "URL"],
    ["construct", "run", "URL"],
    ["construct", "verify", "URL"],
    ["construct", "from-source", "URL"],
]


@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
def test_a_url_with_a_password_that_is_given_on_the_command_line_is_refused_without_repeating_it(
    tmp_path, monkeypatch, capsys, argv
):
    monkeypatch.chdir(tmp_path)
    try:
        code = cli.main([URLS[1] if argument == "URL" else argument for argument in argv])
    except SystemExit as error:  # argparse found it
        code = error.code
    said = capsys.readouterr()
    assert code == 2
    assert "URL" in said.err
    assert "s3cr3t" not in said.err + said.out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "url", ["s3://bucket/a:b/x@y.jsonl", "http://127.0.0.1:8000/v1", "sftp://user@host/x", "hf://datasets/a/b@c"]
)
def test_a_url_without_one_is_none_of_these(tmp_path, capsys, url):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"output_dir": url}))
    assert cli.main(["validate", str(file)]) == 2
    assert "password" not in capsys.readouterr().err
