"""One self-contained HTML page about one or several runs. No request leaves it, and no text from a file can run."""

import base64
import hashlib
import json
import math
import os
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from mftcoder.errors import MftcoderError
from mftcoder.report import tables
from mftcoder.report.compare import ABSENT, Comparison, compare_runs
from mftcoder.report.figures import draw
from mftcoder.report.plots import PLOTS
from mftcoder.report.run_folder import Run, read_runs

SECTIONS = {"progress": "Losses", "weighting": "Balance of the tasks", "optimisation": "Optimisation"}


def write_report(runs: list[Path], to: Path) -> Path:
    """Write the page about the runs in these folders to the file ``to`` and return it.

    Raises:
        MftcoderError: a folder is not a run's, or ``to`` is a folder.
    """
    if to.is_dir():
        raise MftcoderError(
            f"{to}: a file name is needed for the report, found a folder. Name a file, as {to}/report.html."
        )
    page = render(read_runs(runs))
    to.parent.mkdir(parents=True, exist_ok=True)
    aside = to.with_name(f".{to.name}.{os.getpid()}")
    aside.write_text(page, encoding="utf-8", errors="replace")  # JSON can hold lone surrogates, UTF-8 cannot
    aside.replace(to)
    return to


def render(runs: list[Run]) -> str:
    """The page as HTML."""
    comparison = compare_runs(runs)
    summaries, tasks = list(comparison.runs), list(comparison.tasks)
    figures = {plot.id: draw(plot, runs, summaries, tasks) for plot in PLOTS}
    script = _resource("page.js")
    plotly = Markup(get_plotlyjs())
    sections = [
        (heading, [plot for plot in PLOTS if plot.section == section and figures[plot.id]])
        for section, heading in SECTIONS.items()
    ]
    return (
        _environment()
        .get_template("page.html")
        .render(
            title=", ".join(run.label for run in runs),
            policy=_content_security_policy(plotly, script),
            style=_resource("page.css"),
            plotly=plotly,
            script=script,
            embedded=embed([figure for figure in figures.values() if figure]),
            runs=runs,
            tasks=tasks,
            comparison=comparison,
            outcomes=_outcomes(comparison),
            sections=[(heading, plots) for heading, plots in sections if plots],
            evaluations=tables.evaluation_rows(runs),
            generations=tables.generation_groups(runs),
            data=tables.data_tables(runs),
            facts=[tables.facts(run) for run in runs],
        )
    )


def _outcomes(comparison: Comparison) -> list[dict[str, Any]]:
    return [
        {
            "task": task,
            "run": index,
            "outcome": run.tasks[task],
            "difference": comparison.difference(task, run) if index else math.nan,
        }
        for task in comparison.tasks
        for index, run in enumerate(comparison.runs)
        if task in run.tasks
    ]


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("mftcoder.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=_number, duration=_duration, pretty=_pretty)
    return environment


def _number(value: Any, spec: str = ",.4g") -> str:
    """``value`` as text: whole numbers in full, others by ``spec``, what is not known as a dash."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ABSENT
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:{spec}}".replace("-", "−") if isinstance(value, float) else str(value)


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return ABSENT
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _resource(name: str) -> Markup:
    return Markup((files("mftcoder.report") / name).read_text(encoding="utf-8"))


def embed(value: Any) -> Markup:
    """``value`` as JSON that cannot close its script element, whatever its strings hold."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def _content_security_policy(*scripts: str) -> str:
    """A policy that lets these scripts run and nothing else run or load, should escaping ever fail."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{value}'" for value in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
