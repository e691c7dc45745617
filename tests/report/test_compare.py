import io
import json

import pytest
from rich.console import Console

from mftcoder.report.compare import compare, differing_settings


def validation(step, a, b, first=(2.0, 4.0)):
    ratios = {"a": a / first[0], "b": b / first[1]}
    mean = sum(ratios.values()) / 2
    return {"kind": "validation", "step": step, "losses": {"a": a, "b": b}, "ratios": ratios, "mean_ratio": mean}


@pytest.fixture
def two_runs(tmp_path):
    entries = {
        "one": [validation(0, 2.0, 4.0), validation(10, 1.0, 3.0), validation(20, 1.8, 2.8)],  # mean ratios 1, .625, .8
        "two": [validation(0, 2.0, 4.0), validation(10, 1.5, 2.0), validation(20, 1.2, 1.0)],  # 1, .625, .425
    }
    speeds = {"one": [10, 900, 1000, 1100], "two": [2000]}
    for name, lines in entries.items():
        train = [
            {"kind": "train", "step": 30, "tokens_per_second": v, "seconds": 2.5, "skipped": 1} for v in speeds[name]
        ]
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text("\n".join(json.dumps(line) for line in lines + train))
        (tmp_path / name / "config.json").write_text(json.dumps({"seed": 1, "training": {"name": name}}))
    return [tmp_path / "one", tmp_path / "two"]


def test_all_tasks_are_read_off_at_the_evaluation_with_the_lowest_mean_ratio(two_runs):
    one, two = compare(two_runs).runs
    assert (one.best_step, one.mean_ratio, one.spread) == (10, 0.625, 0.25)
    assert (one.tasks["a"].first, one.tasks["a"].best, one.tasks["a"].last) == (2.0, 1.0, 1.8)
    assert one.tasks["a"].change == -0.5
    assert (one.tasks["a"].lowest_step, one.tasks["b"].lowest_step) == (10, 20)
    assert two.best_step == 20


def test_totals_of_a_run(two_runs):
    one = compare(two_runs).runs[0]
    assert (one.tokens_per_second, one.seconds, one.skipped_steps, one.last_step) == (950, 10.0, 4, 30)


def test_the_dict_is_strict_json_and_differences_are_against_the_first_run(two_runs):
    result = json.loads(json.dumps(compare(two_runs).as_dict(), allow_nan=False))
    assert [run["tasks"]["b"]["difference"] for run in result["runs"]] == [0.0, -2.0]
    assert result["differing_settings"] == {"training.name": ['"one"', '"two"']}


def test_unknown_numbers_are_null_and_dashes(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    comparison = compare([tmp_path])
    assert comparison.as_dict()["runs"][0]["mean_ratio"] is None
    assert "—" in rendered(comparison)


def test_the_table_holds_losses_and_settings_and_takes_names_literally(two_runs):
    metrics = two_runs[0] / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"a"', '"[red]a"'))
    text = rendered(compare(two_runs))
    for part in ("[red]a", "4.0000 → 3.0000", "4.0000 → 1.0000 (-2.0000)", "training.name", '"two"'):
        assert part in text


def test_only_settings_whose_values_differ_are_listed():
    configs = [{"a": 1, "b": {"c": [1, 2]}, "d": 1}, {"a": 1, "b": {"c": [2, 1]}, "d": 1.0, "e": None}]
    assert differing_settings(configs) == {"b.c": ["[1, 2]", "[2, 1]"], "d": ["1", "1.0"], "e": ["—", "null"]}


def rendered(comparison) -> str:
    console = Console(width=200, file=io.StringIO())
    console.print(comparison.table())
    return console.file.getvalue()
