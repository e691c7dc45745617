"""A task of one sample beside larger ones: trained on, never lost, never watched."""

import json

import pytest

from mftcoder import cli
from mftcoder.config.load import load
from mftcoder.training.run import train

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("one_process_group")]


def test_it_trains_keeps_its_share_of_the_weight_and_is_in_every_report(project, write_config, tmp_path, capsys):
    record = {"prompt": "What is the only question?", "answer": "This one."}
    (tmp_path / "one.jsonl").write_text(json.dumps(record) + "\n")
    config = load(
        write_config(
            "run",
            data__shards=str(tmp_path / "shards"),
            data__tasks=[*project["data"]["tasks"], {"name": "one", "path": str(tmp_path / "one.jsonl")}],
            data__sampling={"type": "temperature", "temperature": 4.0},
            training__max_steps=12,
            logging={"logging_steps": 1, "report_to": []},
        )
    )
    train(config)
    out = capsys.readouterr().out
    assert "one: no validation: there is only one group of samples" in out
    assert "one –" in out
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    looks = [line for line in lines if line["kind"] == "probe"]
    assert looks
    assert all(line["weights"]["one"] == pytest.approx(0.25, abs=1e-12) for line in looks)
    assert all(line["losses"]["one"] is None for line in looks)
    assert len({round(line["weights"]["add"], 12) for line in looks}) > 1  # the others' weights move
    trained = [line for line in lines if line["kind"] == "train"]
    assert trained[-1]["passes"]["one"] >= 4
    losses = [line["losses"]["one"] for line in trained if line["losses"]["one"] is not None]
    assert losses[-1] < 0.9 * losses[0]

    assert cli.main(["report", str(tmp_path / "run")]) == 0
    assert cli.main(["evaluate", str(tmp_path / "run"), "--shards", str(tmp_path / "shards"), "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out)["tasks"]
    assert evaluated["add"]["nll"] > 0
    assert evaluated.get("one") is None or evaluated["one"]["nll"] is None
    assert cli.main(["compare", str(tmp_path / "run")]) == 0
    assert "one" in capsys.readouterr().out
