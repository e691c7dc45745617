"""Measuring models: the loss of each task, or pass@k of benchmarks."""

import os
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path
from typing import Any

from mftcoder.commands.options import (
    ANY_MODEL,
    Command,
    PathOrUrl,
    add_allow_execution,
    add_json,
    add_sampling,
    add_verify,
    local,
    model,
    positive,
    sampling_of,
)
from mftcoder.commands.output import show, tell, to_json, write
from mftcoder.errors import MftcoderError

USUAL_K = (1, 10, 100)  # of pass@k, as far as there are samples


def _declare_evaluate(parser: ArgumentParser) -> None:
    parser.add_argument("model", type=model, metavar="MODEL", help=ANY_MODEL)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--shards", type=PathOrUrl, metavar="DIR", help="the loss of each task: shards of its tokenizer")
    what.add_argument(
        "--benchmark",
        type=local,
        nargs="+",
        metavar="FILE",
        help="pass@k: problems in the form of HumanEval, MBPP …",
    )
    parser.add_argument("--against", type=model, metavar="MODEL", help="a second model, on the same rows or problems")
    parser.add_argument("--output", type=local, metavar="FILE", help="also write the result as JSON")
    add_json(parser, "print the result as JSON")

    losses = parser.add_argument_group("with --shards")
    add_verify(losses)
    losses.add_argument("--split", choices=("train", "probe", "validation"), help="default: validation")

    benchmarks = parser.add_argument_group("with --benchmark")
    benchmarks.add_argument(
        "--to", type=local, metavar="DIR", help="for completions and verdicts; called again, what is there is kept"
    )
    add_allow_execution(benchmarks)
    benchmarks.add_argument("--samples", type=positive, default=1, metavar="N", help="of each problem (default: 1)")
    benchmarks.add_argument(
        "--k", type=positive, nargs="+", metavar="K", help="of pass@k (default: 1, and 10 and 100 if --samples allow)"
    )
    add_sampling(benchmarks, max_new_tokens=512)
    benchmarks.add_argument(
        "--batch-size", type=positive, default=8, metavar="N", help="completions written at once (default: 8)"
    )
    way = benchmarks.add_mutually_exclusive_group()
    way.add_argument(
        "--chat",
        action="store_true",
        default=None,
        help="ask through the chat template (default: if the model has one)",
    )
    way.add_argument("--no-chat", dest="chat", action="store_false", help="as plain text that is gone on with")
    benchmarks.add_argument("--limit", type=positive, metavar="N", help="only the first problems of each file")
    benchmarks.add_argument("--language", metavar="NAME", help="of problems that do not say (default: python)")
    benchmarks.add_argument(
        "--timeout", type=positive, default=10, metavar="S", help="processor time of a program in seconds (default: 10)"
    )
    benchmarks.add_argument(
        "--modules", type=_modules, action="append", metavar="LANGUAGE=DIR", help="modules for programs; repeatable"
    )
    benchmarks.add_argument(
        "--workers", type=positive, metavar="N", help="programs at the same time (default: one per core)"
    )


def _evaluate(arguments: Namespace) -> int:
    """The loss of each task, or pass@k of benchmarks; of one model or of two."""
    _check_options(arguments)
    result, table = _benchmarks(arguments) if arguments.benchmark else _losses(arguments)
    if arguments.output:
        write(arguments.output, to_json(result))
    show(arguments, result, table)
    return 0


def _check_options(arguments: Namespace) -> None:
    """MftcoderError for options that do not go together."""
    other, unused = "--shards", {"--split": arguments.split}
    if arguments.shards:
        names = ("to", "allow_execution", "k", "limit", "language", "modules", "workers")
        other, unused = "--benchmark", {f"--{name.replace('_', '-')}": getattr(arguments, name) for name in names}
        unused |= {"--samples": arguments.samples > 1, "--chat, --no-chat": arguments.chat is not None}
    if given := [option for option, value in unused.items() if value]:
        raise MftcoderError(f"{given[0]}: goes with {other}. Leave it out.")


def _losses(arguments: Namespace) -> tuple[dict[str, Any], Any]:
    from mftcoder.data.shards import Shards
    from mftcoder.evaluation.losses import evaluate, table

    shards = Shards.open(arguments.shards, arguments.verify)
    result = evaluate(arguments.model, shards, split=arguments.split or "validation", against=arguments.against)
    return result, table(result)


def _benchmarks(arguments: Namespace) -> tuple[dict[str, Any], Any]:
    if arguments.to is None:
        raise MftcoderError("--to: name a folder for completions and verdicts. Called again, evaluate goes on there.")
    if arguments.samples > 1 and not arguments.temperature:
        raise MftcoderError("--samples: all would be the same; add --temperature. Leave one of them out.")
    ks = tuple(arguments.k or (k for k in USUAL_K if k <= arguments.samples))
    if max(ks) > arguments.samples:
        raise MftcoderError(f"--k {max(ks)}: is more than --samples {arguments.samples}. Draw at least as many.")
    sampling = sampling_of(arguments)
    from mftcoder.evaluation.benchmarks.judging import Execution
    from mftcoder.evaluation.benchmarks.results import table
    from mftcoder.evaluation.benchmarks.run import run
    from mftcoder.evaluation.benchmarks.work import Options
    from mftcoder.sandbox.outcome import Limits

    limits = Limits(cpu_seconds=arguments.timeout, wall_seconds=6 * arguments.timeout)
    options = Options(
        sampling=sampling,
        samples=arguments.samples,
        k=ks,
        chat=arguments.chat,
        language=arguments.language,
        limit=arguments.limit,
        batch_size=arguments.batch_size,
        allow_execution=arguments.allow_execution,
        workers=arguments.workers or os.cpu_count() or 1,
        execution=Execution(limits, dict(arguments.modules or ())),
    )
    result = run(arguments.model, arguments.benchmark, arguments.to, options, against=arguments.against, tell=tell)
    return result, table(result)


def _modules(text: str) -> tuple[str, str]:
    language, _, folder = text.partition("=")
    if not language or not Path(folder).is_dir() or not folder:
        raise ArgumentTypeError(f'must be LANGUAGE=DIR, with a folder that is there; found "{text}"')
    return language, folder


COMMANDS = (
    Command(
        "evaluate",
        "measure the loss of each task, or pass@k of benchmarks",
        _declare_evaluate,
        _evaluate,
        "mftcoder evaluate exports/code --shards shards/code --against Qwen/Qwen2.5-Coder-7B\n"
        "  mftcoder evaluate exports/code --benchmark HumanEval.jsonl.gz mbpp.jsonl --allow-execution --to benchmarks\n"
        "  mftcoder evaluate exports/code --benchmark HumanEval.jsonl.gz --allow-execution --to benchmarks \\\n"
        "    --samples 20 --temperature 0.8 --top-p 0.95 --against Qwen/Qwen2.5-Coder-7B",
    ),
)
