"""How far CoBa's weights on a small probe are from those on full validation, what each probe costs, and how soon the
weights answer to a task that overfits.

A small model is trained under uniform weights, and at every step the loss of every validation row is recorded, once per
seed. All else is arithmetic on the recording: a probe is a choice of steps and rows, and CoBa is replayed on it.

    python tools/fidelity.py FOLDER code=code.jsonl math=math.jsonl nl=nl.jsonl translation=translation.jsonl
    python tools/fidelity.py FOLDER … --overfit math --outcomes --plot fidelity.svg

FOLDER keeps the recordings; with them there the tables are printed at once.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from experiment import SMALL, TINY
from recording import ROWS_PER_STEP, Recording, Study

from mftcoder.config.schema import CoBa, Probe
from mftcoder.losses.weighting import TaskLosses, Vector, build
from mftcoder.tasks import TaskSet

DRAWS = 8  # probes per setting; rows are drawn anew for each
FORWARD_SHARE = 1 / 3  # of a training step's time that its forward pass takes

PROBES = [  # (every_steps, size in global batches), by cost
    (20, 0.5),
    (10, 0.5),
    (20, 1.5),
    (10, 1.0),
    (5, 0.75),
    (10, 1.5),
    (20, 3.0),
    (40, 6.0),
    (10, 3.0),
    (20, 6.0),
    (5, 3.0),
    (10, 6.0),
    (1, 1.0),
]
DEFAULT_PROBE, DEFAULT_HISTORY = (20, 3.0), (100, 40)
HISTORIES = [
    (24, 12),
    (50, 20),
    (100, 20),
    (100, 40),
    (200, 40),
]  # (window_steps, warmup_steps); first the paper's 2M, M
ANSWERS = [(0, 25), (25, 50), (50, 100)]  # steps after a task's turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the recordings; made if need be")
    parser.add_argument("tasks", nargs="+", metavar="NAME=FILE", help="a task's records, in any format")
    parser.add_argument("--overfit", metavar="NAME", help="a task that is to overfit: it trains on 4 rows")
    parser.add_argument("--outcomes", action="store_true", help="also train with CoBa, once per history")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw distance and cost, as SVG or PNG")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="default: 0 1 2")
    parser.add_argument("--tiny", action="store_true", help="a model of 0.2M parameters, not 1.05M")
    parser.add_argument("--steps", type=int, default=250, metavar="N", help="of each run (default: 250)")
    arguments = parser.parse_args()
    files = {name: Path(file) for name, file in (task.split("=", 1) for task in arguments.tasks)}
    from mftcoder.engine.deepspeed import process_group

    arguments.folder.mkdir(parents=True, exist_ok=True)
    with process_group() as group:
        study = Study(
            arguments.folder, files, TINY if arguments.tiny else SMALL, arguments.steps, arguments.overfit, group
        )
        recordings = [study.recording(seed) for seed in arguments.seeds]
        points = {history: distances(recordings, *history) for history in HISTORIES}
        for (window, warmup), its_points in points.items():
            print(f"\nwindow_steps {window}, warmup_steps {warmup}; full validation: 12 global batches every step")
            print(f"  {'probe':44}{'cost':>8}  distance (per seed)")
            for point in its_points:
                shown = " ".join(f"{distance:.3f}" for distance in point.per_seed)
                print(f"  {point.name:44}{point.cost:7.3f}x  {point.distance:.3f} ({shown})")
        if arguments.overfit:
            print_answers(recordings, list(files).index(arguments.overfit))
        if arguments.outcomes:
            print_outcomes(study, arguments.seeds)
    if arguments.plot:
        from fidelity_plot import draw

        draw(arguments.plot, points[DEFAULT_HISTORY], DEFAULT_HISTORY)


@dataclass(frozen=True)
class Point:
    """A probe: what it costs, as a share of training, and how far CoBa on it is from CoBa on full validation."""

    name: str
    cost: float  # relative to training without a probe
    per_seed: list[float]

    @property
    def distance(self) -> float:
        return float(np.mean(self.per_seed))


def distances(recordings: list[Recording], window: int, warmup: int) -> list[Point]:
    """Of every probe: mean over draws, steps from ``warmup`` on and tasks of |weight - full validation's|."""
    everything = [coba_weights(each, window, warmup, 1, each.all_rows) for each in recordings]

    def point(name: str, cost: float, weights: list[list[Vector]]) -> Point:
        per_seed = [
            float(np.mean([np.abs(one - full)[warmup:].mean() for one in draws]))
            for draws, full in zip(weights, everything, strict=True)
        ]
        return Point(name, 1 + cost, per_seed)

    points = [
        point("none: uniform weights", 0.0, [[np.full_like(full, 1 / full.shape[1])] for full in everything]),
        point(
            "paper: one cyclic mini-batch, every step",
            FORWARD_SHARE,
            [[paper_weights(each, window, warmup)] for each in recordings],
        ),
    ]
    for every, size in PROBES:
        if size * ROWS_PER_STEP >= recordings[0].num_tasks and every < window:
            draws = [drawn_weights(each, window, warmup, every, size) for each in recordings]
            points.append(
                point(f"efficient: {size:g} global batches every {every}", FORWARD_SHARE * size / every, draws)
            )
    return points


