"""Laws of CoBa on generated histories: irregular steps, absent tasks, losses that are not finite."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mftcoder.config import schema
from mftcoder.losses.weighting import TaskLosses, build
from mftcoder.tasks import TaskSet

LOSS = st.one_of(
    # Hundredths, so that a slope is either zero up to rounding or far above the threshold of a flat one.
    st.integers(1, 1000).map(lambda hundredths: hundredths / 100),
    st.sampled_from([math.nan, math.inf, 0.0]),
)


@st.composite
def histories(draw):
    """A config section, increasing steps [T] and losses [T, K]."""
    num_tasks = draw(st.integers(1, 5))
    gaps = draw(st.lists(st.integers(1, 9), min_size=1, max_size=25))
    steps = np.cumsum([draw(st.integers(0, 5)), *gaps]).tolist()
    rows = draw(
        st.lists(st.lists(LOSS, min_size=num_tasks, max_size=num_tasks), min_size=len(steps), max_size=len(steps))
    )
    section = schema.CoBa(
        type="coba",
        window_steps=draw(st.integers(2, 60)),
        warmup_steps=draw(st.integers(0, 40)),
        temperature=draw(st.sampled_from([1.0, 5.0])),
        divergence_factor=draw(st.sampled_from(["running", "common"])),
        floor=draw(st.sampled_from([0.0, 0.05])),
    )
    return section, steps, np.array(rows)


def weights_after_each(section, steps, rows):
    num_tasks = rows.shape[1]
    weighting = build(section, TaskSet(tuple(f"task-{i}" for i in range(num_tasks))))
    found = []
    for step, row in zip(steps, rows, strict=True):
        weighting.observe("validation", step, TaskLosses(row, ~np.isnan(row)))
        found.append(weighting.weights(step, np.ones(num_tasks)))
    return np.array(found)


def softmax(scores):
    powers = [math.exp(score) for score in scores]
    return [power / math.fsum(powers) for power in powers]


def share(part, whole):
    return part / whole if whole > 1e-12 else 0.0


def slope(points):
    """By the textbook quotient, from every point of one task in the window."""
    if len(points) < 2:
        return None
    steps, ratios = zip(*points, strict=True)
    x, y = math.fsum(steps) / len(steps), math.fsum(ratios) / len(ratios)
    return math.fsum((s - x) * (r - y) for s, r in points) / math.fsum((s - x) ** 2 for s in steps)


def naive(section, steps, rows):
    """The published formulas, each from the whole history, without any running sum."""
    num_tasks = rows.shape[1]
    base, current = [None] * num_tasks, [None] * num_tasks
    points: list[list] = [[] for _ in range(num_tasks)]
    slopes: list[list] = [[] for _ in range(num_tasks)]
    largest: list[float] = []
    weights, found = [1 / num_tasks] * num_tasks, []
    for step, row in zip(steps, rows.tolist(), strict=True):
        for i, loss in enumerate(row):
            if base[i] is None and math.isfinite(loss) and loss > 0:
                base[i] = loss
            if base[i] is not None and math.isfinite(loss):
                points[i].append((step, loss / base[i]))
            fitted = slope([point for point in points[i] if point[0] > step - section.window_steps])
            current[i] = current[i] if fitted is None else fitted
        known = [i for i in range(num_tasks) if current[i] is not None]
        if step >= section.warmup_steps and known:
            for i in known:
                slopes[i].append((step, current[i]))
            total = math.fsum(abs(current[i]) for i in known)
            rcs = softmax([len(known) * share(current[i], total) for i in known])
            recent = [[abs(a) for s, a in slopes[i] if s > step - section.window_steps] for i in known]
            acs = softmax([-len(r) * share(current[i], math.fsum(r)) for i, r in zip(known, recent, strict=True)])
            largest.append(max(current[i] for i in known))
            df = divergence_factor(largest, section)
            weights = [1 / num_tasks] * num_tasks
            for i, relative, absolute in zip(known, rcs, acs, strict=True):
                weights[i] = len(known) / num_tasks * (df * relative + (1 - df) * absolute)
            weights = [(1 - num_tasks * section.floor) * w + section.floor for w in weights]
        found.append(weights)
    return np.array(found)


def divergence_factor(largest, section):
    t = len(largest)
    exponents = []
    for s in range(1, t + 1):
        counted, upto = (s, s) if section.divergence_factor == "running" else (t, t)
        exponents.append(-section.temperature * counted * share(largest[s - 1], math.fsum(map(abs, largest[:upto]))))
    return min(1.0, t * softmax(exponents)[-1])


@settings(max_examples=150)
@given(histories())
def test_the_weights_are_those_of_the_published_formulas(history):
    np.testing.assert_allclose(weights_after_each(*history), naive(*history), atol=1e-8)


@settings(max_examples=150)
@given(histories())
def test_the_weights_are_a_simplex_above_the_floor_and_1_for_one_task(history):
    weights = weights_after_each(*history)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-12)
    assert (weights >= history[0].floor * (1 - 1e-12)).all()
    if weights.shape[1] == 1:
        assert (weights == 1.0).all()


@settings(max_examples=75)
@given(histories(), st.randoms(use_true_random=False))
def test_permuted_tasks_have_permuted_weights(history, random):
    section, steps, rows = history
    order = random.sample(range(rows.shape[1]), rows.shape[1])
    permuted = weights_after_each(section, steps, rows[:, order])
    np.testing.assert_allclose(permuted, weights_after_each(section, steps, rows)[:, order], atol=1e-12)
