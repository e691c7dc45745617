"""What a run writes down while it trains: metrics.jsonl always, other trackers if asked, and a progress line."""

import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.text import Text

from mftcoder.config.schema import Config
from mftcoder.errors import MftcoderError
from mftcoder.losses.weighting import Vector
from mftcoder.tasks import TaskSet
from mftcoder.training.flops import Hardware
from mftcoder.training.ranks import RankTimes
from mftcoder.training.step import StepResult
from mftcoder.training.trackers import IDENTITY, Trackers

FILE = "metrics.jsonl"
Part = Literal[
    "data", "communication", "probe", "validation", "agreement", "save"
]  # of the time; the first two lie within steps


class Window:
    """What was summed since the last line of metrics.jsonl. Part of the checkpoint, so that resuming loses no step."""

    def __init__(self, num_tasks: int) -> None:
        self.totals, self.units, self.weights = np.zeros((3, num_tasks))
        self.loss = self.router_loss = self.seconds = 0.0
        self.steps = self.skipped = self.tokens = self.supervised_tokens = self.pairs = 0
        self.parts: dict[str, float] = dict.fromkeys(get_args(Part), 0.0)  # seconds

    def add(self, result: StepResult, seconds: float) -> None:
        self.steps += 1
        self.seconds += seconds
        self.tokens += result.tokens
        self.supervised_tokens += result.supervised_tokens
        self.pairs += result.pairs
        if result.info.skipped:
            self.skipped += 1
            return
        self.totals += result.totals
        self.units += result.units
        self.weights += result.weights
        self.loss += result.loss
        self.router_loss += result.router_loss

    @property
    def overhead(self) -> float:
        """The share of the time in which no step was computed: waiting for data, looking at losses, saving."""
        beside = sum(self.parts[part] for part in ("probe", "validation", "agreement", "save"))
        return (self.parts["data"] + beside) / (self.seconds + beside)

    def state_dict(self) -> dict[str, Any]:
        return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in vars(self).items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for key, value in state.items():
            setattr(self, key, np.array(value) if isinstance(value, list) else value)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Nobody reads on (as after `| head`): no reason to end the training, which is what rich would do."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Metrics:
    """Writes on rank 0; on other ranks every method returns at once, but ``step``, which compares the ranks."""

    def __init__(
        self,
        config: Config,
        tasks: TaskSet,
        hardware: Hardware,
        *,
        first_step: int,
        total_steps: int,
        enabled: bool,
        ranks: RankTimes | None = None,
    ) -> None:
        """``ranks``: to compare those of a run that has several."""
        self._ranks = ranks
        self.window = Window(len(tasks))
        self._tasks, self._hardware, self._total_steps, self._enabled = tasks, hardware, total_steps, enabled
        self._every = config.logging.logging_steps
        self._steps_here, self._start = 0, time.perf_counter()
        if not enabled:
            return
        self._file = (Path(config.output_dir) / FILE).open("a", encoding="utf-8")
        self._console = _Console()
        self._live = Live(console=self._console, refresh_per_second=4, transient=True)
        if self._console.is_terminal:
            self._live.start()
        self._trackers = Trackers(config, first_step, self.tell)

    @contextmanager
    def timing(self, part: Part) -> Iterator[None]:
        """Count the time inside as ``part``; it stands in the next line that is written of steps."""
        start = time.perf_counter()
        yield
        self.window.parts[part] += time.perf_counter() - start

    def tell(self, message: str) -> None:
        """A line for the user."""
        if not self._enabled:
            return
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def write(self, kind: str, step: int, **values: Any) -> None:
        """One line of metrics.jsonl; vectors [K] become objects by task, with null for what is not finite."""
        if not self._enabled:
            return
        line: dict[str, Any] = {"kind": kind, "step": step}
        for name, value in values.items():
            line[name] = self._by_task(value) if isinstance(value, np.ndarray) and value.ndim else _plain(value)
        self._file.write(json.dumps(line, allow_nan=False, ensure_ascii=False) + "\n")
        self._file.flush()
        numbers = {
            f"{kind}/{name}/{suffix}".rstrip("/"): number
            for name, value in line.items()
            for suffix, number in (value.items() if isinstance(value, dict) else [("", value)])
            if isinstance(number, int | float) and name != "step"
        }
        self._trackers.log(numbers, step)

    def step(
        self,
        result: StepResult,
        *,
        step: int,
        epoch: float,
        passes: Vector,
        learning_rate: float,
        seconds: float,
        data_seconds: float,
        communication_seconds: float,
        last: bool,
    ) -> None:
        """Note an optimizer step; every ``logging_steps`` and on the ``last`` one, write the window's line.

        ``passes`` [K] are how often each task's rows were seen so far. ``seconds`` are the step's own: with waiting for
        its data, without validation and saving; ``data_seconds`` of them it waited for data, ``communication_seconds``
        for other ranks.
        """
        self.window.add(result, seconds)
        self.window.parts["data"] += data_seconds
        self.window.parts["communication"] += communication_seconds
        self._steps_here += 1
        if not (step % self._every == 0 or last):
            return
        window, taken = self.window, max(1, self.window.steps - self.window.skipped)
        rate = window.tokens / window.seconds
        compared = self._compare_ranks(step)
        losses = np.divide(window.totals, window.units, out=np.full(len(self._tasks), np.nan), where=window.units > 0)
        self.write(
            "train",
            step,
            epoch=epoch,
            passes=passes,
            loss=window.loss / taken,
            losses=losses,
            router_loss=window.router_loss / taken,
            weights=window.weights / taken,
            units=window.units,
            tokens=window.tokens,
            supervised_tokens=window.supervised_tokens,
            learning_rate=learning_rate,
            grad_norm=result.info.grad_norm,
            seconds=window.seconds,
            tokens_per_second=rate,
            supervised_tokens_per_second=window.supervised_tokens / window.seconds,
            mfu=self._hardware.utilisation(window.tokens, window.supervised_tokens, window.pairs, window.seconds),
            memory_gib=self._hardware.memory_gib(),
            overhead=window.overhead,
            **{f"{part}_seconds": spent for part, spent in window.parts.items()},
            **compared,
            skipped=window.skipped,
        )
        self._show(step, window.loss / taken, losses, window.weights / taken, rate)
        self.window = Window(len(self._tasks))

    def _compare_ranks(self, step: int) -> dict[str, float]:
        if self._ranks is None:
            return {}
        seconds, slow = self._ranks.compare(self.window.parts["data"])
        if slow:
            self.write("slow_rank", step, rank=slow.rank, host=slow.host, own_seconds=slow.seconds)
            self.tell(f"step {step}: {slow}")
        median = statistics.median_low(seconds.tolist())
        return {"slowest_rank_seconds": float(seconds.max()), "median_rank_seconds": median}

    def close(self) -> None:
        if self._enabled:
            self._live.stop()
            self._file.close()
            self._trackers.close()

    def _show(self, step: int, loss: float, losses: Vector, weights: Vector, rate: float) -> None:
        if not self._enabled:
            return
        wall_per_step = (time.perf_counter() - self._start) / self._steps_here  # validation and saving included
        left = timedelta(seconds=round(wall_per_step * (self._total_steps - step)))
        tasks = "  ".join(
            f"{name} {value:.3f} (w {weight:.2f})" if np.isfinite(value) else f"{name} –"
            for name, value, weight in zip(self._tasks, losses, weights, strict=True)
        )
        line = f"step {step}/{self._total_steps}  loss {loss:.4f}  {tasks}  {rate:,.0f} tokens/s  left {left}"
        if self._live.is_started:
            self._live.update(Text(line))
        else:
            self.tell(line)

    def _by_task(self, values: Vector) -> dict[str, float | None]:
        return {name: _plain(value) for name, value in zip(self._tasks, values, strict=True)}


def cut(output_dir: Path, step: int) -> None:
    """Drop from metrics.jsonl what came after step ``step``: later lines, the run's end, a line half written.

    With a negative ``step`` nothing is kept, of the events for TensorBoard neither; for other trackers it is a new run.
    """
    if step < 0:
        (output_dir / IDENTITY).unlink(missing_ok=True)
        shutil.rmtree(output_dir / "tensorboard", ignore_errors=True)
    path = output_dir / FILE
    if not path.exists():
        return
    kept = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            break
        try:
            entry = json.loads(line)
            is_kept = entry["step"] <= step and entry["kind"] != "stop"
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise MftcoderError(f"{path}:{number}: is no line of metrics ({error}). Delete it to resume.") from error
        if is_kept:
            kept.append(line)
    aside = path.with_name(FILE + ".partial")
    aside.write_bytes(b"".join(kept))
    os.replace(aside, path)


def _plain(value: Any) -> Any:
    """A NumPy scalar as Python's; a float that is not finite as None, since JSON has none."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
