"""``mftcoder simulate``: every form of recorded losses gives the same weights, and what is wrong is named."""

import csv
import json

import numpy as np
import pytest

from mftcoder import cli
from mftcoder.errors import MftcoderError
from mftcoder.losses import simulate
from mftcoder.report.replay import read_losses

COBA = {"type": "coba", "window_steps": 40, "warmup_steps": 10}
TASKS = ("code", "math")
STEPS = list(range(0, 200, 10))
LOSSES = np.random.default_rng(0).uniform(1, 2, (20, 2)) * np.linspace(1, 0.5, 20)[:, None]


@pytest.fixture(params=["run", "metrics.jsonl", "losses.csv", "losses.json"])
def recorded(request, tmp_path):
    """The same losses in every form."""
    named = [dict(zip(TASKS, row, strict=True)) for row in LOSSES.tolist()]
    if request.param == "losses.csv":
        lines = ["step,code,math", *(f"{s},{a!r},{b!r}" for s, (a, b) in zip(STEPS, LOSSES.tolist(), strict=True))]
        text = "\n".join(lines)
    elif request.param == "losses.json":
        text = json.dumps({"tasks": TASKS, "steps": STEPS, "losses": LOSSES.tolist()})
    else:
        lines = [{"kind": "train", "step": 1, "losses": {"code": 9.0, "math": 9.0}}]
        for step, losses in zip(STEPS, named, strict=True):
            lines += [
                {"kind": "probe", "step": step, "losses": losses},
                {"kind": "validation", "step": step, "losses": {"code": 5.0, "math": 5.0}},
            ]
        text = "".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "probe", "st'  # killed while writing
    path = tmp_path / request.param.replace("run", "metrics.jsonl")
    path.write_text(text)
    return tmp_path if request.param == "run" else path


def test_every_form_gives_the_weights_of_the_library(recorded, capsys):
    assert cli.main(["simulate", "--weighting", json.dumps(COBA), "--losses", str(recorded), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = simulate(COBA, LOSSES, interval=10)
    assert found["tasks"] == list(TASKS)
    assert found["steps"] == STEPS
    for name, values in expected.items():
        np.testing.assert_array_equal(np.array(found[name], dtype=float), values, err_msg=name)


def test_the_table_and_the_csv_hold_the_terms_of_coba(recorded, tmp_path, capsys):
    common = ["simulate", "--weighting", json.dumps(COBA), "--losses", str(recorded)]
    assert cli.main(common) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("weights", "slopes", "rcs", "acs", "df", "code", "math"))
    assert cli.main([*common, "--to", str(tmp_path / "out.csv")]) == 0
    with (tmp_path / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    expected = simulate(COBA, LOSSES, interval=10)
    assert [float(row["weights/math"]) for row in rows] == expected["weights"][:, 1].tolist()
    assert rows[0]["df"] == ""
    assert float(rows[-1]["df"]) == expected["df"][-1]
    assert cli.main([*common, "--to", str(tmp_path / "out.json")]) == 0
    assert json.loads((tmp_path / "out.json").read_text())["df"][0] is None


def test_validation_is_replayed_where_nobody_watched_a_probe_and_a_long_table_is_thinned(tmp_path, capsys):
    lines = [{"kind": "validation", "step": 5 * t, "losses": {"code": 2.0, "math": None}} for t in range(100)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert cli.main(["simulate", "--weighting", '{"type": "uniform"}', "--losses", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "40 of 100 steps" in shown
    assert "495" in shown
    found = read_losses(tmp_path)
    assert found.losses.shape == (100, 2)
    assert np.isnan(found.losses[:, 1]).all()


def test_cases_are_chosen_by_name_and_their_base_is_l_0(tmp_path):
    case = {"losses": [[2.0, "nan"], [1.0, "inf"]], "base": [4.0, 1.0], "N": 40}
    path = tmp_path / "cases.json"
    path.write_text(json.dumps({"one": case, "two": case}))
    found = read_losses(path, "two")
    np.testing.assert_array_equal(found.losses, [[2, np.nan], [1, np.inf]])
    np.testing.assert_array_equal(found.base, [4, 1])
    assert found.tasks == ("task-1", "task-2")
    with pytest.raises(MftcoderError, match="choose one with --case: one, two"):
        read_losses(path)
    with pytest.raises(MftcoderError, match='no case "three" among one, two'):
        read_losses(path, "three")


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("x.csv", "code,math\n1,2\n3\n", "row 3 has 1 cells, the header 2"),
        ("x.csv", "code,math\n1,zwei\n", "could not convert string to float: 'zwei'"),
        ("x.csv", "", "there are no losses"),
        ("x.csv", "step,code\n1,2\n1,2\n", "steps do not increase"),
        ("x.jsonl", '{"kind": "train"}\n', "neither a probe nor a validation line"),
        ("x.jsonl", "{\n", "line 1 is not JSON"),
        ("x.jsonl", '{"kind": "probe", "step": 1}\n', "'losses' is missing"),
        ("x.json", "[1]", "several cases|list"),
        ("x.json", '{"losses": []}', "there are no losses"),
        ("x.json", '{"losses": [[1, 2], [3]]}', "shape"),
    ],
)
def test_a_file_in_no_known_form_is_refused_by_name(tmp_path, name, text, complaint):
    (tmp_path / name).write_text(text)
    with pytest.raises(MftcoderError, match=rf"{name}: .*({complaint})"):
        read_losses(tmp_path / name)


@pytest.mark.parametrize(
    ("weighting", "complaint"),
    [("{", "--weighting: not JSON"), ("[]", "--weighting: must be a JSON object"), ('{"type": "gradnorm"}', "norms")],
)
def test_a_wrong_weighting_is_the_user_s_fault(recorded, weighting, complaint, capsys):
    assert cli.main(["simulate", "--weighting", weighting, "--losses", str(recorded)]) == 2
    assert complaint in capsys.readouterr().err
