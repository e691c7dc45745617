"""Trying a model."""

import json
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path
from typing import Any

from mftcoder.commands.options import (
    ANY_MODEL,
    Command,
    PathOrUrl,
    add_json,
    add_sampling,
    local,
    model,
    positive,
    sampling_of,
)
from mftcoder.commands.output import print_piece, tell, write
from mftcoder.errors import MftcoderError


def _declare_generate(parser: ArgumentParser) -> None:
    parser.add_argument("model", type=model, metavar="MODEL", help=ANY_MODEL)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--prompt", metavar="TEXT", help="one user message (default: read it from standard input)")
    source.add_argument(
        "--prompts",
        type=local,
        metavar="FILE.jsonl",
        help='one a line: {"prompt": TEXT}, {"messages": […]} or {"prefix": TEXT, "suffix": TEXT}',
    )
    source.add_argument(
        "--messages", type=local, metavar="FILE.jsonl", help='one conversation a line: {"messages": […]}'
    )
    source.add_argument("--prefix", metavar="TEXT", help="write what comes between this and --suffix")
    source.add_argument(
        "--infill", type=local, metavar="FILE", help="write what belongs into a file, in place of its <FILL_ME>"
    )
    source.add_argument(
        "--held-out",
        type=PathOrUrl,
        metavar="SHARDS",
        help="validation samples; prints their true answers too, as JSON lines",
    )
    parser.add_argument("--suffix", metavar="TEXT", help="with --prefix: what follows (default: nothing)")
    parser.add_argument(
        "--sentinels",
        nargs=3,
        metavar=("BEFORE_PREFIX", "BEFORE_SUFFIX", "BEFORE_MIDDLE"),
        help="the model's tokens for infilling (default: those of the run's config, or of its tokenizer's family)",
    )
    parser.add_argument("--system", metavar="TEXT", help="with --prompt: a system message before it")
    parser.add_argument("--task", metavar="NAME", help="with --held-out: only this task (default: all)")
    parser.add_argument(
        "--per-task", type=positive, default=2, metavar="N", help="with --held-out: samples of each task (default: 2)"
    )
    add_sampling(parser)
    parser.add_argument("--samples", type=positive, default=1, metavar="N", help="answers to each (default: 1)")
    parser.add_argument(
        "--batch-size", type=positive, default=8, metavar="N", help="answers written at once (default: 8)"
    )
    parser.add_argument("--raw", action="store_true", help="continue the prompt as it is, without chat template")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--stream", action="store_true", help="print answers while they are written, one by one")
    shown.add_argument("--to", type=local, metavar="FILE.jsonl", help="write one JSON object a line into this file")
    add_json(shown, "print one JSON object a line")


def _generate(arguments: Namespace) -> int:
    """A model's answers to prompts, or to held-out samples beside the true ones."""
    _check_generate(arguments)
    prompts = None if arguments.held_out else _prompts(arguments)
    from mftcoder.evaluation.generation import generate, generate_held_out

    sampling, batch_size = sampling_of(arguments), arguments.batch_size
    if prompts is None:
        answers = generate_held_out(
            arguments.model,
            arguments.held_out,
            sampling,
            task=arguments.task,
            per_task=arguments.per_task,
            batch_size=batch_size,
        )
    else:
        answers = generate(
            arguments.model,
            prompts,
            sampling,
            num_samples=arguments.samples,
            batch_size=batch_size,
            tell=print_piece if arguments.stream else None,
        )
    if arguments.stream:
        return 0
    as_json = arguments.held_out or arguments.json or arguments.to
    lines = [json.dumps(answer, ensure_ascii=False) if as_json else answer["generated"] for answer in answers]
    if arguments.to:
        write(arguments.to, "\n".join(lines))
    else:
        print(*lines, sep="\n")
    return 0


def _declare_chat(parser: ArgumentParser) -> None:
    parser.add_argument("model", type=model, metavar="MODEL", help=ANY_MODEL)
    parser.add_argument("--system", metavar="TEXT", help="what the system message says (default: there is none)")
    add_sampling(parser)


def _chat(arguments: Namespace) -> int:
    """A conversation on the terminal."""
    from mftcoder.evaluation.chatting import chat

    chat(arguments.model, sampling_of(arguments), system=arguments.system, tell=print_piece)
    return 0


def _declare_serve(parser: ArgumentParser) -> None:
    parser.add_argument("model", type=model, metavar="MODEL", help=ANY_MODEL)
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="to listen on (default: 127.0.0.1, this machine alone)"
    )
    parser.add_argument("--port", type=_port, default=8000, metavar="N", help="default: 8000; 0: any that is free")
    parser.add_argument(
        "--name", dest="model_name", metavar="TEXT", help="of the model, for clients (default: the end of MODEL)"
    )


