import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mftcoder.report.figures import draw, thin
from mftcoder.report.plots import PLOTS, relative, shares
from mftcoder.report.run_folder import read_run, read_runs
from mftcoder.report.summary import summarize


def lines_of(metric, folders, kind):
    plot = next(plot for plot in PLOTS if (plot.metric, plot.kind, plot.transform) == (metric, kind, None))
    runs = read_runs(folders)
    tasks = list(runs[0].tasks)
    return draw(plot, runs, [summarize(run) for run in runs], tasks), tasks


def test_short_series_are_untouched_but_for_points_that_are_not_finite():
    steps, values = thin(np.arange(5.0), np.array([1, np.nan, 3, np.inf, 5]))
    assert (steps.tolist(), values.tolist()) == ([0, 2, 4], [1, 3, 5])


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=400), st.integers(4, 50))
def test_thinning_keeps_ends_and_extremes_and_invents_nothing(values, limit):
    steps = np.arange(len(values), dtype=float)
    kept_steps, kept = thin(steps, np.array(values), limit)
    assert len(kept) <= limit
    assert (np.diff(kept_steps) > 0).all()
    assert all(values[int(step)] == value for step, value in zip(kept_steps, kept, strict=True))
    assert kept_steps[0] == 0
    assert kept_steps[-1] == len(values) - 1
    assert (kept.min(), kept.max()) == (min(values), max(values))


def test_a_single_spike_among_a_million_points_survives():
    values = np.zeros(1_000_000)
    values[123_457] = 9.0
    steps, kept = thin(np.arange(1_000_000.0), values)
    assert len(kept) <= 2000
    assert kept[steps.tolist().index(123_457)] == 9.0


@pytest.mark.parametrize(
    ("kind", "metric"), [("train", "losses"), ("train", "weights"), ("probe", "rcs"), ("validation", "ratios")]
)
def test_lines_hold_the_very_numbers_of_the_metrics(make_run, kind, metric):
    folder = make_run("a")
    figure, tasks = lines_of(metric, [folder], kind)
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in figure["lines"]:
        task = tasks[line["task"]]
        expected = {
            entry["step"]: entry[metric][task]
            for entry in entries
            if entry["kind"] == kind and entry[metric][task] is not None
        }
        assert dict(zip(line["x"], line["y"], strict=True)) == expected
    assert len(figure["lines"]) == 4


def test_a_task_has_one_number_in_all_runs_and_plots(make_run):
    other = make_run("b", seed=1)
    lines = [json.loads(line) for line in (other / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line["losses"] = dict(reversed(line.get("losses", {}).items()))
    (other / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    figure, tasks = lines_of("losses", [make_run("a"), other], "validation")
    named = {(line["name"], line["task"], line["run"]) for line in figure["lines"]}
    assert named == {(f"{task} · {run}", tasks.index(task), at) for task in tasks for at, run in enumerate("ab")}


def test_a_metric_that_no_run_recorded_is_no_plot(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"kind":"train","step":1,"losses":{"a":1.0},"grad_norm":null}')
    run = read_run(tmp_path, "run")
    drawn = [plot.title for plot in PLOTS if draw(plot, [run], [summarize(run)], ["a"])]
    assert drawn == ["Training loss", "Training loss relative to the first"]


def test_relative_starts_at_one_at_the_first_finite_value():
    series = {"a": np.array([np.nan, 4.0, 2.0]), "b": np.array([np.nan] * 3), "c": np.array([0.0, 1.0, 1.0])}
    (values,) = relative(series).values()
    np.testing.assert_array_equal(values, [np.nan, 1.0, 0.5])


def test_shares_sum_to_one_wherever_there_was_data():
    result = shares({"a": np.array([1.0, np.nan, 0.0]), "b": np.array([3.0, 5.0, 0.0])})
    np.testing.assert_array_equal(result["a"], [0.25, 0.0, np.nan])
    np.testing.assert_array_equal(result["b"], [0.75, 1.0, np.nan])


def test_every_plot_has_an_element_of_its_own():
    assert len({plot.id for plot in PLOTS}) == len(PLOTS)
