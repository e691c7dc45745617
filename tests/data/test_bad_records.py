"""Bad records are passed over up to a number, and never in silence; without them the shards are the same."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mftcoder.data.parts as parts_module
from mftcoder.config.schema import Config, Fim
from mftcoder.data.prepare import listed_beside, prepare, shards_path
from mftcoder.data.shards import Shards
from mftcoder.data.summary import notes
from mftcoder.errors import MftcoderError
from mftcoder.training.validate import validate

GOOD = [
    {"messages": [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": "a" * i}]}
    for i in range(1, 41)
]
TOOL = {"role": "tool", "content": "3"}
BAD = {  # line -> what stands there, why it is bad
    3: ('{"messages": [', "not valid JSON: Expecting value: line 1 column 15 (char 14)."),
    4: ('{"messages": []}', "messages must be a list of at least one message; found []."),
    19: ('{"text": "x"}', 'task "t" has format messages; found a record of format text. Use one format per task.'),
    30: (
        json.dumps({"messages": [GOOD[0]["messages"][0], TOOL, GOOD[0]["messages"][1]]}),
        "the chat template refuses the conversation: role markers have none for the role tool.",
    ),
    44: ("\0", "not valid JSON: Expecting value: line 1 column 1 (char 0)."),
}


@pytest.fixture
def mixed(make_config: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Config]:
    """A config whose task has good and bad records, in many parts."""
    monkeypatch.setattr(parts_module, "BYTES_PER_PART", 300)
    lines = [json.dumps(record) for record in GOOD]
    for number, (line, _) in sorted(BAD.items()):
        lines.insert(number - 1, line)

    def make(limit: int, output: str = "run") -> Config:
        config = make_config({"t": []}, output=output, max_bad_records=limit, chat={"type": "markers"})
        (tmp_path / "t.jsonl").write_text("\n".join(lines) + "\n")
        return config

    return make


def rows(config: Config) -> list[list[Any]]:
    shards = Shards.open(shards_path(config))
    return [
        [array.tolist() for array in row]
        for split in ("train", "probe", "validation")
        for row in shards.rows("t", split)
    ]


def listed(file: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_bad_records_within_the_budget_are_listed_and_change_nothing_else(
    mixed: Callable[..., Config], make_config: Callable, tmp_path: Path
) -> None:
    config = mixed(len(BAD))
    manifest = prepare(config, tell=lambda _: None, num_workers=2)
    expected = [
        {"task": "t", "where": f"{tmp_path}/t.jsonl:{line}", "reason": reason} for line, (_, reason) in BAD.items()
    ]
    assert listed(shards_path(config) / "bad_records.jsonl") == expected
    (counts,) = manifest.tasks
    assert (counts.records, counts.bad) == (len(GOOD), len(BAD))
    assert "5 bad records passed over, listed in bad_records.jsonl" in notes(counts, manifest.inputs.settings)
    found = rows(config)

    clean = make_config({"t": GOOD}, output="clean", chat={"type": "markers"})
    prepare(clean, tell=lambda _: None)
    assert found == rows(clean)
    assert not (shards_path(clean) / "bad_records.jsonl").exists()


def test_more_bad_records_than_the_budget_are_an_error_whatever_the_number_of_workers(
    mixed: Callable[..., Config], tmp_path: Path
) -> None:
    errors = []
    for num_workers in (1, 2):
        config = mixed(len(BAD) - 1, output=f"run{num_workers}")
        with pytest.raises(MftcoderError) as caught:
            prepare(config, tell=lambda _: None, num_workers=num_workers)
        assert not shards_path(config).exists()
        beside = tmp_path / f"run{num_workers}" / "shards.bad_records.jsonl"
        assert [line["where"] for line in listed(beside)] == [f"{tmp_path}/t.jsonl:{line}" for line in BAD]
        errors.append(str(caught.value).replace(f"run{num_workers}", "run"))
    assert errors[0] == errors[1]
    assert errors[0].startswith('task "t": more than 4 bad records (data.max_bad_records)')
    for line, (_, reason) in BAD.items():
        assert f"{tmp_path}/t.jsonl:{line}: {reason}" in errors[0]


def test_one_part_may_hold_too_many(mixed: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts_module, "BYTES_PER_PART", 10**9)
    monkeypatch.setattr("mftcoder.data.making._LOOK_AHEAD", 1)
    config = mixed(2)
    with pytest.raises(MftcoderError, match=r"more than 2 bad records .*\n.*t\.jsonl:3: .*\n.*:4: .*\n.*:19: "):
        prepare(config, tell=lambda _: None)
    enough = mixed(len(BAD))  # that of line 30 is found last of all, when the others have been read
    prepare(enough, tell=lambda _: None)
    places = [line["where"].rpartition(":")[2] for line in listed(shards_path(enough) / "bad_records.jsonl")]
    assert places == [str(line) for line in BAD]


def test_parts_that_were_made_count_again(mixed: Callable[..., Config]) -> None:
    with pytest.raises(MftcoderError, match="more than 4 bad"):
        prepare(mixed(4), tell=lambda _: None)
    with pytest.raises(MftcoderError, match="more than 3 bad"):
        prepare(mixed(3), tell=lambda _: None)
    assert listed_beside(mixed(3)).exists()
    assert prepare(mixed(5), tell=lambda _: None).tasks[0].bad == 5
    assert not listed_beside(mixed(5)).exists()


def test_what_is_wrong_with_no_record_in_particular_is_told_once(make_config: Callable) -> None:
    config = make_config({"t": [{"text": f"def f{n}(): pass"} for n in range(50)]}, max_bad_records=5)
    task = config.data.tasks[0].model_copy(update={"fim": Fim()})
    config = config.model_copy(update={"data": config.data.model_copy(update={"tasks": [task]})})
    with pytest.raises(MftcoderError) as caught:
        prepare(config, tell=lambda _: None)
    assert str(caught.value).count("lacks the tokens it needs") == 1


def test_what_is_wrong_with_the_first_records_is_told_before_any_is_tokenized(
    mixed: Callable[..., Config], tmp_path: Path
) -> None:
    config = mixed(0)
    with pytest.raises(MftcoderError) as caught:
        prepare(config, tell=lambda _: None)
    assert [line.split(": ")[0] for line in str(caught.value).splitlines()] == [
        f"{tmp_path}/t.jsonl:{n}" for n in (3, 4)
    ]
    assert not list((tmp_path / "run" / "shards.samples").iterdir())
    (check,) = [check for check in validate(config) if check.name == "tasks"]
    assert not check.ok
    assert check.finding.splitlines()[:2] == str(caught.value).splitlines()


def test_what_is_wrong_with_a_whole_file_is_never_passed_over(mixed: Callable[..., Config], tmp_path: Path) -> None:
    config = mixed(100)
    (tmp_path / "t.jsonl").write_bytes("{}".encode("utf-16"))
    with pytest.raises(MftcoderError, match=r"t\.jsonl: is UTF-16"):
        prepare(config, tell=lambda _: None)
    (tmp_path / "t.jsonl").write_text('{"messages": []}\n' * 9)
    with pytest.raises(MftcoderError, match=r'task "t": all 9 records are bad'):
        prepare(config, tell=lambda _: None)
