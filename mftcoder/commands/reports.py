"""What happened in runs, and what would have happened."""

import json
from argparse import ArgumentParser, Namespace

from mftcoder.commands.options import Command, add_json, local, positive
from mftcoder.commands.output import show, tell, to_json, write
from mftcoder.errors import MftcoderError


def _declare_report(parser: ArgumentParser) -> None:
    parser.add_argument("runs", type=local, nargs="+", metavar="RUN", help="output_dir of a run")
    parser.add_argument("--to", type=local, metavar="FILE", help="default: report.html in the first run")


def _report(arguments: Namespace) -> int:
    """Runs as one HTML page."""
    from mftcoder.report.page import write_report

    page = write_report(arguments.runs, arguments.to or arguments.runs[0] / "report.html")
    tell(f"wrote {page}")
    return 0


def _declare_compare(parser: ArgumentParser) -> None:
    parser.add_argument("runs", type=local, nargs="+", metavar="RUN", help="output_dir of a run")
    add_json(parser, "print the comparison as JSON")


def _compare(arguments: Namespace) -> int:
    """Runs side by side, in numbers."""
    from mftcoder.report.compare import compare

    comparison = compare(arguments.runs)
    show(arguments, comparison.as_dict(), comparison.table())
    return 0


def _declare_simulate(parser: ArgumentParser) -> None:
    parser.add_argument("--weighting", required=True, metavar="JSON", help="what loss.weighting would hold")
    parser.add_argument(
        "--losses",
        type=local,
        required=True,
        metavar="FILE",
        help="a run or its metrics.jsonl (the probe's losses, else those of validation), CSV with a column per task, "
        "or JSON with the lists of losses of each step",
    )
    parser.add_argument("--case", metavar="NAME", help="which object of a JSON file that holds several")
    parser.add_argument(
        "--interval", type=positive, metavar="N", help="steps between rows (default: as recorded, else 1)"
    )
    parser.add_argument("--to", type=local, metavar="FILE", help="write it all as JSON, or as CSV if FILE ends in .csv")
    add_json(parser, "print it all as JSON")


def _simulate(arguments: Namespace) -> int:
    """What a weighting would have made of recorded losses."""
    try:
        weighting = json.loads(arguments.weighting)
    except (ValueError, RecursionError) as error:
        raise MftcoderError(f"--weighting: not JSON: {error}. Give what loss.weighting would hold.") from None
    if not isinstance(weighting, dict):
        raise MftcoderError(f"--weighting: must be a JSON object; found {arguments.weighting}.")
    from mftcoder.report.replay import as_csv, as_json, read_losses, simulation, table

    result = simulation(weighting, read_losses(arguments.losses, arguments.case), arguments.interval)
    if arguments.to:
        write(arguments.to, as_csv(result) if arguments.to.suffix == ".csv" else to_json(as_json(result)))
    else:
        show(arguments, as_json(result), table(result))
    return 0


COMMANDS = (
    Command(
        "report",
        "write what happened as one HTML page",
        _declare_report,
        _report,
        "mftcoder report runs/uniform runs/coba --to report.html",
    ),
    Command(
        "compare",
        "hold runs against the first of them, in numbers",
        _declare_compare,
        _compare,
        "mftcoder compare runs/uniform runs/coba",
    ),
    Command(
        "simulate",
        "replay recorded losses through a task weighting",
        _declare_simulate,
        _simulate,
        """mftcoder simulate --weighting '{"type": "coba", "window_steps": 100}' --losses runs/uniform""",
    ),
)
