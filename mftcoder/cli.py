"""The command line. One function per subcommand: parse, call, print. Libraries are imported by the one that needs them."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mftcoder import __doc__ as purpose
from mftcoder import __version__
from mftcoder.config.schema import Config
from mftcoder.errors import MftcoderError, ReportedByMain

Command = Callable[[argparse.Namespace], int]
INTERRUPTED = 130  # as shells report SIGINT
TABLE_WIDTH = 160  # columns, where the output is no terminal


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand. Returns 0: done; 1: failed; 2: the input is at fault; 130: interrupted."""
    arguments = make_parser().parse_args(argv)
    try:
        return arguments.command(arguments)
    except ReportedByMain as error:
        return error.exit_code
    except MftcoderError as error:
        print(f"mftcoder {arguments.name}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"mftcoder {arguments.name}: interrupted", file=sys.stderr)
        return INTERRUPTED


def make_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands."""
    parser = argparse.ArgumentParser(prog="mftcoder", description=purpose, epilog="Exit codes: 0 done, 1 failed, 2 the input is at fault.")
    parser.add_argument("--version", action="version", version=f"mftcoder {__version__}")
    # Launchers put it before the subcommand; the rank itself comes from the environment.
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    subcommands = parser.add_subparsers(title="commands", dest="name", required=True, metavar="COMMAND")
    for add in (_add_tokenize, _add_inspect, _add_train, _add_evaluate, _add_generate, _add_export, _add_report):
        add(subcommands)
    for add in (_add_compare, _add_validate, _add_schema, _add_env, _add_import_config, _add_completion):
        add(subcommands)
    return parser
