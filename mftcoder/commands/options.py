"""What a command is, and the options and kinds of values that several commands have."""

import math
from argparse import ArgumentParser, ArgumentTypeError, Namespace, _ActionsContainer
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from mftcoder.errors import MftcoderError

ANY_MODEL = "a run, one of its checkpoints, a folder that transformers or peft loads, or a hub id"


class Command(NamedTuple):
    """What comes after ``mftcoder``, or after ``mftcoder construct``."""

    name: str
    purpose: str
    declare: Callable[[ArgumentParser], None]  # adds its arguments
    run: Callable[[Namespace], int]  # does it; the exit code
    example: str = ""  # shown below its help

    @property
    def description(self) -> str:
        """The purpose as a sentence."""
        return f"{self.purpose[0].upper()}{self.purpose[1:]}."


class PathOrUrl(str):
    """A path, or a URL that a Path would spoil."""


def local(text: str) -> Path:
    """A path on this machine. A URL, which a Path would spoil, is refused, and not repeated: it may hold a password."""
    if "://" in text:
        raise ArgumentTypeError("must be a path on this machine; found a URL")
    return Path(text)


def model(text: str) -> str:
    """What ``ANY_MODEL`` says."""
    if "://" in text:
        raise ArgumentTypeError(f"must be {ANY_MODEL} (ORG/NAME); found a URL")
    return text


def add_config(parser: ArgumentParser) -> None:
    parser.add_argument("config", type=local, metavar="CONFIG", help="training config (JSON)")
    add_set(parser, "training.learning_rate=1e-5")


def add_set(parser: ArgumentParser, example: str) -> None:
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"override a key, e.g. {example}; repeatable",
    )


def add_verify(parser: _ActionsContainer) -> None:
    parser.add_argument(
        "--verify",
        choices=("quick", "full"),
        default="quick",
        help="check the sizes of the shards' files, or read them whole and check their contents (default: quick)",
    )


def add_json(parser: _ActionsContainer, meaning: str) -> None:
    parser.add_argument("--json", action="store_true", help=meaning)


def add_allow_execution(parser: _ActionsContainer) -> None:
    parser.add_argument(
        "--allow-execution", action="store_true", help="programs that a model wrote may be executed, in a sandbox"
    )


def add_sampling(parser: _ActionsContainer, max_new_tokens: int = 256) -> None:
    parser.add_argument(
        "--max-new-tokens", type=positive, default=max_new_tokens, metavar="N", help=f"default: {max_new_tokens}"
    )
    parser.add_argument(
        "--temperature", type=_temperature, default=0.0, metavar="T", help="0 (default): the likeliest token"
    )
    parser.add_argument("--top-p", type=_share, default=1.0, metavar="P", help="nucleus of the sampling (default: 1)")
    parser.add_argument("--seed", type=seed, default=0, metavar="S", help="of the sampling (default: 0)")
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end an answer before this; may be repeated"
    )


def sampling_of(arguments: Namespace) -> Any:
    """The ``Sampling`` that the options of ``add_sampling`` ask for."""
    from mftcoder.evaluation.sampling import Sampling

    if "" in arguments.stop:
        raise MftcoderError("--stop: is empty. Give the text at which answers end.")
    stop = tuple(arguments.stop)
    return Sampling(arguments.max_new_tokens, arguments.temperature, arguments.top_p, arguments.seed, stop)


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise ArgumentTypeError(f'must be an integer above 0; found "{text}"')
    return int(text)


def seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:
        raise ArgumentTypeError(f'must be an integer from 0 to {2**32 - 1}; found "{text}"')
    return int(text)


def _temperature(text: str) -> float:
    if not 0 <= (value := _number(text)) < math.inf:
        raise ArgumentTypeError(f'must be a number from 0 on; found "{text}"')
    return value


def _share(text: str) -> float:
    if not 0 < (value := _number(text)) <= 1:
        raise ArgumentTypeError(f'must be a number above 0 and at most 1; found "{text}"')
    return value


def _number(text: str) -> float:
    """NaN, which fails every comparison, if ``text`` is no number."""
    try:
        return float(text)
    except ValueError:
        return math.nan
