"""A run of two ranks that is killed every few minutes and resumed, beside one that is left alone: both must end alike.

    python tools/soak.py FOLDER --seconds 3600

Kills, each by chance: one rank, the launcher, all at once (SIGKILL), or the launcher asked to stop (SIGTERM). What is
compared: every weight, bit for bit. What is watched: memory, open files, and processor time per step of each rank.
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from safetensors import safe_open

HERE = Path(__file__).parent
CALIBRATION_STEPS = (200, 600)  # between these, the rate is measured
MIB = 2**20
PATIENCE = 300  # seconds


@dataclass
class Sample:
    """What one rank held at one moment."""

    resident_mib: float
    open_files: int
    processor_seconds: float
    step: int


@dataclass
class Run:
    """One output folder, and all the starts it took."""

    config: Path
    folder: Path
    starts: int = 0
    kills: list[str] = field(default_factory=list)
    samples: dict[int, list[Sample]] = field(default_factory=dict)  # process -> in order of time
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, or resume, the two ranks in a process group of their own."""
        self.starts += 1
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        command += ["-m", "mftcoder", "train", str(self.config), "--resume"]
        with (self.folder.parent / f"{self.folder.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
            )

    @property
    def step(self) -> int:
        """The last step in metrics.jsonl; 0 before there is one."""
        try:
            lines = (self.folder / "metrics.jsonl").read_text().splitlines()
        except OSError:
            return 0
        return next((entry["step"] for entry in map(_parse, reversed(lines)) if "step" in entry), 0)

    def ranks(self) -> list[psutil.Process]:
        """The processes of the ranks that live."""
        assert self.process is not None
        try:
            return psutil.Process(self.process.pid).children()
        except psutil.NoSuchProcess:
            return []

    def watch(self) -> None:
        """Note what each rank holds."""
        step = self.step
        for rank in self.ranks():
            with suppress(psutil.NoSuchProcess), rank.oneshot():
                times, resident = rank.cpu_times(), rank.memory_info().rss / MIB
                sample = Sample(resident, rank.num_fds(), times.user + times.system, step)
                self.samples.setdefault(rank.pid, []).append(sample)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=3600, help="how long the disturbed run is to take, about")
    parser.add_argument("--steps", type=int, help="instead of --seconds: so many steps")
    parser.add_argument(
        "--between", type=float, nargs=2, default=(60.0, 300.0), help="seconds of training before a kill"
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True)
    subprocess.run([sys.executable, str(HERE / "smoke_corpus.py"), str(arguments.folder)], check=True)
    steps = arguments.steps or _steps_for(arguments.folder, arguments.seconds)
    undisturbed, disturbed = (_new_run(arguments.folder, name, steps) for name in ("undisturbed", "disturbed"))
    began = time.monotonic()
    undisturbed.start()
    taken = disturb(disturbed, undisturbed, random.Random(arguments.seed), arguments.between)
    assert undisturbed.process is not None
    while undisturbed.process.poll() is None:
        undisturbed.watch()
        time.sleep(5)
    assert undisturbed.process.returncode == 0, "the undisturbed run failed: see its log"
    different = differences(undisturbed.folder, disturbed.folder, steps)
    print(json.dumps(report(disturbed, undisturbed, steps, taken, time.monotonic() - began, different), indent=2))
    sys.exit(bool(different))


def disturb(run: Run, other: Run, draw: random.Random, between: tuple[float, float]) -> float:
    """Start ``run`` again and again until it is through; return the seconds that took."""
    began = time.monotonic()
    while True:
        run.start()
        process, first, due = run.process, run.step, None
        ranks: list[psutil.Process] = []
        assert process is not None
        while process.poll() is None:
            ranks = run.ranks() or ranks
            run.watch()
            other.watch()
            if due is None and run.step > first:  # it trains: from now on it may be hit
                due = time.monotonic() + draw.uniform(*between)
            if due is not None and time.monotonic() > due:
                run.kills.append(_kill(run, draw))
                break
            time.sleep(2)
        code = process.wait()
        _wait_for_the_end(ranks)
        if code == 0:
            return time.monotonic() - began
        if not run.kills or len(run.kills) < run.starts:
            raise SystemExit(f"start {run.starts} ended with {code} though nobody killed it: see its log")


