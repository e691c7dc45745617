"""The example of a loop of one's own: every weighting that needs only losses works in it."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLE = Path(__file__).parents[2] / "tools" / "own_loop.py"


@pytest.mark.parametrize("name", ["coba", "famo", "famo_valid", "lbtw", "lbtw_valid", "dwa", "multiplicative"])
def test_the_example_trains_under_any_weighting(name, capsys):
    weights = runpy.run_path(str(EXAMPLE))["main"]({"type": name}, num_steps=120)
    assert weights.shape == (120, 2)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_array_equal(weights[0], 0.5)
    assert np.ptp(weights[:, 0]) > 1e-3
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert float(lines[-1][3]) < float(lines[0][3])  # the loss of the first task


def test_the_example_runs_from_the_command_line_and_a_wrong_weighting_is_named():
    ran = subprocess.run([sys.executable, str(EXAMPLE), json.dumps({"type": "koba"})], capture_output=True, text=True)
    assert ran.returncode == 1
    assert "weighting:" in ran.stderr
