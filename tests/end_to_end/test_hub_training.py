"""From the hub and back: base model and data by id and revision, and the result pushed when training ends."""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from end_to_end_project import ENVIRONMENT, MFTCODER, launcher
from hub_server import TOKEN, Fault, HubServer, hub
from tiny import tiny_llama, tiny_tokenizer

from mftcoder.config.load import load
from mftcoder.errors import MftcoderError
from mftcoder.training import pushing
from mftcoder.training.pushing import Pushing, check_push

pytestmark = pytest.mark.engine


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.long
def test_from_the_hub_and_back(write_config, tmp_path, project):
    with hub() as server:
        base, other = tiny_llama(), tiny_llama()
        other.model.embed_tokens.weight.data.mul_(2)
        for name, model in (("base", base), ("other", other)):
            model.save_pretrained(tmp_path / name)
            tiny_tokenizer().save_pretrained(tmp_path / name)
            (tmp_path / name / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
        right, wrong = server.add("model", "org/base", contents(tmp_path / "base"), contents(tmp_path / "other"))
        server.repositories["model", "org/base"].branches["v1"] = right
        records = (Path(project["data"]["shards"]).parent / "add.jsonl").read_bytes()
        (data,) = server.add("dataset", "org/sums", {"train.jsonl": records})

        config = write_config(
            "run",
            model={"path": "org/base", "revision": "v1", "dtype": "float32", "lora": {"rank": 4}},
            data__tasks=[{"name": "add", "dataset": {"path": "org/sums"}}],
            data__shards=str(tmp_path / "shards"),
            training__max_steps=4,
            training__gradient_accumulation_steps=1,
            export={"push_to": "org/tuned", "push_every": "end", "limitations": "Adds badly."},
        )
        done = run_command(server, tmp_path, "tokenize", config)
        assert done.returncode == 0, done.stderr
        server.faults = [Fault("POST /api/models/org/tuned/commit", 403, times=1)]
        done = run_command(server, tmp_path, "train", config, ranks=2)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "answered 403" in done.stderr
        info = json.loads((tmp_path / "run" / "run.json").read_text())
        assert info["model"]["commit"] == right
        assert info["data"]["commits"] == {"add": data}
        assert list((tmp_path / "run" / "checkpoints").glob("step-*/checkpoint.json"))  # nothing is lost

        # The branch moves: what was trained on it is still exported from where it started, as the check proves.
        server.repositories["model", "org/base"].branches["v1"] = wrong
        go_on = shlex.split(re.findall("To go on: (mftcoder export .*)", done.stderr)[-1])
        (pushed,) = (tmp_path / "run" / "exports").iterdir()
        assert go_on == ["mftcoder", "export", str(pushed), "--push", "org/tuned"]
        done = run_command(server, tmp_path, *go_on[1:])
        assert done.returncode == 0, done.stderr
        assert server.repositories["model", "org/tuned"].files() == contents(pushed)
        done = run_command(server, tmp_path, "export", tmp_path / "run", "--to", tmp_path / "again", "--adapter")
        assert done.returncode == 0, done.stderr
        card = (pushed / "README.md").read_text()
        for text in (
            "license: apache-2.0",
            "base_model: org/base",
            "base_model_relation: finetune",
            "- org/sums",
            right,
        ):
            assert text in card
        assert "Adds badly." in card
        assert "base_model_relation: adapter" in (tmp_path / "again" / "README.md").read_text()
        assert TOKEN.encode() not in b"".join(contents(tmp_path).values())


def run_command(server: HubServer, home: Path, *words: object, ranks: int = 1) -> subprocess.CompletedProcess[str]:
    settings = {"HF_ENDPOINT": server.url, "HF_HOME": str(home / "hf"), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN}
    program = MFTCODER if ranks == 1 else launcher(ranks)
    environment = ENVIRONMENT | settings | {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run([*program, *map(str, words)], capture_output=True, text=True, env=environment)
    assert TOKEN not in done.stdout + done.stderr
    return done


class TestPolicy:
    """Which checkpoints are pushed, with a program in the place of the export that does as it is told by files."""

    @pytest.fixture
    def run(self, write_config, tmp_path, monkeypatch) -> Path:
        """A run's folder. The program ends once the file STEP.end is there, with the exit code in it."""
        program = tmp_path / "program"
        program.write_text(
            "#!/bin/sh\n"
            "for word; do case $word in */pushing/*) step=${word##*/}; run=$word;; esac; done\n"
            f"ls $run/checkpoints >> {tmp_path}/began\n"
            f"while ! [ -s {tmp_path}/$step.end ]; do sleep 0.05; done\n"
            f"echo 'mftcoder export: as I was told'; exit $(cat {tmp_path}/$step.end)\n"
        )
        program.chmod(0o755)
        monkeypatch.setattr(pushing.sys, "executable", str(program))
        write_config("run", export={"push_to": "org/x", "push_every": "save"})
        (tmp_path / "run").mkdir()
        for name in pushing.FILES:
            (tmp_path / "run" / name).write_text("{}")
        return tmp_path / "run"

    def save(self, run: Path, step: int, best: int) -> None:
        folder = run / "checkpoints" / f"step-{step:06d}"
        folder.mkdir(parents=True)
        (folder / "checkpoint.json").write_text(json.dumps({"step": step, "best_step": best, "files": {}}))

    def end(self, run: Path, step: int, code: int) -> None:
        (run.parent / f"step-{step:06d}.end").write_text(str(code))

    def began(self, run: Path) -> list[str]:
        return (run.parent / "began").read_text().split()

    def test_the_newest_of_those_saved_meanwhile_comes_next_and_the_best_at_the_end(self, run):
        told: list[str] = []
        pushes = Pushing(load(run.parent / "run.json"), told.append)
        for step in (1, 2, 3):
            self.save(run, step, best=2)
            pushes.saved(step)
        os.rename(run / "checkpoints" / "step-000003", run / "elsewhere")  # deleted, as save_total_limit does
        self.end(run, 1, 0)
        self.end(run, 3, 0)
        self.end(run, 2, 0)
        os.rename(run / "elsewhere", run / "checkpoints" / "step-000003")
        pushes.ended()
        pushes.wait()
        assert self.began(run) in (
            ["step-000001", "step-000002"],
            ["step-000001", "step-000003", "step-000002"],
        )
        assert not (run / "pushing").exists()
        assert told[-1] == "pushed step-000002 to org/x"

    def test_only_the_last_push_decides(self, run):
        pushes = Pushing(load(run.parent / "run.json"), lambda _: None)
        self.save(run, 1, best=1)
        self.end(run, 1, 1)
        pushes.saved(1)
        pushes._process.wait()
        self.save(run, 2, best=2)
        self.end(run, 2, 0)
        pushes.saved(2)
        pushes.ended()
        pushes.wait()
        assert self.began(run) == ["step-000001", "step-000002"]

    def test_what_failed_is_tried_again_at_the_end_and_then_told(self, run):
        pushes = Pushing(load(run.parent / "run.json"), lambda _: None)
        self.save(run, 1, best=1)
        self.end(run, 1, 1)
        pushes.saved(1)
        pushes._process.wait()
        pushes.ended()
        command = rf"as I was told\nTo go on: mftcoder export {run} --to {run}/exports/step-000001 .* --push org/x"
        with pytest.raises(MftcoderError, match=command) as failed:
            pushes.wait()
        assert failed.value.exit_code == 1
        assert self.began(run) == ["step-000001", "step-000001"]

    def test_an_adapter_that_nobody_else_could_load_is_refused_before_training(self, run, tmp_path):
        config = load(run.parent / "run.json")
        export = config.export.model_copy(update={"adapter": True})
        with pytest.raises(MftcoderError, match="Name the hub id of which that is a copy"):
            check_push(config.model_copy(update={"export": export}))

    def test_without_a_token_training_does_not_begin(self, run, monkeypatch, tmp_path):
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
        with pytest.raises(MftcoderError, match="Set HF_TOKEN"):
            check_push(load(run.parent / "run.json"))
