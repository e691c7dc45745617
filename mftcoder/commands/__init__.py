"""The commands: one module per group, which holds the arguments of each command beside what it does with them.

Libraries are imported where they are used, so that ``--help`` and config errors come at once.
"""

import argparse

from mftcoder import __doc__ as purpose
from mftcoder import __version__
from mftcoder.commands import construct, data, evaluate, export, generate, reports, setup, training
from mftcoder.commands.options import Command

GROUPS = (construct, data, training, evaluate, generate, export, reports, setup)
COMMANDS: dict[str, Command] = {command.name: command for group in GROUPS for command in group.COMMANDS}
EXIT_CODES = "Exit codes: 0 done, 1 failed, 2 the input is at fault. Each command has its own --help."


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands; ``name`` holds the one that was given."""
    parser = argparse.ArgumentParser(prog="mftcoder", description=purpose, epilog=EXIT_CODES)
    parser.add_argument("--version", action="version", version=f"mftcoder {__version__}")
    # Launchers put it before the command; the ranks themselves come from the environment.
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    parsers = parser.add_subparsers(title="commands", dest="name", required=True, metavar="COMMAND")
    for command in COMMANDS.values():
        command.declare(
            parsers.add_parser(
                command.name,
                help=command.purpose,
                description=command.description,
                epilog=f"example:\n  {command.example}",
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
        )
    return parser
