"""One self-contained HTML page about one or several runs. No request leaves it, and no text from a file can run."""

import math
from pathlib import Path
from typing import Any

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from mftcoder.report import markup, tables
from mftcoder.report.compare import Comparison, compare_runs
from mftcoder.report.figures import draw
from mftcoder.report.markup import check_is_file, embed, resource, write_page
from mftcoder.report.plots import PLOTS
from mftcoder.report.run_folder import Run, read_runs

SECTIONS = {"progress": "Losses", "weighting": "Balance of the tasks", "optimisation": "Optimisation"}


def write_report(runs: list[Path], to: Path) -> Path:
    """Write the page about the runs in these folders to the file ``to`` and return it.

    Raises:
        MftcoderError: a folder is not a run's, or ``to`` is a folder.
    """
    check_is_file(to)
    return write_page(render(read_runs(runs)), to)


def render(runs: list[Run]) -> str:
    """The page as HTML."""
    comparison = compare_runs(runs)
    summaries, tasks = list(comparison.runs), list(comparison.tasks)
    figures = {plot.id: draw(plot, runs, summaries, tasks) for plot in PLOTS}
    script = resource("page.js")
    plotly = Markup(get_plotlyjs())
    sections = [
        (heading, [plot for plot in PLOTS if plot.section == section and figures[plot.id]])
        for section, heading in SECTIONS.items()
    ]
    return markup.render(
        "page.html",
        scripts=[plotly, script],
        command="report",
        title=", ".join(run.label for run in runs),
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
