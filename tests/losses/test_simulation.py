import numpy as np
import pytest

from mftcoder.errors import MftcoderError
from mftcoder.losses import simulate

COBA = {"type": "coba", "window_steps": 40, "warmup_steps": 2}
ROWS = np.array([[2.0, 3.0], [1.8, 2.9], [1.7, 2.7], [1.5, 2.6]])


def test_row_t_holds_what_follows_from_the_losses_up_to_row_t():
    whole = simulate(COBA, ROWS)
    for length in range(1, len(ROWS) + 1):
        for name, values in simulate(COBA, ROWS[:length]).items():
            np.testing.assert_array_equal(values, whole[name][:length], err_msg=name)
    assert {name: values.shape for name, values in whole.items()} == {
        "weights": (4, 2),
        "slopes": (4, 2),
        "rcs": (4, 2),
        "acs": (4, 2),
        "df": (4,),
        "ratios": (4, 2),
        "missing": (4, 2),
    }


def test_step0_losses_are_the_base_and_no_observation():
    found = simulate(COBA, ROWS, step0_losses=[4.0, 6.0])
    np.testing.assert_array_equal(found["ratios"], ROWS / [4.0, 6.0])
    np.testing.assert_allclose(found["slopes"][1], (ROWS[1] - ROWS[0]) / [4.0, 6.0], rtol=1e-12)


def test_static_weightings_are_replayed_too():
    given = {"type": "given", "weights": {"code": 1, "math": 3}}
    np.testing.assert_array_equal(simulate(given, ROWS, tasks=["code", "math"])["weights"], [[0.25, 0.75]] * 4)
    np.testing.assert_array_equal(simulate({"type": "uniform"}, ROWS, step0_losses=[1, 1])["weights"], [[0.5, 0.5]] * 4)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"weighting": {"type": "coba", "window_steps": 1}}, r"weighting: .*window_steps: .*greater than 1"),
        ({"weighting": {"type": "koba"}}, r"weighting: .*koba"),
        ({"losses": [1.0, 2.0]}, r"losses: .*found the shape \(2,\)"),
        ({"step0_losses": [1.0]}, r"step0_losses: must hold 2 losses.*found the shape \(1,\)"),
        ({"tasks": ["code"]}, r"tasks: the losses are of 2 tasks; found 1 names"),
    ],
)
def test_wrong_arguments_are_named(arguments, complaint):
    with pytest.raises(MftcoderError, match=complaint):
        simulate(**{"weighting": COBA, "losses": ROWS, **arguments})