def drawn_weights(recording: Recording, window: int, warmup: int, every: int, size: float) -> list[Vector]:
    """[T, K] of each of DRAWS probes of ``size`` global batches."""
    rows = [probe_rows(recording, round(size * ROWS_PER_STEP), draw) for draw in range(DRAWS)]
    return [coba_weights(recording, window, warmup, every, chosen) for chosen in rows]


def print_answers(recordings: list[Recording], task: int) -> None:
    """How much a task that overfits weighs after its loss has turned: on full validation, and on the default probe."""
    turns = [int(np.argmin(each.losses(each.all_rows)[:, task])) for each in recordings]
    lasts = [each.losses(each.all_rows)[-1, task] / each.losses(each.all_rows)[:, task].min() for each in recordings]
    rises = " ".join(f"{last:.2f}x" for last in lasts)
    print(f"\nthe task that overfits: its loss is least before steps {turns}, and {rises} of that at the end")
    print(f"  {'its weight, of 1/K, by steps after the turn':44}" + "".join(f"{a:>6}-{b}" for a, b in ANSWERS))
    for window, warmup in HISTORIES:
        for name, every, size in (("full", 1, None), ("probe", *DEFAULT_PROBE)):
            if every >= window:
                continue
            found = []
            for each, turn in zip(recordings, turns, strict=True):
                full = size is None and [coba_weights(each, window, warmup, 1, each.all_rows)]
                for weights in full or drawn_weights(each, window, warmup, every, size or 0):
                    after = weights[turn:, task] * each.num_tasks
                    found.append([after[first:last].mean() for first, last in ANSWERS])
            shown = "".join(f"{value:9.2f}" for value in np.mean(found, axis=0))
            print(f"  {f'window_steps {window}, warmup_steps {warmup}, {name}':44}{shown}")


def print_outcomes(study: Study, seeds: list[int]) -> None:
    """Runs with CoBa and its default probe: validation losses at the end over those at the start."""
    print(
        f"\n{'outcomes: final / first validation loss':46}mean over tasks (per seed)  by task: {', '.join(study.files)}"
    )
    weightings: list[Mapping] = [{"type": "uniform"}]
    weightings += [
        {"type": "coba", "window_steps": window, "warmup_steps": warmup} for window, warmup in HISTORIES if warmup != 12
    ]
    for weighting in weightings:
        ratios = []
        for seed in seeds:
            before, after = study.outcome(seed, weighting)
            ratios.append(after / before)
        name = ", ".join(str(value) for value in weighting.values())
        shown = " ".join(f"{ratio.mean():.4f}" for ratio in ratios)
        print(f"  {name:44}{np.mean(ratios):.4f} ({shown})  {np.mean(ratios, axis=0).round(4)}")


def probe_rows(recording: Recording, num_rows: int, draw: int) -> np.ndarray:
    """``num_rows`` rows, equally many of each task."""
    order = np.random.default_rng(draw).permutation(len(recording.units))
    each = num_rows // recording.num_tasks
    return np.concatenate([order[recording.tasks[order] == task][:each] for task in range(recording.num_tasks)])


def coba_weights(recording: Recording, window: int, warmup: int, every: int, rows: np.ndarray) -> Vector:
    """[T, K]: the weights of every step when ``rows`` are looked at ``every`` steps."""
    losses = recording.losses(rows)
    settings = CoBa(type="coba", window_steps=window, warmup_steps=warmup, probe=Probe(every_steps=every))
    return _weights(settings, {step: (losses[step], 0) for step in range(0, len(losses), every)}, len(losses))


def paper_weights(recording: Recording, window: int, warmup: int) -> Vector:
    """[T, K]: the weights of the preset "paper", which looks at one of the mini-batches before every step."""
    num_batches = len(recording.units) // ROWS_PER_STEP
    parts = [recording.losses(np.arange(first, len(recording.units), num_batches)) for first in range(num_batches)]
    settings = CoBa(type="coba", preset="paper", window_steps=window, warmup_steps=warmup)
    looks = {step: (parts[step % num_batches][step], step % num_batches) for step in range(len(recording.nll))}
    return _weights(settings, looks, len(looks), baselines=[part[0] for part in parts])


def _weights(
    settings: CoBa, looks: dict[int, tuple[Vector, int]], num_steps: int, baselines: list[Vector] | None = None
) -> Vector:
    everyone = np.ones(len(looks[0][0]))
    tasks = TaskSet(tuple(f"task-{number}" for number in range(len(everyone))))
    weighting = build(settings, tasks, num_mini_batches=len(baselines or [0]))
    for number, first in enumerate(baselines or []):
        weighting.observe("baseline", 0, TaskLosses(first, everyone > 0, mini_batch=number))
    weights = []
    for step in range(num_steps):
        if step in looks:
            values, mini_batch = looks[step]
            weighting.observe("validation", step, TaskLosses(values, everyone > 0, mini_batch=mini_batch))
        weights.append(weighting.weights(step, everyone))
    return np.array(weights)


if __name__ == "__main__":
    main()
