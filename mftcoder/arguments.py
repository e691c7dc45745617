"""The arguments of every subcommand, with help and examples. What they do is in ``cli``."""

import argparse
import math
import re
from pathlib import Path
from typing import Protocol

from mftcoder import __doc__ as purpose
from mftcoder import __version__

ANY_MODEL = "a run, one of its checkpoints, a folder that transformers or peft loads, or a hub id"
EXIT_CODES = "Exit codes: 0 done, 1 failed, 2 the input is at fault. Each command has its own --help."


class PathOrUrl(str):
    """A path, or a URL that a Path would spoil."""


class AddCommand(Protocol):
    """Adds a subcommand; ``example`` is shown below its help."""

    def __call__(self, name: str, purpose: str, example: str) -> argparse.ArgumentParser: ...


def make_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands; ``name`` holds the one that was given."""
    parser = argparse.ArgumentParser(prog="mftcoder", description=purpose, epilog=EXIT_CODES)
    parser.add_argument("--version", action="version", version=f"mftcoder {__version__}")
    # Launchers put it before the subcommand; the ranks themselves come from the environment.
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    subcommands = parser.add_subparsers(title="commands", dest="name", required=True, metavar="COMMAND")

    def add(name: str, purpose: str, example: str) -> argparse.ArgumentParser:
        return subcommands.add_parser(
            name,
            help=purpose,
            description=f"{purpose[0].upper()}{purpose[1:]}.",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    for declare in (_data_commands, _training_commands, _model_commands, _report_commands, _setup_commands):
        declare(add)
    return parser


def _data_commands(add: AddCommand) -> None:
    construct = add(
        "construct",
        "make task files",
        "mftcoder construct from-source tasks --roots ~/projects --max-samples 10000\n"
        "  mftcoder construct run configs/construct/self-instruct.json --preview 20",
    )
    ways = construct.add_subparsers(title="ways", dest="way", required=True, metavar="WAY")
    _from_source(ways)
    _construct_run(ways)
    _construct_verify(ways)
    _construct_topics(ways)

    tokenize = add("tokenize", "turn task files into packed shards", "mftcoder tokenize configs/sft-mixed.json")
    _config(tokenize)
    tokenize.add_argument("--overwrite", action="store_true", help="replace shards that were made otherwise")
    tokenize.add_argument(
        "--part",
        type=_part,
        metavar="I/N",
        help="only encode the I-th of N shares of the data; without it all, and pack",
    )
    tokenize.add_argument(
        "--workers", type=_positive, metavar="N", help="processes (default: one per core where the data are large)"
    )
    _json(tokenize, "print the manifest of the shards")

    inspect = add(
        "inspect",
        "show decoded rows, supervised spans in colour",
        "mftcoder inspect shards/mixed --task code --limit 1\n"
        "  mftcoder inspect shards/mixed --grep 'TODO|FIXME' --html found.html",
    )
    inspect.add_argument("shards", type=PathOrUrl, metavar="SHARDS", help="folder of shards")
    _verify(inspect)
    inspect.add_argument("--task", metavar="NAME", help="only this task (default: all)")
    inspect.add_argument("--split", default="train", choices=("train", "probe", "validation"), help="default: train")
    place = inspect.add_mutually_exclusive_group()
    place.add_argument("--row", type=_count, metavar="N", help="only this row, from 0")
    place.add_argument("--sample", type=_count, metavar="ID", help="only the sample of this id")
    inspect.add_argument("--grep", metavar="REGEX", help="only samples whose text this regular expression matches")
    order = inspect.add_mutually_exclusive_group()
    order.add_argument("--longest", dest="order", action="store_const", const="longest", help="longest samples first")
    order.add_argument(
        "--shortest", dest="order", action="store_const", const="shortest", help="shortest samples first"
    )
    inspect.add_argument(
        "--limit", type=_positive, default=3, metavar="N", help="rows, or samples, of each task (default: 3)"
    )
    inspect.add_argument("--tokenizer", metavar="PATH", help="default: the one that made the shards")
    inspect.add_argument("--no-color", action="store_true", help="mark supervised spans without colour")
    output = inspect.add_mutually_exclusive_group()
    output.add_argument("--html", type=Path, metavar="FILE", help="write a self-contained page")
    _json(output, "print the rows as JSON")


def _from_source(ways: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    purpose = "ten tasks from source code, by parsing it"
    parser = ways.add_parser("from-source", help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}.")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the task files")
    parser.add_argument(
        "--roots",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="folders or git checkouts (default: this Python's standard library)",
    )
    parser.add_argument(
        "--tasks",
        metavar="TASK,TASK…",
        help="of completion, completion-line, completion-block, completion-body, infill, text-to-code, comment, "
        "repair, unit-test, text (default: all)",
    )
    parser.add_argument(
        "--languages",
        metavar="NAME,NAME…",
        help="of python, java, javascript, typescript, c, cpp, go, rust (default: all)",
    )
    parser.add_argument(
        "--licences",
        metavar="ID,ID…",
        help="SPDX ids of the licences to accept; also permissive, unknown, any (default: permissive)",
    )
    parser.add_argument(
        "--workers", type=_positive, default=1, metavar="N", help="processes that read files (default: 1)"
    )
    parser.add_argument("--max-samples", type=_positive, metavar="N", help="of each task (default: all)")
    parser.add_argument("--max-chars", type=_positive, metavar="N", help="of a conversation (default: 6000)")
    parser.add_argument("--seed", type=_seed, default=0, metavar="S", help="of cuts, defects and choice (default: 0)")
    _json(parser, "print the counts as JSON")


def _construct_run(ways: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    purpose = "a task by asking a model, as a config says; call it again to go on after a kill"
    parser = ways.add_parser("run", help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}.")
    parser.add_argument(
        "config", type=Path, metavar="CONFIG", help="JSON, such as configs/construct/self-instruct.json"
    )
    _set(parser, "endpoint.model=my-model")
    parser.add_argument("--retry-failed", action="store_true", help="ask again what failed in an earlier run")
    _allow_execution(parser)
    parser.add_argument("--preview", type=_positive, metavar="N", help="also show N samples, from all over the file")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the preview (20 samples) as a page instead")
    _json(parser, "print the manifest as JSON")


def _construct_verify(ways: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    purpose = "keep the samples of a task file whose tests pass on their solutions and notice when those are made wrong"
    parser = ways.add_parser("verify", help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}.")
    parser.add_argument("file", type=Path, metavar="TASKFILE", help="records in any format that tokenize reads")
    _allow_execution(parser)
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: TASKFILE with .verified.jsonl at its end")
    for part in ("solution", "tests"):
        parser.add_argument(
            f"--{part}", metavar="FIELD,FIELD…", help=f"fields that together are the {part} (default: found out)"
        )
    parser.add_argument("--language", metavar="NAME", help="of all records (default: what their field language says)")
    parser.add_argument(
        "--workers", type=_positive, metavar="N", help="programs at the same time (default: one per core)"
    )
    _set(parser, "mutants=8")
    _json(parser, "print the manifest as JSON")


def _allow_execution(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow-execution", action="store_true", help="programs that a model wrote may be executed, in a sandbox"
    )


def _construct_topics(ways: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    purpose = "the ready-made lists of topics"
    parser = ways.add_parser("topics", help=purpose, description=f"Show {purpose}.")
    parser.add_argument("list", nargs="?", metavar="LIST", help="show the topics of this one")
    _json(parser, "print them as JSON")


def _training_commands(add: AddCommand) -> None:
    validate = add(
        "validate",
        "check everything that can be checked without a GPU",
        "mftcoder validate configs/code-coba-lora-zero3.json --world-size 8 --gpu-memory 80",
    )
    _config(validate)
    validate.add_argument(
        "--world-size", type=_positive, default=1, metavar="N", help="ranks it will run on (default: 1)"
    )
    _verify(validate)
    validate.add_argument(
        "--gpu-memory", type=_positive, metavar="GIB", help="memory of a GPU: say what would help if a step needs more"
    )
    _json(validate, "print the checks as JSON")

    train = add(
        "train",
        "train one model on all tasks",
        "mftcoder train configs/sft-mixed.json\n"
        "  deepspeed --num_gpus 8 --module mftcoder train configs/code-coba-lora-zero3.json\n"
        "  torchrun --nproc-per-node 8 -m mftcoder train configs/code-coba-lora-zero3.json --resume",
    )
    _config(train)
    train.add_argument(
        "--resume",
        nargs="?",
        const="last",
        type=_checkpoint,
        metavar="WHICH",
        help="go on from a checkpoint, if there is one: last (default), best or step-N",
    )
    _verify(train)


def _model_commands(add: AddCommand) -> None:
    evaluate = add(
        "evaluate",
        "measure the loss of each task",
        "mftcoder evaluate exports/code --shards shards/code --against Qwen/Qwen2.5-Coder-7B",
    )
    evaluate.add_argument("model", metavar="MODEL", help=ANY_MODEL)
    evaluate.add_argument(
        "--shards", type=PathOrUrl, required=True, metavar="DIR", help="shards made with its tokenizer"
    )
    _verify(evaluate)
    evaluate.add_argument(
        "--split", default="validation", choices=("train", "probe", "validation"), help="default: validation"
    )
    evaluate.add_argument("--against", metavar="MODEL", help="a second model, on the same rows")
    evaluate.add_argument("--output", type=Path, metavar="FILE", help="also write the result as JSON")
    _json(evaluate, "print the result as JSON")

    _generate(add)
    _chat(add)
    _serve(add)
    export = add(
        "export",
        "write a run as a Hugging Face folder, and push it to the hub",
        "mftcoder export runs/code --to exports/code\n"
        "  mftcoder export runs/code --to exports/code --push my-org/code-7b\n"
        "  mftcoder export exports/code --push my-org/code-7b --revision v2",
    )
    export.add_argument(
        "run", type=Path, metavar="RUN", help="output_dir of a run, a checkpoint, or an exported folder"
    )
    export.add_argument("--to", type=Path, metavar="DIR", help="new folder; left out where RUN is exported already")
    export.add_argument("--checkpoint", default="best", metavar="WHICH", help="best (default), last or step-N")
    export.add_argument("--adapter", action="store_true", help="only the LoRA adapter, not merged into the base model")
    export.add_argument(
        "--max-shard-size",
        type=_size,
        metavar="SIZE",
        help="of a file of weights, e.g. 2GB (default: the config's, 5GB)",
    )
    export.add_argument("--overwrite", action="store_true", help="replace an earlier export in DIR")
    export.add_argument(
        "--no-verify",
        dest="verify",
        action="store_false",
        help="do not reload the folder in a fresh process and compare it with the trained model",
    )
    export.add_argument(
        "--push", type=_repository, metavar="ORG/NAME", help="upload it to this repository, which is made if need be"
    )
    export.add_argument("--public", action="store_true", help="if --push makes the repository, make it public")
    export.add_argument(
        "--revision", metavar="BRANCH", help="branch to push to, which is made if need be (default: main)"
    )
    export.add_argument("--create-pr", action="store_true", help="push as a pull request")
    export.add_argument("--message", metavar="TEXT", help="of the commit")
    _json(export, "print what was written and pushed as JSON")


def _generate(add: AddCommand) -> None:
    generate = add(
        "generate",
        "try a model",
        'mftcoder generate exports/code --prompt "Write quicksort in Python." --stream\n'
        "  mftcoder generate runs/code --prompts questions.jsonl --samples 5 --temperature 0.8 --to answers.jsonl\n"
        "  mftcoder generate runs/fim --infill half_written.py",
    )
    generate.add_argument("model", metavar="MODEL", help=ANY_MODEL)
    source = generate.add_mutually_exclusive_group()
    source.add_argument("--prompt", metavar="TEXT", help="one user message (default: read it from standard input)")
    source.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE.jsonl",
        help='one a line: {"prompt": TEXT}, {"messages": […]} or {"prefix": TEXT, "suffix": TEXT}',
    )
    source.add_argument(
        "--messages", type=Path, metavar="FILE.jsonl", help='one conversation a line: {"messages": […]}'
    )
    source.add_argument("--prefix", metavar="TEXT", help="write what comes between this and --suffix")
    source.add_argument(
        "--infill", type=Path, metavar="FILE", help="write what belongs into a file, in place of its <FILL_ME>"
    )
    source.add_argument(
        "--held-out",
        type=PathOrUrl,
        metavar="SHARDS",
        help="validation samples; prints their true answers too, as JSON lines",
    )
    generate.add_argument("--suffix", metavar="TEXT", help="with --prefix: what follows (default: nothing)")
    generate.add_argument(
        "--sentinels",
        nargs=3,
        metavar=("BEFORE_PREFIX", "BEFORE_SUFFIX", "BEFORE_MIDDLE"),
        help="the model's tokens for infilling (default: those of its tokenizer's family)",
    )
    generate.add_argument("--system", metavar="TEXT", help="with --prompt: a system message before it")
    generate.add_argument("--task", metavar="NAME", help="with --held-out: only this task (default: all)")
    generate.add_argument(
        "--per-task", type=_positive, default=2, metavar="N", help="with --held-out: samples of each task (default: 2)"
    )
    _sampling(generate)
    generate.add_argument("--samples", type=_positive, default=1, metavar="N", help="answers to each (default: 1)")
    generate.add_argument(
        "--batch-size", type=_positive, default=8, metavar="N", help="answers written at once (default: 8)"
    )
    generate.add_argument("--raw", action="store_true", help="continue the prompt as it is, without chat template")
    shown = generate.add_mutually_exclusive_group()
    shown.add_argument("--stream", action="store_true", help="print answers while they are written, one by one")
    shown.add_argument("--to", type=Path, metavar="FILE.jsonl", help="write one JSON object a line into this file")
    _json(shown, "print one JSON object a line")


def _chat(add: AddCommand) -> None:
    chat = add("chat", "talk to a model", 'mftcoder chat runs/code --system "You write Python." --temperature 0.7')
    chat.add_argument("model", metavar="MODEL", help=ANY_MODEL)
    chat.add_argument("--system", metavar="TEXT", help="what the system message says (default: there is none)")
    _sampling(chat)


def _serve(add: AddCommand) -> None:
    serve = add(
        "serve",
        "answer clients of OpenAI's API on this machine",
        "mftcoder serve runs/code --port 8000\n"
        "  OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_MODEL=code mftcoder construct run a.json",
    )
    serve.add_argument("model", metavar="MODEL", help=ANY_MODEL)
    serve.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="to listen on (default: 127.0.0.1, this machine alone)"
    )
    serve.add_argument("--port", type=_port, default=8000, metavar="N", help="default: 8000; 0: any that is free")
    serve.add_argument(
        "--name", dest="model_name", metavar="TEXT", help="of the model, for clients (default: the end of MODEL)"
    )


def _sampling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--max-new-tokens", type=_positive, default=256, metavar="N", help="default: 256")
    parser.add_argument(
        "--temperature", type=_temperature, default=0.0, metavar="T", help="0 (default): the likeliest token"
    )
    parser.add_argument("--top-p", type=_share, default=1.0, metavar="P", help="nucleus of the sampling (default: 1)")
    parser.add_argument("--seed", type=_seed, default=0, metavar="S", help="of the sampling (default: 0)")
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end an answer before this; may be repeated"
    )


def _report_commands(add: AddCommand) -> None:
    report = add(
        "report", "write what happened as one HTML page", "mftcoder report runs/uniform runs/coba --to report.html"
    )
    report.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="output_dir of a run")
    report.add_argument("--to", type=Path, metavar="FILE", help="default: report.html in the first run")

    compare = add(
        "compare", "hold runs against the first of them, in numbers", "mftcoder compare runs/uniform runs/coba"
    )
    compare.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="output_dir of a run")
    _json(compare, "print the comparison as JSON")

    simulate = add(
        "simulate",
        "replay recorded losses through a task weighting",
        """mftcoder simulate --weighting '{"type": "coba", "window_steps": 100}' --losses runs/uniform""",
    )
    simulate.add_argument("--weighting", required=True, metavar="JSON", help="what loss.weighting would hold")
    simulate.add_argument(
        "--losses",
        type=Path,
        required=True,
        metavar="FILE",
        help="a run or its metrics.jsonl (the probe's losses, else those of validation), CSV with a column per task, "
        "or JSON with the lists of losses of each step",
    )
    simulate.add_argument("--case", metavar="NAME", help="which object of a JSON file that holds several")
    simulate.add_argument(
        "--interval", type=_positive, metavar="N", help="steps between rows (default: as recorded, else 1)"
    )
    simulate.add_argument(
        "--to", type=Path, metavar="FILE", help="write it all as JSON, or as CSV if FILE ends in .csv"
    )
    _json(simulate, "print it all as JSON")


def _setup_commands(add: AddCommand) -> None:
    schema = add("schema", "print the JSON schema of the config", "mftcoder schema > configs/schema.json")
    schema.add_argument("--construct", action="store_true", help="of the config of `construct run`")

    env = add("env", "print versions and hardware", "mftcoder env --json")
    _json(env, "print JSON")

    import_config = add(
        "import-config", "convert a config of MFTCoder", "mftcoder import-config old.json --to configs/new.json"
    )
    import_config.add_argument("old", type=Path, metavar="OLD.json", help="MFTCoder's training config")
    import_config.add_argument("--to", type=Path, metavar="FILE", help="default: standard output")

    completion = add("completion", "print a completion script for a shell", 'eval "$(mftcoder completion bash)"')
    completion.add_argument("shell", choices=("bash", "zsh"))


def _config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, metavar="CONFIG", help="training config (JSON)")
    _set(parser, "training.learning_rate=1e-5")


def _set(parser: argparse.ArgumentParser, example: str) -> None:
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"override a key, e.g. {example}; repeatable",
    )


def _verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--verify",
        choices=("quick", "full"),
        default="quick",
        help="check the sizes of the shards' files, or read them whole and check their contents (default: quick)",
    )


def _json(parser: argparse._ActionsContainer, meaning: str) -> None:
    parser.add_argument("--json", action="store_true", help=meaning)


def _size(text: str) -> str:
    if not re.fullmatch(r"[1-9]\d*(KB|MB|GB)", text):
        raise argparse.ArgumentTypeError(f'must be a number and KB, MB or GB, such as 2GB; found "{text}"')
    return text


def _repository(text: str) -> str:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", text):
        raise argparse.ArgumentTypeError(f'must be ORG/NAME; found "{text}"')
    return text


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f'must be an integer above 0; found "{text}"')
    return int(text)


def _checkpoint(text: str) -> str:
    if text not in ("last", "best") and not text.removeprefix("step-").isdecimal():
        raise argparse.ArgumentTypeError(f'must be last, best or step-N; found "{text}"')
    return text


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f'must be an integer from 0 on; found "{text}"')
    return int(text)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**16:
        raise argparse.ArgumentTypeError(f'must be an integer from 0 to {2**16 - 1}; found "{text}"')
    return int(text)


def _part(text: str) -> tuple[int, int]:
    number, _, of = text.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise argparse.ArgumentTypeError(f'must be I/N with I of 1 … N, such as 3/16; found "{text}"')
    return int(number), int(of)


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f'must be an integer from 0 to {2**32 - 1}; found "{text}"')
    return int(text)


def _temperature(text: str) -> float:
    if not 0 <= (value := _number(text)) < math.inf:
        raise argparse.ArgumentTypeError(f'must be a number from 0 on; found "{text}"')
    return value


def _share(text: str) -> float:
    if not 0 < (value := _number(text)) <= 1:
        raise argparse.ArgumentTypeError(f'must be a number above 0 and at most 1; found "{text}"')
    return value


def _number(text: str) -> float:
    """NaN, which fails every comparison, if ``text`` is no number."""
    try:
        return float(text)
    except ValueError:
        return math.nan
