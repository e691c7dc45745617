"""Measuring models."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from mftcoder.commands.options import ANY_MODEL, Command, PathOrUrl, add_json, add_verify
from mftcoder.commands.output import show, to_json, write


def _declare_evaluate(parser: ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=ANY_MODEL)
    parser.add_argument("--shards", type=PathOrUrl, required=True, metavar="DIR", help="shards made with its tokenizer")
    add_verify(parser)
    parser.add_argument(
        "--split", default="validation", choices=("train", "probe", "validation"), help="default: validation"
    )
    parser.add_argument("--against", metavar="MODEL", help="a second model, on the same rows")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the result as JSON")
    add_json(parser, "print the result as JSON")


def _evaluate(arguments: Namespace) -> int:
    """The loss of each task, of one model or of two."""
    from mftcoder.data.shards import Shards
    from mftcoder.evaluation.losses import evaluate, table

    shards = Shards.open(arguments.shards, arguments.verify)
    result = evaluate(arguments.model, shards, split=arguments.split, against=arguments.against)
    if arguments.output:
        write(arguments.output, to_json(result))
    show(arguments, result, table(result))
    return 0


COMMANDS = (
    Command(
        "evaluate",
        "measure the loss of each task",
        _declare_evaluate,
        _evaluate,
        "mftcoder evaluate exports/code --shards shards/code --against Qwen/Qwen2.5-Coder-7B",
    ),
)
