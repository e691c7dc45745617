"""Checking a config, and training."""

from argparse import ArgumentParser, ArgumentTypeError, Namespace

from mftcoder.commands.options import Command, add_config, add_json, add_verify, positive
from mftcoder.commands.output import print_json
from mftcoder.config.load import load
from mftcoder.errors import MftcoderError


def _declare_validate(parser: ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument("--world-size", type=positive, default=1, metavar="N", help="ranks it will run on (default: 1)")
    add_verify(parser)
    parser.add_argument(
        "--gpu-memory", type=positive, metavar="GIB", help="memory of a GPU: say what would help if a step needs more"
    )
    add_json(parser, "print the checks as JSON")


def _validate(arguments: Namespace) -> int:
    """Every check that needs no GPU; 2 if one fails."""
    config = load(arguments.config, arguments.overrides)
    from mftcoder.training.validate import validate

    checks = validate(config, arguments.world_size, arguments.verify, arguments.gpu_memory)
    if arguments.json:
        print_json([vars(check) for check in checks])
    else:
        for check in checks:
            first, *more = check.finding.splitlines()
            print(f"{'ok' if check.ok else 'problem':<8} {check.name:<10} {first}")
            for line in more:
                print(f"{'':<19} {line}")
    return 0 if all(check.ok for check in checks) else MftcoderError.exit_code


def _declare_train(parser: ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument(
        "--resume",
        nargs="?",
        const="last",
        type=_checkpoint,
        metavar="WHICH",
        help="go on from a checkpoint, if there is one: last (default), best or step-N",
    )
    add_verify(parser)


def _train(arguments: Namespace) -> int:
    """A run, on the ranks that the launcher started."""
    config = load(arguments.config, arguments.overrides)
    from mftcoder.training.run import train

    train(config, resume=arguments.resume, verify=arguments.verify)
    return 0


def _checkpoint(text: str) -> str:
    if text not in ("last", "best") and not text.removeprefix("step-").isdecimal():
        raise ArgumentTypeError(f'must be last, best or step-N; found "{text}"')
    return text


COMMANDS = (
    Command(
        "validate",
        "check everything that can be checked without a GPU",
        _declare_validate,
        _validate,
        "mftcoder validate configs/code-coba-lora-zero3.json --world-size 8 --gpu-memory 80",
    ),
    Command(
        "train",
        "train one model on all tasks",
        _declare_train,
        _train,
        "mftcoder train configs/sft-mixed.json\n"
        "  deepspeed --num_gpus 8 --module mftcoder train configs/code-coba-lora-zero3.json\n"
        "  torchrun --nproc-per-node 8 -m mftcoder train configs/code-coba-lora-zero3.json --resume",
    ),
)
