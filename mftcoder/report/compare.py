"""Several runs side by side, in numbers."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Column, Table
from rich.text import Text

from mftcoder.report.run_folder import Run, all_tasks, flatten, read_runs
from mftcoder.report.summary import Summary, TaskOutcome, summarize

ABSENT = "—"


@dataclass(frozen=True)
class Comparison:
    """What the runs reached, and the settings in which they differ. The others are held against the first run."""

    runs: tuple[Summary, ...]
    tasks: tuple[str, ...]
    settings: dict[str, list[str]]  # dotted key -> its value in each run, as JSON; ABSENT where a run lacks it

    def difference(self, task: str, run: Summary) -> float:
        """Best-evaluation loss of ``run`` minus that of the first run, nats; NaN where either is unknown."""
        return _outcome(run, task).best - _outcome(self.runs[0], task).best

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; null where a number is unknown."""
        runs = []
        for run in self.runs:
            numbers = asdict(run)
            for task, outcome in run.tasks.items():
                numbers["tasks"][task] |= {"change": outcome.change, "difference": self.difference(task, run)}
            runs.append(numbers)
        return _nan_to_null({"runs": runs, "differing_settings": self.settings})

    def table(self) -> Table:
        """Best validation loss per task, the run's totals, and the settings that differ; one column a run."""
        table = Table("", *(Column(Text(run.label), justify="right") for run in self.runs))
        for task in self.tasks:
            table.add_row(Text(task), *(Text(self._loss_cell(task, run)) for run in self.runs))
        table.add_section()
        table.add_row("mean ratio to first", *(_format(run.mean_ratio, ".3f") for run in self.runs))
        table.add_row("spread of ratios", *(_format(run.spread, ".3f") for run in self.runs))
        table.add_row("best at step", *(_format(run.best_step, ".0f") for run in self.runs))
        table.add_row("last step", *(_format(run.last_step, ".0f") for run in self.runs))
        table.add_row("tokens/s", *(_format(run.tokens_per_second, ",.0f") for run in self.runs))
        table.add_section()
        for key, values in self.settings.items():
            table.add_row(Text(key), *(Text(value) for value in values))
        return table

    def _loss_cell(self, task: str, run: Summary) -> str:
        outcome = _outcome(run, task)
        cell = f"{_format(outcome.first, '.4f')} → {_format(outcome.best, '.4f')}"
        return cell if run is self.runs[0] else f"{cell} ({_format(self.difference(task, run), '+.4f')})"


def compare(runs: list[Path]) -> Comparison:
    """Hold the runs in these folders against the first of them; MftcoderError if a folder is not a run's."""
    return compare_runs(read_runs(runs))


def compare_runs(runs: list[Run]) -> Comparison:
    """The same, of runs already read."""
    summaries = tuple(summarize(run) for run in runs)
    return Comparison(summaries, tuple(all_tasks(runs)), differing_settings([run.config for run in runs]))


def differing_settings(configs: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Dotted key to its value in each config, for the keys whose values are not all equal. A list is one value."""
    flat = [flatten(config) for config in configs]
    keys = dict.fromkeys(key for settings in flat for key in settings)
    values = {key: [settings.get(key, ABSENT) for settings in flat] for key in keys}
    return {key: row for key, row in values.items() if len(set(row)) > 1}


def _outcome(run: Summary, task: str) -> TaskOutcome:
    return run.tasks.get(task, TaskOutcome(*[math.nan] * 5))


def _format(value: float, spec: str) -> str:
    return format(value, spec) if math.isfinite(value) else ABSENT


def _nan_to_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _nan_to_null(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_nan_to_null(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
