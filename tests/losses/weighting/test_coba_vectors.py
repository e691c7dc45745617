"""CoBa against vectors from an independent NumPy implementation.

``losses`` [T][K] at steps 0..T-1 ("nan": missing); ``base`` is l(0), null for the first finite loss. The expected
values are of the steps in ``rows``; ``running`` and ``common`` are the two readings of Eq. 7's denominator.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from mftcoder.losses import simulate

CASES = json.loads((Path(__file__).parent.parent / "vectors" / "coba_cases.json").read_text())


def settings(case, divergence_factor):
    return {
        "type": "coba",
        "window_steps": case["N"],
        "warmup_steps": case["W"],
        "temperature": case["tau"],
        "divergence_factor": divergence_factor,
    }


def array(rows):
    return np.array([[np.nan if x is None else float(x) for x in np.atleast_1d(row)] for row in rows]).squeeze()


@pytest.mark.parametrize("divergence_factor", ["running", "common"])
@pytest.mark.parametrize("name", list(CASES))
def test_coba_agrees_with_the_vectors(name, divergence_factor):
    case = CASES[name]
    found = simulate(
        settings(case, divergence_factor),
        array(case["losses"]).reshape(-1, len(case["losses"][0])),
        step0_losses=case["base"],
    )
    expected = {
        "slopes": case["alpha"],
        "rcs": case["rcs"],
        "acs": case["acs"],
        "weights": case[divergence_factor]["w"],
        "df": case[divergence_factor]["df"],
    }
    for key, rows in expected.items():
        np.testing.assert_allclose(found[key][case["rows"]].squeeze(), array(rows), rtol=0, atol=1e-10, err_msg=key)


def test_the_vectors_hold_all_cases_with_undefined_and_defined_rows():
    assert len(CASES) == 11
    for case in CASES.values():
        assert case["running"]["df"][0] is None
        assert sum(factor is not None for factor in case["running"]["df"]) >= 10
