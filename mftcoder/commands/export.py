"""A run as a folder of Hugging Face's format, here and on the hub."""

import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace

from mftcoder.commands.options import Command, add_json, local
from mftcoder.commands.output import print_json, tell
from mftcoder.errors import MftcoderError


def _declare_export(parser: ArgumentParser) -> None:
    parser.add_argument(
        "run", type=local, metavar="RUN", help="output_dir of a run, a checkpoint, or an exported folder"
    )
    parser.add_argument("--to", type=local, metavar="DIR", help="new folder; left out where RUN is exported already")
    parser.add_argument("--checkpoint", default="best", metavar="WHICH", help="best (default), last or step-N")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--merge", action="store_true", help="the LoRA adapter folded into the base model (default)")
    form.add_argument("--adapter", action="store_true", help="only the LoRA adapter, for peft")
    parser.add_argument(
        "--max-shard-size",
        type=_size,
        metavar="SIZE",
        help="of a file of weights, e.g. 2GB (default: the config's, 5GB)",
    )
    parser.add_argument(
        "--base-model",
        type=_repository,
        metavar="ORG/NAME",
        help="the base model's hub id, where model.path is a local copy: for the card, and for an adapter",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export in DIR")
    parser.add_argument(
        "--no-verify",
        dest="verify",
        action="store_false",
        help="do not reload the folder in a fresh process and compare it with the trained model",
    )
    parser.add_argument(
        "--push", type=_repository, metavar="ORG/NAME", help="upload it to this repository, which is made if need be"
    )
    parser.add_argument("--public", action="store_true", help="if --push makes the repository, make it public")
    parser.add_argument(
        "--revision", metavar="BRANCH", help="branch to push to, which is made if need be (default: main)"
    )
    parser.add_argument("--create-pr", action="store_true", help="push as a pull request")
    parser.add_argument("--message", metavar="TEXT", help="of the commit")
    add_json(parser, "print what was written and pushed as JSON")


def _export(arguments: Namespace) -> int:
    """A run as a Hugging Face folder, here or on the hub."""
    from mftcoder.export.folder import Options, check_base, export
    from mftcoder.export.record import is_ours

    folder, source, wanted = arguments.to or arguments.run, None, vars(arguments)
    if not arguments.push and (arguments.public or arguments.revision or arguments.create_pr or arguments.message):
        raise MftcoderError("--public, --revision, --create-pr and --message are about --push ORG/NAME. Add it.")
    if arguments.to is not None:
        options = {key: wanted[key] for key in ("checkpoint", "verify", "overwrite", "max_shard_size", "base_model")}
        if arguments.push and arguments.adapter:
            check_base(arguments.run, arguments.checkpoint, arguments.base_model)
        source = export(arguments.run, arguments.to, Options(merge=not arguments.adapter, **options), tell)
        tell(f"wrote {arguments.to} from {source}")
    elif not arguments.push or not is_ours(arguments.run):
        raise MftcoderError("--to: name the folder to write. Only a folder that was exported is pushed without it.")
    pushed = None
    if arguments.push:
        from mftcoder.export.hub import push

        choice = {key: wanted[key] for key in ("revision", "create_pr", "message")}
        pushed = push(folder, arguments.push, private=not arguments.public, tell=tell, **choice)
        tell(f"pushed {folder} to {pushed}")
    if arguments.json:
        print_json({"folder": str(folder), "checkpoint": source and str(source), "pushed": pushed})
    return 0


def _size(text: str) -> str:
    if not re.fullmatch(r"[1-9]\d*(KB|MB|GB)", text):
        raise ArgumentTypeError(f'must be a number and KB, MB or GB, such as 2GB; found "{text}"')
    return text


def _repository(text: str) -> str:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", text):
        raise ArgumentTypeError(f'must be ORG/NAME; found "{text}"')
    return text


COMMANDS = (
    Command(
        "export",
        "write a run as a Hugging Face folder, and push it to the hub",
        _declare_export,
        _export,
        "mftcoder export runs/code --to exports/code\n"
        "  mftcoder export runs/code --to exports/code --push my-org/code-7b\n"
        "  mftcoder export exports/code --push my-org/code-7b --revision v2",
    ),
)
