import json
from pathlib import Path

import numpy as np
import pytest

from mftcoder.errors import MftcoderError
from mftcoder.report.run_folder import flatten, read_run, read_runs


def metrics(folder: Path, *lines: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    return folder


def test_null_absent_and_non_numeric_values_are_missing_and_not_zero(tmp_path):
    run = read_run(
        metrics(
            tmp_path,
            '{"kind":"train","step":1,"loss":2.5,"losses":{"a":1.0,"b":null}}',
            '{"kind":"train","step":2,"loss":null,"losses":{"a":"?"}}',
            '{"kind":"train","step":3,"loss":1.5,"losses":{"b":3}}',
        ),
        "run",
    )
    np.testing.assert_array_equal(run.train.steps, [1, 2, 3])
    np.testing.assert_array_equal(run.train.scalar("loss"), [2.5, np.nan, 1.5])
    np.testing.assert_array_equal(run.train.tasks("losses")["a"], [1.0, np.nan, np.nan])
    np.testing.assert_array_equal(run.train.tasks("losses")["b"], [np.nan, np.nan, 3.0])
    assert run.tasks == ("a", "b")


def test_a_run_killed_in_mid_line_keeps_every_line_before_it_and_says_so(tmp_path):
    whole = '{"kind":"validation","step":10,"losses":{"a":1.0}}'
    run = read_run(metrics(tmp_path, whole, whole[:30]), "run")
    assert run.validation.steps.tolist() == [10]
    assert any("metrics.jsonl: line 2 could not be read" in note for note in run.notes)


@pytest.mark.parametrize(
    "line",
    [
        '{"kind":"hologram","step":1}',
        '{"kind":"train"}',
        '{"step":2}',
        "",
        '{"kind":"train","step":null}',
        '{"kind":{},"step":1}',
    ],
)
def test_lines_that_mean_nothing_here_are_ignored(tmp_path, line):
    run = read_run(metrics(tmp_path, line, '{"kind":"train","step":7,"loss":1.0}'), "run")
    assert run.train.steps.tolist() == [7]


@pytest.mark.parametrize("line", ["[1]", "7", '"text"', "[" * 100_000, '{"step":' + "9" * 5000 + "}", "\x00"])
def test_lines_that_are_no_json_objects_are_counted(tmp_path, line):
    run = read_run(metrics(tmp_path, line, '{"kind":"train","step":7}', line), "run")
    assert run.train.steps.tolist() == [7]
    assert any("2 lines, the first is line 1" in note for note in run.notes)


def test_an_integer_beyond_float64_is_missing(tmp_path):
    line = json.dumps({"kind": "train", "step": 1, "loss": 10**400})
    assert np.isnan(read_run(metrics(tmp_path, line), "run").train.scalar("loss")).all()


def test_tasks_come_in_the_order_of_the_config(make_run):
    assert read_run(make_run("a"), "a").tasks == ("code-completion", "unit-test", "text-to-sql", "code-translation")


def test_missing_files_are_named_in_one_note(tmp_path):
    notes = read_run(metrics(tmp_path, '{"kind":"train","step":1}'), "run").notes
    assert notes == ("not in this folder: config.json, run.json, generations.jsonl, evaluation.json.",)


def test_a_folder_that_is_no_run_is_refused_by_name(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(MftcoderError, match=r"not a run folder; found none of config\.json"):
        read_run(tmp_path, "x")
    with pytest.raises(MftcoderError, match="nowhere: not a run folder; found no such folder"):
        read_run(tmp_path / "nowhere", "x")
    with pytest.raises(MftcoderError, match="at least one run folder"):
        read_runs([])


def test_runs_of_the_same_name_are_told_apart_by_path(make_run):
    one, two, three = make_run("x/run"), make_run("y/run"), make_run("z/other")
    assert [run.label for run in read_runs([one, three])] == ["run", "other"]
    assert [run.label for run in read_runs([one, two])] == [str(one), str(two)]


def test_flattened_keys_are_paths_and_lists_are_one_value():
    nested = {"a": {"b": 1, "c": {"d": [1, {"e": 2}]}}, "f": None, "g": {}}
    assert flatten(nested) == {"a.b": "1", "a.c.d": '[1, {"e": 2}]', "f": "null", "g": "{}"}
