"""Targets: what a run left behind, read by report, compare, simulate, export and --resume."""

import json
import shutil
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
from data_targets import project
from mutations import STRINGS, as_bytes, chance, damaged, spoilt
from oracle import command

from mftcoder.config.schema import Config
from mftcoder.data.inputs import file_hash
from mftcoder.distributed import Group
from mftcoder.losses.guard import OverfitGuard
from mftcoder.losses.reductions import build_reduction
from mftcoder.losses.weighting import TaskLosses, build
from mftcoder.report.page import render
from mftcoder.report.run_folder import read_runs
from mftcoder.tasks import TaskSet
from mftcoder.training.checkpoint import complete_checkpoints, find_checkpoint, reading, verify_files, write_json
from mftcoder.training.early_stopping import EarlyStopping
from mftcoder.training.metrics import Window, cut
from mftcoder.training.output import set_aside_later
from mftcoder.training.resume import check_identity, identity, with_rows_of
from mftcoder.training.spikes import SpikeWatch
from mftcoder.training.state import restore, state_of
from mftcoder.training.trained import open_run

Run = Callable[[Random], None]
TASKS = ("one", "two")
WEIGHTINGS: list[dict[str, Any]] = [
    {"type": "coba", "window_steps": 3, "warmup_steps": 2},
    {"type": "coba", "preset": "paper", "window_steps": 3, "warmup_steps": 2},
    {"type": "famo"},
    {"type": "famo_valid"},
    {"type": "lbtw"},
    {"type": "dwa"},
    {"type": "uncertainty"},
    {"type": "multiplicative"},
    {"type": "uniform"},
    {"type": "given", "weights": {"one": 1, "two": 2}},
]


def metrics() -> list[dict[str, Any]]:
    """Lines of every kind."""
    lines: list[dict[str, Any]] = []
    for step in range(0, 30, 5):
        losses = {"one": 1.5 - step / 40, "two": 2.0 - step / 50}
        common = {"step": step, "losses": losses, "weights": {"one": 0.5, "two": 0.5}}
        lines.append({"kind": "train", **common, "loss": 1.0, "tokens_per_second": 100.0, "seconds": 1.0, "skipped": 0})
        lines.append({"kind": "probe", **common, "slopes": {"one": -0.1, "two": None}, "df": 1.0})
        lines.append({"kind": "validation", **common, "ratios": losses, "mean_ratio": 1.0, "improved": True})
        lines.append({"kind": "checkpoint", "step": step, "seconds": 0.1, "best": True})
    return [*lines, {"kind": "stop", "step": 25, "reason": "finished"}]


def _files() -> dict[str, list[Any]]:
    """Of a run's folder: name to the JSON values in it, one a line."""
    tasks = [{"name": task, "path": "x.jsonl"} for task in TASKS]
    counts = {"samples": 10, "rows": 5, "tokens": 90, "supervised_tokens": 40, "length_counts": [0, 1, 4, 5]}
    outcome = {"nll": 1.0, "against": 1.5, "change": -0.3, "interval": [-0.4, -0.2], "tokens": 100}
    return {
        "config.json": [{"output_dir": "x", "data": {"tasks": tasks}, "training": {"learning_rate": 0.1}}],
        "run.json": [
            {"mftcoder": "0.1.0", "data": {"fingerprint": "f", "tasks": dict.fromkeys(TASKS, counts)}, "notes": ["n"]}
        ],
        "metrics.jsonl": metrics(),
        "generations.jsonl": [{"task": t, "prompt": "p", "reference": "r", "generated": "g"} for t in TASKS],
        "evaluation.json": [{"split": "validation", "tasks": dict.fromkeys(TASKS, outcome)}],
    }


def _write(random: Random, folder: Path, files: dict[str, list[Any]]) -> None:
    for name, values in files.items():
        (folder / name).write_bytes(b"".join(as_bytes(random, value, damage=0.03) + b"\n" for value in values))


def runs(folder: Path) -> Run:
    good, both = _files(), [folder / "good", folder / "spoilt"]
    for path in both:
        path.mkdir()
    _write(Random(0), both[0], good)

    def run(random: Random) -> None:
        files = dict(good)
        for name in random.sample(list(files), random.choice([1, 1, 2])):
            values = files[name]
            places = random.sample(range(len(values)), min(len(values), random.choice([1, 3])))
            files[name] = [spoilt(random, value) if n in places else value for n, value in enumerate(values)]
        _write(random, both[1], files)
        if chance(random, 0.03):
            command("report", *both, "--to", folder / "report.html")
        elif chance(random, 0.05):
            render(read_runs(both[1:]))
        else:
            command("compare", *random.sample(both, 2), *(["--json"] if chance(random, 0.5) else []))

    return run


