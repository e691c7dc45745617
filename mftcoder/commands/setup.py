"""What is around the work: the schema of the config, versions, configs of MFTCoder, completion of a shell."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from mftcoder.commands.options import Command, PathOrUrl, add_json, local
from mftcoder.commands.output import print_json, tell, to_json, write


def _declare_schema(parser: ArgumentParser) -> None:
    parser.add_argument("--construct", action="store_true", help="of the config of `construct run`")


def _schema(arguments: Namespace) -> int:
    """The JSON schema of the config."""
    from mftcoder.config.describe import json_schema

    if arguments.construct:
        from mftcoder.construct.settings import ConstructConfig

        print_json(json_schema(ConstructConfig))
    else:
        print_json(json_schema())
    return 0


def _declare_env(parser: ArgumentParser) -> None:
    add_json(parser, "print JSON")


def _env(arguments: Namespace) -> int:
    """Versions and hardware."""
    from mftcoder.environment import environment

    found = environment()
    if arguments.json:
        print_json(found)
        return 0
    for name, version in found.pop("versions").items():
        print(f"{name:<14} {version}")
    devices = [f"{device['name']} ({device['memory_gib']} GiB)" for device in found.pop("cuda")]
    print(f"{'cuda':<14} {', '.join(devices) or 'no device'}")
    for name, value in found.items():
        print(f"{name:<14} {value}")
    return 0


def _declare_import_config(parser: ArgumentParser) -> None:
    parser.add_argument("old", type=local, metavar="OLD.json", help="MFTCoder's training config")
    parser.add_argument("--to", type=local, metavar="FILE", help="default: standard output")


def _import_config(arguments: Namespace) -> int:
    """A config of MFTCoder as one of ours; what became of each key goes to standard error."""
    from mftcoder.config.predecessor import import_config

    config, notes = import_config(arguments.old)
    for note in notes:
        tell(note)
    if arguments.to:
        write(arguments.to, to_json(config))
    else:
        print_json(config)
    return 0


def _declare_completion(parser: ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh"))


def _completion(arguments: Namespace) -> int:
    """A completion script for bash or zsh."""
    import shtab

    from mftcoder.commands import make_parser

    parser = make_parser()
    subcommands: Any = next(action.choices for action in parser._actions if action.dest == "name")
    for subcommand in subcommands.values():
        for action in subcommand._actions:
            if action.type in (Path, PathOrUrl):
                action.complete = shtab.FILE
    print(shtab.complete(parser, arguments.shell))
    return 0


COMMANDS = (
    Command(
        "schema",
        "print the JSON schema of the config",
        _declare_schema,
        _schema,
        "mftcoder schema > configs/schema.json",
    ),
    Command("env", "print versions and hardware", _declare_env, _env, "mftcoder env --json"),
    Command(
        "import-config",
        "convert a config of MFTCoder",
        _declare_import_config,
        _import_config,
        "mftcoder import-config old.json --to configs/new.json",
    ),
    Command(
        "completion",
        "print a completion script for a shell",
        _declare_completion,
        _completion,
        'eval "$(mftcoder completion bash)"',
    ),
)