def differences(one: Path, other: Path, steps: int) -> list[str]:
    """The names of the weights that differ in any bit, by exports of the last checkpoints."""
    folders = []
    for run in (one, other):
        folders.append(run.parent / f"{run.name}-exported")
        subprocess.run(
            [
                sys.executable,
                "-m",
                "mftcoder",
                "export",
                str(run),
                "--checkpoint",
                f"step-{steps}",
                "--to",
                folders[-1],
            ],
            check=True,
        )
    with (
        safe_open(folders[0] / "model.safetensors", "np") as expected,
        safe_open(folders[1] / "model.safetensors", "np") as found,
    ):
        assert set(expected.keys()) == set(found.keys())
        return [
            name
            for name in expected.keys()  # noqa: SIM118
            if expected.get_tensor(name).tobytes() != found.get_tensor(name).tobytes()
        ]


def report(
    disturbed: Run, undisturbed: Run, steps: int, taken: float, seconds: float, different: list[str]
) -> dict[str, Any]:
    """The figures."""
    longest = max(disturbed.samples.values(), key=len)
    return {
        "steps": steps,
        "seconds": round(seconds),
        "seconds of the disturbed run": round(taken),
        "starts": disturbed.starts,
        "kills": {kind: disturbed.kills.count(kind) for kind in sorted(set(disturbed.kills))},
        "weights that differ": different,
        "undisturbed": [trend(samples) for samples in undisturbed.samples.values() if len(samples) > 20],
        "longest life of a disturbed rank": trend(longest),
    }


def trend(samples: list[Sample]) -> dict[str, Any]:
    """Medians over the second and the last tenth of a rank's life (the first is start-up)."""
    tenth = max(1, len(samples) // 10)
    early, late = samples[tenth : 2 * tenth + 1], samples[-tenth - 1 :]

    def per_step(part: list[Sample]) -> float | None:
        done = part[-1].step - part[0].step
        return round(1000 * (part[-1].processor_seconds - part[0].processor_seconds) / done, 2) if done else None

    return {
        "samples": len(samples),
        "steps": [part[-1].step for part in (early, late)],
        "resident MiB": [round(statistics.median(s.resident_mib for s in part), 1) for part in (early, late)],
        "open files": [statistics.median(s.open_files for s in part) for part in (early, late)],
        "processor ms per step": [per_step(samples[tenth : len(samples) // 2]), per_step(samples[len(samples) // 2 :])],
    }


def _kill(run: Run, draw: random.Random) -> str:
    """Hit the run in one of four ways, and say which."""
    assert run.process is not None
    kind = draw.choice(["a rank", "the launcher", "all", "asked to stop"])
    launcher, ranks = run.process.pid, [rank.pid for rank in run.ranks()]
    victims = {"a rank": ranks and [draw.choice(ranks)], "all": [launcher, *ranks]}
    for victim in victims.get(kind, [launcher]):
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGTERM if kind == "asked to stop" else signal.SIGKILL)
    return kind


def _wait_for_the_end(ranks: list[psutil.Process]) -> None:
    """Ranks must end without their launcher; those that do not are a failure."""
    _, alive = psutil.wait_procs(ranks, timeout=PATIENCE)
    for rank in alive:
        rank.kill()
    if alive:
        raise SystemExit(f"ranks lived {PATIENCE} s longer than their launcher")


def _new_run(folder: Path, name: str, steps: int) -> Run:
    config = json.loads((folder / "config.json").read_text())
    config["output_dir"] = str(folder / name)
    config["training"] |= {
        "gradient_accumulation_steps": 1,
        "learning_rate": 1e-4,
        "neftune_noise_alpha": 5,  # random numbers in every step
        "max_steps": steps,
        "eval_steps": 500,
        "save_steps": 250,
        "save_total_limit": 3,
    }
    config["loss"]["weighting"] |= {"window_steps": 100, "warmup_steps": 40, "probe": {"every_steps": 20}}
    config["logging"] = {"logging_steps": 50, "report_to": ["tensorboard"]}
    file = folder / f"{name}.json"
    file.write_text(json.dumps(config, indent=2), encoding="utf-8")
    return Run(file, folder / name)


def _steps_for(folder: Path, seconds: float) -> int:
    """About how many steps two such runs make in that time."""
    run = _new_run(folder, "calibration", CALIBRATION_STEPS[1])
    run.start()
    assert run.process is not None
    while run.step < CALIBRATION_STEPS[0]:
        assert run.process.poll() is None, "calibration failed: see its log"
        time.sleep(0.5)
    first, began = run.step, time.monotonic()
    assert run.process.wait() == 0, "calibration failed: see its log"
    rate = (CALIBRATION_STEPS[1] - first) / (time.monotonic() - began)
    return max(1000, int(seconds * rate / 2 / 250) * 250)


def _parse(line: str) -> dict[str, Any]:
    try:
        return json.loads(line)
    except ValueError:  # the line that is being written
        return {}


if __name__ == "__main__":
    main()