def _serve(arguments: Namespace) -> int:
    """The protocol of OpenAI's API, until a signal ends it."""
    from mftcoder.evaluation.server import serve

    name = arguments.model_name or Path(arguments.model).resolve().name
    serve(
        arguments.model,
        host=arguments.host,
        port=arguments.port,
        name=name,
        ready=lambda url: tell(f"serving {name} at {url}"),
    )
    return 0


def _check_generate(arguments: Namespace) -> None:
    """MftcoderError for options that do not go together."""
    infilling = arguments.prefix is not None or arguments.infill is not None
    for option, given, wrong, remedy in (
        ("--raw", arguments.raw, arguments.held_out, "held-out samples are continued token by token as they are"),
        ("--raw", arguments.raw, arguments.messages, "it continues plain text, but --messages holds conversations"),
        ("--raw", arguments.raw, infilling, "a text with a hole has no chat template to leave out"),
        ("--stream", arguments.stream, arguments.held_out, "held-out samples are printed as JSON lines"),
        (
            "--system",
            arguments.system is not None,
            arguments.raw or arguments.messages or infilling or arguments.prompts or arguments.held_out,
            "it stands before one user message, that of --prompt",
        ),
        ("--samples", arguments.samples > 1, arguments.held_out, "each held-out sample gets one answer"),
        ("--samples", arguments.samples > 1, not arguments.temperature, "all would be the same; add --temperature"),
        ("--suffix", arguments.suffix is not None, arguments.prefix is None, "it follows a --prefix"),
    ):
        if given and wrong:
            raise MftcoderError(f"{option}: {remedy}. Leave one of them out.")
    if arguments.task and not arguments.held_out:
        raise MftcoderError(f"--task {arguments.task}: only held-out samples have tasks. Add --held-out SHARDS.")


def _prompts(arguments: Namespace) -> list[Any]:
    """Conversations, texts with a hole, or with --raw strings."""
    from mftcoder.evaluation.prompts import Infilling, question, read_conversations, read_prompts, with_hole

    sentinels = tuple(arguments.sentinels) if arguments.sentinels else None
    if arguments.prompts:
        return read_prompts(arguments.prompts, raw=arguments.raw, sentinels=sentinels)
    if arguments.messages:
        return read_conversations(arguments.messages)
    if arguments.infill:
        return [with_hole(_read_text(arguments.infill), str(arguments.infill), sentinels)]
    if arguments.prefix is not None:
        parts = (_utf8(arguments.prefix, "--prefix"), _utf8(arguments.suffix or "", "--suffix"))
        return [Infilling(*parts, sentinels)]
    try:
        text = _utf8(sys.stdin.read() if arguments.prompt is None else arguments.prompt, "--prompt")
    except UnicodeDecodeError as error:
        raise MftcoderError(f"--prompt: is not UTF-8 text: {error}.") from None
    if not text:
        raise MftcoderError("--prompt: is empty. Give some text, or write it to standard input.")
    return [text] if arguments.raw else [question(text, "--prompt", arguments.system)]


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MftcoderError(f"{path}: cannot be read as UTF-8 text: {error}.") from error


def _utf8(text: str, option: str) -> str:
    """``text``; an argument that is not UTF-8 fails here."""
    try:
        text.encode()
    except UnicodeError as error:
        raise MftcoderError(f"{option}: is not UTF-8 text: {error}.") from None
    return text


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**16:
        raise ArgumentTypeError(f'must be an integer from 0 to {2**16 - 1}; found "{text}"')
    return int(text)


COMMANDS = (
    Command(
        "generate",
        "try a model",
        _declare_generate,
        _generate,
        'mftcoder generate exports/code --prompt "Write quicksort in Python." --stream\n'
        "  mftcoder generate runs/code --prompts questions.jsonl --samples 5 --temperature 0.8 --to answers.jsonl\n"
        "  mftcoder generate runs/fim --infill half_written.py",
    ),
    Command(
        "chat",
        "talk to a model",
        _declare_chat,
        _chat,
        'mftcoder chat runs/code --system "You write Python." --temperature 0.7',
    ),
    Command(
        "serve",
        "answer clients of OpenAI's API on this machine",
        _declare_serve,
        _serve,
        "mftcoder serve runs/code --port 8000\n"
        "  OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_MODEL=code mftcoder construct run a.json",
    ),
)
