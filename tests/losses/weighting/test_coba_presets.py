"""CoBa's presets: mini-batches paired with their own first loss, and the released code's algorithm derived anew."""

import json

import numpy as np
import pytest

from mftcoder.config import schema
from mftcoder.errors import MftcoderError
from mftcoder.losses import simulate
from mftcoder.losses.simulation import replay
from mftcoder.losses.weighting import TaskLosses, build
from mftcoder.tasks import TaskSet

TASKS = TaskSet(("a", "b", "c"))


def coba(num_mini_batches: int = 1, **settings):
    return build(schema.CoBa(type="coba", **settings), TASKS, num_mini_batches=num_mini_batches)


def losses(values, mini_batch: int = 0) -> TaskLosses:
    return TaskLosses(np.array(values), ~np.isnan(values), mini_batch)


def trend(num_steps: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 2 + np.cumsum(rng.normal(-0.01, 0.01, (num_steps, len(TASKS))), axis=0)


# paper


def test_a_mini_batch_paired_with_its_own_first_loss_adds_no_noise():
    """Mini-batches that differ in level but not in trend give the weights of the trend itself."""
    num_mini_batches, rows = 4, trend(60)
    level = np.random.default_rng(1).uniform(0.5, 2, (num_mini_batches, 3))
    paper = coba(num_mini_batches, preset="paper")
    plain = coba(window_steps=8, warmup_steps=4)  # N = 2M, W = M
    for m in range(num_mini_batches):
        paper.observe("baseline", 0, losses(level[m] * rows[0], m))
    plain.observe("baseline", 0, losses(rows[0]))
    for step, row in enumerate(rows[1:], 1):
        m = step % num_mini_batches
        paper.observe("validation", step, losses(level[m] * row, m))
        plain.observe("validation", step, losses(row))
        np.testing.assert_allclose(paper.weights(step, np.ones(3)), plain.weights(step, np.ones(3)), atol=1e-10)
    assert np.ptp(plain.weights(60, np.ones(3))) > 0.01


def test_pairs_survive_a_checkpoint():
    saved, restored = coba(3, preset="paper"), coba(3, preset="paper")
    for m in range(3):
        saved.observe("baseline", 0, losses([1.0 + m, np.nan, 3.0], m))
    restored.load_state_dict(json.loads(json.dumps(saved.state_dict())))
    np.testing.assert_array_equal(restored.base, [[1, np.nan, 3], [2, np.nan, 3], [3, np.nan, 3]])


def test_a_replay_of_the_paper_s_preset_needs_its_steps():
    with pytest.raises(MftcoderError, match="Give window_steps and warmup_steps"):
        simulate({"type": "coba", "preset": "paper"}, trend(9))
    section = {"type": "coba", "window_steps": 6, "warmup_steps": 3}
    np.testing.assert_array_equal(
        simulate({**section, "preset": "paper"}, trend(9))["weights"], simulate(section, trend(9))["weights"]
    )


# released


def softmax(values):
    powers = np.exp(np.asarray(values) - np.max(values))
    return powers / powers.sum()


def released(ratios: np.ndarray, history_length: int, warmup: int, tau: float) -> list[dict]:
    """The algorithm of the released code, whose history starts with step 1; a list from step ``warmup`` on."""
    num_tasks = ratios.shape[1]
    slopes, totals, found = [], [], []
    for step in range(warmup, len(ratios) + 1):
        start = max(0, step - history_length)
        window = ratios[:step][-(step - start) :]
        x = np.arange(len(window))
        slopes.append([np.polyfit(x, window[:, i], 1)[0] for i in range(num_tasks)])
        totals.append(np.polyfit(x, window.max(axis=1), 1)[0])
        now, recent, total = np.array(slopes[-1]), np.array(slopes)[start:], np.array(totals)
        rcs = softmax(num_tasks * now / np.abs(now).sum())
        acs = softmax(-len(recent) * now / np.abs(recent).sum(axis=0))
        df = softmax(-tau * len(total) * total / np.abs(total).sum())[-1] * len(total)
        weights = softmax(num_tasks * (df * rcs + (1 - df) * acs))
        floor = 1 / (10 * num_tasks)
        if (weights < floor).any():
            weights = weights * (1 - floor * num_tasks) + floor
        found.append({"df": df, "weights": weights})
    return found


@pytest.mark.parametrize("seed", range(5))
def test_the_released_preset_is_the_released_algorithm(seed):
    rows, first = trend(80, seed), np.array([2.0, 1.9, 2.1])
    rows[40:, seed % 3] += 0.02 * np.arange(40)  # one task turns and diverges
    expected = released(rows / first, history_length=20, warmup=6, tau=5.0)
    found = replay(
        {"type": "coba", "preset": "released", "window_steps": 20, "warmup_steps": 6},
        rows,
        steps=range(1, 81),
        step0_losses=first,
    )
    np.testing.assert_array_equal(found["weights"][:5], 1 / 3)
    np.testing.assert_allclose(found["weights"][5:], [moment["weights"] for moment in expected], atol=1e-9)
    np.testing.assert_allclose(found["df"][5:], [moment["df"] for moment in expected], rtol=1e-7)


def test_the_released_preset_leaves_df_unbounded_and_its_floor_jumps():
    rows = 3 - np.arange(120.0)[:, None] ** 2 * np.array([1e-5, 2e-5, 1e-4])
    found = simulate({"type": "coba", "preset": "released", "window_steps": 20, "warmup_steps": 10}, rows)
    assert np.nanmax(found["df"]) > 2
    bounded = simulate({"type": "coba", "window_steps": 20, "warmup_steps": 10}, rows)
    assert np.nanmax(bounded["df"]) <= 1
    assert found["weights"].min() >= 1 / 30


def test_the_released_preset_overlooks_a_task_that_diverges_below_the_largest_ratio():
    steps = np.arange(300.0)
    diverging = 1 - 0.003 * np.minimum(steps, 150) + 0.003 * np.maximum(steps - 150, 0)
    rows = np.stack([1 - 0.002 * steps, diverging, 1 - 0.0001 * steps], axis=1)
    section = {"type": "coba", "window_steps": 40, "warmup_steps": 20}
    assert simulate({**section, "preset": "released"}, rows)["weights"][230, 1] > 0.7
    assert simulate(section, rows)["weights"][230, 1] < 0.1


def test_the_released_preset_has_the_steps_of_the_released_code():
    weighting = coba(7, preset="released")
    assert (weighting.window_steps, weighting.warmup_steps, weighting.divergence_factor) == (200, 100, "common")
    assert len(weighting.base) == 1  # one l(0) for all mini-batches
    with pytest.raises(MftcoderError, match="at least warmup_steps, which is 100; found 50"):
        coba(preset="released", window_steps=50)
