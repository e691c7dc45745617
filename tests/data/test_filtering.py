"""Which samples the filters leave out of shards, and that all of it is told."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mftcoder.config.schema import Config
from mftcoder.data.manifest import Manifest
from mftcoder.data.prepare import prepare, prepare_share, samples_path, shards_path
from mftcoder.data.shards import Shards
from mftcoder.data.summary import table
from mftcoder.errors import MftcoderError

NUMBERS = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen".split()  # noqa: SIM905
ITEM = "Write a function that returns the longest word of a sentence, or the first of several that are equally long."

Make = Callable[..., Config]


def record(text: str, answer: str = "yes", **more: str) -> dict:
    return {"prompt": text, "completion": answer, **more}


def distinct(number: int) -> str:
    return " ".join(f"{word}{number}" for word in NUMBERS)


def near(number: int) -> str:
    return distinct(number).replace(f"sixteen{number}", "changed")


def trained(config: Config, task: str) -> set[int]:
    """The numbers of the records that a task trains on."""
    return {i for row in Shards.open(shards_path(config)).rows(task) for i in row.sample_ids.tolist()}


def listed(config: Config) -> list[dict]:
    return [json.loads(line) for line in (shards_path(config) / "filtered.jsonl").read_text().splitlines()]


def made(config: Config, **options: object) -> Manifest:
    return prepare(config, tell=lambda message: None, **options)  # type: ignore[arg-type]


@pytest.fixture
def two_tasks() -> dict[str, list[dict]]:
    first = [record(distinct(n)) for n in range(6)]
    first += [record(distinct(1)), record(distinct(2) + "  "), record(near(3)), record(distinct(4), "no")]
    return {"first": first, "second": [record(distinct(0)), record(near(5)), record(distinct(90))]}


@pytest.mark.parametrize(
    ("filters", "first", "second"),
    [
        (None, {6, 7, 8, 9}, {0, 1}),
        ({"duplicates": "off"}, {6, 7, 8, 9}, {0, 1}),
        ({}, {8}, {0, 1}),
        ({"similarity": 0.7}, set(), {0, 1}),
        ({"similarity": None}, {8, 9}, {0, 1}),
        ({"similarity": None, "ignore": []}, {7, 8, 9}, {0, 1}),
        ({"similarity": None, "compare": "prompt"}, {8}, {0, 1}),
        ({"duplicates": "across", "similarity": 0.7}, set(), set()),
        ({"duplicates": "across", "similarity": None}, {8, 9}, {1}),
    ],
)
def test_the_first_of_duplicates_stays_and_settings_say_what_is_one(
    make_config: Make, two_tasks: dict, filters: dict | None, first: set[int], second: set[int]
) -> None:
    config = make_config(two_tasks, validation_fraction=0.0, filters=filters)
    made(config)
    assert trained(config, "first") == set(range(6)) | first
    assert trained(config, "second") == {2} | second


def test_all_that_is_left_out_is_counted_and_listed_with_what_it_repeats(
    make_config: Make, two_tasks: dict, tmp_path: Path
) -> None:
    config = make_config(two_tasks, validation_fraction=0.0, filters={"duplicates": "across", "compare": "prompt"})
    manifest = made(config)
    exact, near_ = "exact duplicates of an earlier one", "near-duplicates of an earlier one"
    assert [task.dropped for task in manifest.tasks] == [{exact: 3, near_: 1}, {exact: 1, near_: 1}]
    assert [task.samples for task in manifest.tasks] == [10, 3]
    places = [tuple(Path(place).name for place in (entry["place"], entry["of"]["place"])) for entry in listed(config)]
    assert places == [
        ("first.jsonl:7", "first.jsonl:2"),
        ("first.jsonl:8", "first.jsonl:3"),
        ("first.jsonl:9", "first.jsonl:4"),
        ("first.jsonl:10", "first.jsonl:5"),
        ("second.jsonl:1", "first.jsonl:1"),
        ("second.jsonl:2", "first.jsonl:6"),
    ]
    assert [entry["of"]["task"] for entry in listed(config)] == ["first"] * 6
    # 12 runs of five words each, of which the last differs
    assert [entry["similarity"] for entry in listed(config)] == [1, 1, round(11 / 13, 6), 1, 1, round(11 / 13, 6)]
    assert all(entry["removed"] for entry in listed(config))
    told = table(manifest).caption
    assert "3 samples dropped: exact duplicates" in str(told)
    assert "filtered.jsonl" in str(told)


@pytest.mark.parametrize("fraction", [0.2, 0.5])
def test_no_training_sample_is_like_a_held_out_one_of_any_task(make_config: Make, fraction: float) -> None:
    tasks = {
        "first": [record(distinct(n)) for n in range(40)],
        "second": [record(near(n), "no") for n in range(40)] + [record("something else")],
    }
    config = make_config(tasks, "kept", validation_fraction=fraction, filters={"leakage": "report", "similarity": 0.7})
    manifest = made(config)
    shards = Shards.open(shards_path(config))
    held = {
        task: {
            i for split in ("probe", "validation") for row in shards.rows(task, split) for i in row.sample_ids.tolist()
        }
        for task in tasks
    }
    leaks = {"first": held["second"] - held["first"] - {40}, "second": held["first"] - held["second"]}
    assert all(leaks.values())
    for task in manifest.tasks:
        assert task.noted == {"like a held-out one were left in training": len(leaks[task.name])}
    assert all(leaks[task] <= trained(config, task) for task in tasks)
    assert {(entry["reason"], entry["removed"]) for entry in listed(config)} == {("like a held-out one", False)}

    removing = make_config(tasks, "removed", validation_fraction=fraction, filters={"similarity": 0.7})
    manifest = made(removing)
    for task in manifest.tasks:
        assert task.dropped == {"like a held-out one": len(leaks[task.name])}
        assert trained(removing, task.name) == trained(config, task.name) - leaks[task.name]
    assert len(listed(removing)) == len(listed(config))


def test_records_for_validation_are_never_filtered_and_training_samples_like_them_are(
    make_config: Make, tmp_path: Path
) -> None:
    apart = [record(distinct(1)), record(distinct(1)), record(distinct(7), "no")]
    (tmp_path / "apart.jsonl").write_text("".join(json.dumps(one) + "\n" for one in apart))
    records = [record(distinct(n)) for n in (0, 1, 2, 2, 7)]
    config = make_config({"a": records}, filters={"similarity": 0.7})
    task = config.data.tasks[0].model_copy(update={"validation": str(tmp_path / "apart.jsonl")})
    config = config.model_copy(update={"data": config.data.model_copy(update={"tasks": [task]})})
    manifest = made(config)
    assert trained(config, "a") == {0, 2}
    assert manifest.tasks[0].dropped == {"exact duplicates of an earlier one": 1, "like a held-out one": 2}
    held = [split.samples for name, split in manifest.tasks[0].splits.items() if name != "train"]
    assert sum(held) == 3
    assert manifest.tasks[0].leaked == 0


def test_what_stands_in_a_benchmark_is_left_out_whichever_message_it_stands_in(
    make_config: Make, tmp_path: Path
) -> None:
    (tmp_path / "bench.jsonl").write_text(
        json.dumps({"task_id": 1, "prompt": f'def f(s):\n    """{ITEM}\n    >>> f("a bc")\n    """\n'}) + "\n"
    )
    reworded = ITEM.replace("longest", "shortest").replace("long.", "short.")
    records = [
        record("unrelated", "text"),
        record(ITEM),
        record("hello", f"Sure.\n# {ITEM}\ndef f(s):\n    return s\n"),
        record(f"Please do this:\n{reworded}"),
        record("Write a function that returns the sum of two numbers."),
    ]
    config = make_config(
        {"a": records}, validation_fraction=0.0, filters={"benchmarks": [{"path": str(tmp_path / "bench.jsonl")}]}
    )
    manifest = made(config)
    assert trained(config, "a") == {0, 4}
    assert manifest.tasks[0].dropped == {"in a benchmark": 3}
    assert [entry["test"] for entry in listed(config)] == ["ngram", "ngram", "bleu"]
    assert all(entry["item"].endswith("bench.jsonl:1") and 0.5 < entry["score"] <= 1 for entry in listed(config))

    (tmp_path / "bench.jsonl").write_text(json.dumps({"prompt": "Another item that stands nowhere."}) + "\n")
    with pytest.raises(MftcoderError, match="benchmarks"):
        made(config)
    made(config, overwrite=True)
    assert trained(config, "a") == set(range(5))


def test_the_result_depends_on_neither_workers_nor_shares_nor_what_is_there_already(
    make_config: Make, two_tasks: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mftcoder.data.parts.BYTES_PER_PART", 300)
    filters = {"duplicates": "across", "similarity": 0.7}
    one = make_config(two_tasks, "one", filters=filters)
    expected = made(one)
    assert len(list(samples_path(one).glob("*.arrow"))) > 8
    made(make_config(two_tasks, "several"))  # so that only sketches are left to the processes
    several = make_config(two_tasks, "several", filters=filters)
    assert made(several, num_workers=2, overwrite=True).fingerprint == expected.fingerprint
    shared = make_config(two_tasks, "shared", filters=filters)
    for number in (2, 1, 3):
        prepare_share(shared, number, 3, tell=lambda message: None)
    told: list[str] = []
    assert prepare(shared, tell=told.append).fingerprint == expected.fingerprint
    assert sum("already" in line for line in told) == 2
    assert listed(one) == listed(several) == listed(shared)
    assert listed(one)


def test_other_filters_do_not_tokenize_again(make_config: Make, two_tasks: dict) -> None:
    made(make_config(two_tasks, validation_fraction=0.0))
    told: list[str] = []
    config = make_config(two_tasks, validation_fraction=0.0, filters={"similarity": 0.7})
    with pytest.raises(MftcoderError, match="filters None, where the config now has"):
        made(config)
    prepare(config, tell=told.append, overwrite=True)
    assert any("2 of 2 parts are tokenized already" in line for line in told)
    prepare(make_config(two_tasks, filters={"similarity": 0.7, "leakage": "off"}), tell=told.append, overwrite=True)
    assert any("2 of 2 parts are sketched already" in line for line in told)


def test_a_task_of_which_nothing_is_left_is_an_error_that_says_why(make_config: Make) -> None:
    config = make_config({"a": [record(distinct(1))], "b": [record(distinct(1))]}, filters={"duplicates": "across"})
    with pytest.raises(MftcoderError, match=r'task "b": no supervised token .*\(1 with exact duplicates'):
        made(config)


def test_items_without_the_field_are_an_error_that_names_them(make_config: Make, tmp_path: Path) -> None:
    (tmp_path / "bench.jsonl").write_text('{"code": "x"}\n')
    for field, wanted in ((None, "one of docstring, prompt"), ("text", 'a string "text"')):
        benchmark = {"path": str(tmp_path / "bench.jsonl"), "field": field}
        with pytest.raises(
            MftcoderError, match=rf"bench.jsonl:1: must have {wanted}.*found keys code.*benchmarks\[0\]"
        ):
            made(make_config({"a": [record("x")]}, filters={"benchmarks": [benchmark]}))
    with pytest.raises(MftcoderError, match=r"data.filters.benchmarks\[0\]: path nowhere does not exist"):
        made(make_config({"a": [record("x")]}, filters={"benchmarks": [{"path": "nowhere"}]}))
