"""What a user can get wrong ends with exit code 2 and a message that says where, what was found, and the remedy."""

import json
import shutil
from pathlib import Path

import pytest
from tiny import VOCABULARY, tiny_tokenizer
from tokenizers import normalizers

from mftcoder import cli
from mftcoder.errors import MftcoderError, ReportedByMain, RunError

GOOD = {"output_dir": "runs/x", "model": {"path": "m"}, "data": {"tasks": [{"name": "a", "path": "a.jsonl"}]}}


@pytest.fixture
def fails(capsys):
    """Run the command line, which must end with exit code 2; gives its message."""

    def run(*argv):
        assert cli.main([str(part) for part in argv]) == 2
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err.startswith(f"mftcoder {argv[0]}: ")
        assert "Traceback" not in output.err
        return output.err

    return run


@pytest.fixture
def config(tmp_path):
    def write(**changes):
        path = tmp_path / "config.json"
        path.write_text(json.dumps(GOOD | changes), encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize("command", ["tokenize", "validate", "train"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"lerning_rate": 1}}, 'training.lerning_rate: unknown key; did you mean "learning_rate"?'),
        ({"seed": "one"}, 'seed: must be an integer; found "one".'),
        ({"training": {"learning_rate": -1}}, "training.learning_rate: must be greater than 0; found -1."),
        ({"model": {}}, "model.path: missing. Folder or hub id of the base model"),
        ({"training": {"eval_strategy": "steps"}}, "training.eval_steps: missing."),
        ({"loss": {"weighting": {"type": "given", "weights": {"b": 1}}}}, 'loss.weighting.weights: ["a"] have none.'),
    ],
)
def test_a_wrong_config(fails, config, command, changes, message):
    path = config(**changes)
    assert f"{path}: {message}" in fails(command, path)


@pytest.mark.parametrize("command", ["tokenize", "validate", "train"])
def test_a_config_that_is_absent_empty_or_broken(fails, tmp_path, command):
    path = tmp_path / "config.json"
    assert f"{path}: no such file" in fails(command, path)
    path.write_text("")
    assert f"{path}: the file is empty" in fails(command, path)
    path.write_text("{\n  oops\n}")
    assert f"{path}:2:3: broken JSON" in fails(command, path)


def test_a_wrong_override(fails, config):
    assert "--set seed: must be KEY=VALUE" in fails("train", config(), "--set", "seed")
    assert "seed: must be at least 0; found -1." in fails("train", config(), "--set", "seed=-1")


def test_folders_and_files_that_are_not_there(fails, tmp_path):
    absent = tmp_path / "absent"
    for argv in (
        ["inspect", absent],
        ["report", absent],
        ["compare", absent, absent],
        ["import-config", absent],
        ["generate", "m", "--messages", absent],
    ):
        assert str(absent) in fails(*argv)


def test_messages_without_messages(fails, tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "hi"}]}\n{"prompt": "x"}\n')
    assert f"{path}:2: " in fails("generate", "m", "--messages", path)
    assert "--raw" in fails("generate", "m", "--messages", path, "--raw")


def test_a_message_of_no_known_role_is_named_by_its_line(fails, tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"messages": [{"role": "moderator", "content": "hi"}]}\n')
    assert f"{path}:1: messages[0].role must be system, user" in fails("generate", "m", "--messages", path)


@pytest.mark.parametrize("options", [[], ["--raw"]])
def test_an_empty_prompt(fails, options):
    assert "--prompt: is empty" in fails("generate", "m", "--prompt", "", *options)


def test_a_prompt_that_is_not_utf_8(fails):
    assert "--prompt: is not UTF-8 text" in fails("generate", "m", "--prompt", "\udcff")