def losses(folder: Path) -> Run:
    """Recorded losses in every form, and the weighting that they go through."""
    rows = [[1.0 - t / 10, 2.0 - t / 20] for t in range(8)]
    csv = "step,one,two\n" + "".join(f"{t * 5},{a},{b}\n" for t, (a, b) in enumerate(rows))
    content = {"losses": rows, "tasks": list(TASKS), "steps": list(range(8)), "base": [1.0, 2.0]}

    def run(random: Random) -> None:
        form = random.choice(["csv", "json", "jsonl"])
        file = folder / f"losses.{form}"
        if form == "csv":
            cells = random.choice([*map(str, range(3)), "nan", "inf", "-1e400", "9" * 400, *STRINGS[:5], "1_0", "é"])
            text = csv.replace(random.choice(csv.split(",")), cells, 1) if chance(random, 0.6) else csv
            data = text.encode("utf-8", "surrogatepass")
            file.write_bytes(damaged(random, data) if chance(random, 0.5) else data)
        elif form == "json":
            value = spoilt(random, {"a": content} if chance(random, 0.2) else content)
            file.write_bytes(as_bytes(random, value))
        else:
            lines = metrics()
            lines[random.randrange(len(lines))] = spoilt(random, lines[1])
            file.write_bytes(b"".join(as_bytes(random, line, damage=0.03) + b"\n" for line in lines))
        weighting = random.choice(WEIGHTINGS)
        weighting = spoilt(random, weighting, 1) if chance(random, 0.3) else weighting
        options = random.choice([[], ["--json"], ["--case", "a"], ["--interval", "7"], ["--to", folder / "out.csv"]])
        text = as_bytes(random, weighting, damage=0.05).decode(errors="replace")
        command("simulate", f"--weighting={text}", "--losses", file, *options)

    return run


def _parts(config: Config, weighting: dict[str, Any]) -> Any:
    """What of a run has a state: the real parts, without an engine."""
    tasks = TaskSet(TASKS)
    parsed = config.loss.model_copy(update={"weighting": weighting})
    run = SimpleNamespace(
        tasks=tasks,
        step=6,
        looked=True,
        nonfinite=0,
        epoch=0.5,
        rows_seen=np.ones(2),
        reduction=build_reduction(parsed.reduction, tasks),
        weighting=build(parsed.weighting, tasks),
        guard=OverfitGuard(tasks, patience=2, tolerance=0.1),
        sampling=None,
        early_stopping=EarlyStopping(3, "evaluations"),
        spikes=SpikeWatch(2),
        metrics=SimpleNamespace(window=Window(2)),
    )
    for step in (2, 4):
        for kind in ("baseline", "train", "validation", "replay"):
            run.weighting.observe(kind, step, TaskLosses(np.array([1.0, 2.0]), np.array([True, True])))
    return run


def checkpoint_of(folder: Path, config: Config) -> tuple[Path, dict[str, Any], dict[str, Any], list[Any]]:
    """A run with two checkpoints: its folder, state of the newer one, what a resumed run would be, its parts."""
    from mftcoder.losses.weighting import parse

    output = Path(config.output_dir)
    now = identity(config, {"zero_optimization": {"stage": 2}}, "f" * 32, TaskSet(TASKS), 96, Group(), None)
    parts = [_parts(config, parse(weighting)) for weighting in WEIGHTINGS[:6]]
    state: dict[str, Any] = {}
    for step in (3, 6):
        path = output / "checkpoints" / f"step-{step:06d}"
        (path / "engine").mkdir(parents=True)
        (path / "engine" / "mp_rank_00_model_states.pt").write_bytes(b"no pickle" * 9)
        file = path / "engine" / "mp_rank_00_model_states.pt"
        entry = {"bytes": file.stat().st_size, "blake2b": file_hash(file)}
        parts[0].step = step
        own = {**now, **state_of(parts[0]), "window": parts[0].metrics.window.state_dict(), "best_step": 3}
        state = {**own, "files": {"engine/mp_rank_00_model_states.pt": entry}}
        write_json(path / "checkpoint.json", state)
    write_json(output / "config.json", config.model_dump(mode="json"))
    write_json(output / "run.json", {})
    (output / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics()))
    return output, state, now, parts


def checkpoints(folder: Path) -> Run:
    config = project(folder)
    output, good, now, parts = checkpoint_of(folder, config)
    mark = output / "checkpoints" / "step-000006" / "checkpoint.json"
    lines = (output / "metrics.jsonl").read_bytes()
    others = [part.weighting.state_dict() for part in parts]

    def run(random: Random) -> None:
        mark.parent.mkdir(exist_ok=True)
        number = random.randrange(len(parts))
        state = {**good, "weighting": others[number]}
        key = random.choice(list(state))
        mark.write_bytes(
            as_bytes(
                random, spoilt(random, state) if chance(random, 0.2) else {**state, key: spoilt(random, state[key])}
            )
        )
        (output / "metrics.jsonl").write_bytes(damaged(random, lines) if chance(random, 0.1) else lines)
        with redirect_stdout(StringIO()):
            if chance(random, 0.1):
                open_run(output, random.choice(["best", "last", "step-6", "step-x"]))
            found = find_checkpoint(output, random.choice(["best", *["last"] * 6, "step-6", "x"]))
            with_rows_of(config, found, random.choice([1, 2, 3, 5]))
            check_identity(found, now)
            verify_files(found, Group())
            cut(output, found.step)
            with reading(found):
                restore(parts[number], dict(found.state))
            if found.step == 3 and chance(random, 0.2):
                set_aside_later(output, 3)
                shutil.rmtree(output / "left-at-step-000003", ignore_errors=True)
            complete_checkpoints(output)

    return run