def test_a_prompt_that_the_chat_template_or_the_tokenizer_has_nothing_for(fails, base_model, tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("~", "")
    shutil.copytree(base_model, tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    assert "the chat template refuses" in fails("generate", tmp_path / "model", "--prompt", "hi")
    assert 'the prompt "~~" holds no token' in fails("generate", tmp_path / "model", "--prompt", "~~", "--raw")


def test_shards_that_are_a_file(fails, config, base_model, tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n')
    path = config(
        model={"path": str(base_model)},
        data={"shards": str(tmp_path / "a.jsonl"), "tasks": [{"name": "a", "path": str(tmp_path / "a.jsonl")}]},
    )
    for options in ([], ["--overwrite"]):
        assert f"{tmp_path / 'a.jsonl'}: is no folder" in fails("tokenize", path, *options)
    assert f"{tmp_path / 'a.jsonl'}: is a file" in fails("inspect", tmp_path / "a.jsonl")
    assert cli.main(["validate", str(path)]) == 2
    assert f"{tmp_path / 'a.jsonl'}: is a file" in capsys.readouterr().out
    assert (tmp_path / "a.jsonl").read_text() == '{"text": "fine"}\n'


def test_a_file_that_cannot_be_written(tmp_path, capsys):
    old = tmp_path / "old.json"
    old.write_text(json.dumps({"data_paths": "a", "output_dir": "o", "pretrained_model_path": "m", "peft_type": None}))
    to = tmp_path / "absent" / "new.json"
    assert cli.main(["import-config", str(old), "--to", str(to)]) == 2
    assert f"{to}: cannot be written: No such file or directory." in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["trian"],
        ["train"],
        ["train", "c.json", "--nope"],
        ["validate", "c.json", "--world-size", "0"],
        ["compare"],
        ["inspect", "s", "--limit", "0"],
        ["inspect", "s", "--limit", "-1"],
        ["inspect", "s", "--row", "-1"],
        ["inspect", "s", "--row", "1", "--sample", "1"],
        ["inspect", "s", "--longest", "--shortest"],
        ["inspect", "s", "--html", "f", "--json"],
        ["generate", "m", "--temperature", "-0.1"],
        ["generate", "m", "--temperature", "inf"],
        ["generate", "m", "--temperature", "nan"],
        ["generate", "m", "--temperature", "warm"],
        ["generate", "m", "--top-p", "0"],
        ["generate", "m", "--top-p", "1.01"],
        ["generate", "m", "--seed", "-1"],
        ["generate", "m", "--seed", str(2**32)],
        ["generate", "m", "--max-new-tokens", "0"],
    ],
)
def test_wrong_arguments(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(argv)
    assert caught.value.code == 2
    assert "usage: mftcoder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "printed"),
    [
        (MftcoderError("a"), 2, "mftcoder env: a\n"),
        (RunError("b"), 1, "mftcoder env: b\n"),
        (ReportedByMain(RunError("c")), 1, ""),
        (KeyboardInterrupt(), 130, "mftcoder env: interrupted\n"),
    ],
)
def test_every_kind_of_end_has_its_exit_code(monkeypatch, capsys, error, code, printed):
    def end(arguments):
        raise error

    monkeypatch.setitem(cli.COMMANDS, "env", cli.COMMANDS["env"]._replace(run=end))
    assert cli.main(["env"]) == code
    assert capsys.readouterr().err == printed


def test_our_own_faults_are_not_hidden(monkeypatch):
    def end(arguments):
        raise ZeroDivisionError

    monkeypatch.setitem(cli.COMMANDS, "env", cli.COMMANDS["env"]._replace(run=end))
    with pytest.raises(ZeroDivisionError):
        cli.main(["env"])


def test_validate_lists_every_problem_at_once(base_model, tmp_path, capsys):
    (tmp_path / "good.jsonl").write_text('{"text": "fine"}\n')
    (tmp_path / "broken.jsonl").write_text("{\n")
    path = tmp_path / "config.json"
    tasks = [{"name": name, "path": str(tmp_path / f"{name}.jsonl")} for name in ("good", "broken", "absent")]
    path.write_text(
        json.dumps(
            {
                "output_dir": str(tmp_path / "run"),
                "model": {"path": str(base_model)},
                "data": {"sequence_length": 100_000, "tasks": tasks},
                "deepspeed": {"gradient_clipping": 0.5},
            }
        )
    )
    assert cli.main(["validate", str(path), "--json"]) == 2
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    assert [name for name, check in checks.items() if not check["ok"]] == ["model", "deepspeed", "tasks"]
    assert "found 100000" in checks["model"]["finding"]
    assert "gradient_clipping is 0.5, but training.max_grad_norm is 1" in checks["deepspeed"]["finding"]
    assert "broken.jsonl:1" in checks["tasks"]["finding"]
    assert str(tmp_path / "absent.jsonl") in checks["tasks"]["finding"]


def test_validate_names_what_deepspeed_would_refuse_or_ignore(base_model, config, tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n')
    wrong = {
        "zero_optimization": {"stage": 2, "overlap_com": True, "offload_optimizer": {"device": "gpu"}},
        "bf16": {"on": True},
    }
    path = config(model={"path": str(base_model)}, data=GOOD["data"], deepspeed=wrong)
    assert cli.main(["validate", str(path), "--world-size", "8", "--json"]) == 2
    found = {check["name"]: check["finding"] for check in json.loads(capsys.readouterr().out)}["deepspeed"]
    assert "deepspeed: zero_optimization.overlap_com: unknown key; found true." in found
    assert "deepspeed: zero_optimization.offload_optimizer.device: " in found
    assert "deepspeed: bf16.on: unknown key; found true." in found
    path = config(model={"path": str(base_model)}, data=GOOD["data"], deepspeed={"gradient_cliping": 1.0})
    assert cli.main(["validate", str(path), "--json"]) == 2
    found = {check["name"]: check["finding"] for check in json.loads(capsys.readouterr().out)}["deepspeed"]
    assert found == 'deepspeed: gradient_cliping: unknown key; did you mean "gradient_clipping"?'


def test_every_deepspeed_config_that_comes_along_passes_validation(base_model, config, capsys):
    for file in sorted((Path(__file__).parents[1] / "configs" / "deepspeed").glob("*.json")):
        path = config(model={"path": str(base_model)}, deepspeed=str(file))
        cli.main(["validate", str(path), "--world-size", "4", "--json"])
        check = {check["name"]: check for check in json.loads(capsys.readouterr().out)}["deepspeed"]
        assert check["ok"], check


def test_validate_names_token_ids_that_the_model_has_no_embedding_for(base_model, config, tmp_path, capsys):
    shutil.copytree(base_model, tmp_path / "model")
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([f"<{number}>" for number in range(20)])
    tokenizer.save_pretrained(tmp_path / "model")
    highest = len(tokenizer) - 1
    assert cli.main(["validate", str(config(model={"path": str(tmp_path / "model")})), "--json"]) == 2
    found = {check["name"]: check["finding"] for check in json.loads(capsys.readouterr().out)}["tokenizer"]
    assert f'"<19>" has the id {highest}, but the model embeds only ids below {VOCABULARY}' in found


def test_validate_notes_sources_that_changed_after_tokenizing(base_model, config, tmp_path, capsys):
    tasks = [{"name": name, "path": str(tmp_path / name)} for name in ("grown", "more", "same", "gone")]
    for task in tasks:
        Path(task["path"]).mkdir()
        (Path(task["path"]) / "a.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    data = {"shards": str(tmp_path / "shards"), "sequence_length": 64, "tasks": tasks}
    path = str(config(model={"path": str(base_model)}, data=data))
    assert cli.main(["tokenize", path]) == 0
    assert cli.main(["validate", path]) == 0
    assert "changed" not in capsys.readouterr().out
    with (tmp_path / "grown" / "a.jsonl").open("a") as file:
        file.write('{"text": "three"}\n')
    (tmp_path / "more" / "b.jsonl").write_text('{"text": "four"}\n')
    (tmp_path / "gone" / "a.jsonl").unlink()
    cli.main(["validate", path, "--json"])
    check = {check["name"]: check for check in json.loads(capsys.readouterr().out)}["shards"]
    assert check["ok"]
    assert '"grown" (made from 1 file of 32 bytes, now 1 file of 50 bytes)' in check["finding"]
    assert '"more" (made from 1 file of 32 bytes, now 2 files of 49 bytes)' in check["finding"]
    assert "same" not in check["finding"]
    assert "gone" not in check["finding"]


def test_validate_writes_nothing(base_model, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n')
    path = tmp_path / "config.json"
    task = {"name": "a", "path": str(tmp_path / "a.jsonl")}
    data = {"sequence_length": 64, "tasks": [task]}
    path.write_text(json.dumps({"output_dir": str(tmp_path / "run"), "model": {"path": str(base_model)}, "data": data}))
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["validate", str(path)]) == 0
    assert sorted(tmp_path.rglob("*")) == before
