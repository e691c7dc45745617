"""From task files to shards, and a look at what is in them."""

import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace

from mftcoder.commands.options import Command, PathOrUrl, add_config, add_json, add_verify, local, positive
from mftcoder.commands.output import console, print_json, show, tell
from mftcoder.config.load import load


def _declare_tokenize(parser: ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace shards that were made otherwise")
    parser.add_argument(
        "--part",
        type=_part,
        metavar="I/N",
        help="only encode the I-th of N shares of the data; without it all, and pack",
    )
    parser.add_argument(
        "--workers", type=positive, metavar="N", help="processes (default: one per core where the data are large)"
    )
    add_json(parser, "print the manifest of the shards")


def _tokenize(arguments: Namespace) -> int:
    """Task files into packed shards, or a share of them into encoded samples."""
    config = load(arguments.config, arguments.overrides)
    from mftcoder.data.mixture import epoch_note, make_mixture
    from mftcoder.data.prepare import prepare, prepare_share
    from mftcoder.data.summary import table

    if arguments.part:
        share = prepare_share(config, *arguments.part, tell=tell, num_workers=arguments.workers)
        show(arguments, share._asdict(), str(share))
        return 0
    manifest = prepare(config, tell=tell, overwrite=arguments.overwrite, num_workers=arguments.workers)
    show(arguments, manifest.model_dump(mode="json"), table(manifest))
    rows, sampling = {task.name: task.splits["train"].rows for task in manifest.tasks}, config.data.sampling
    tell(epoch_note(sampling, rows, make_mixture(sampling, rows, config.seed)))
    return 0


def _declare_inspect(parser: ArgumentParser) -> None:
    parser.add_argument("shards", type=PathOrUrl, metavar="SHARDS", help="folder of shards")
    add_verify(parser)
    parser.add_argument("--task", metavar="NAME", help="only this task (default: all)")
    parser.add_argument("--split", default="train", choices=("train", "probe", "validation"), help="default: train")
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--row", type=_count, metavar="N", help="only this row, from 0")
    place.add_argument("--sample", type=_count, metavar="ID", help="only the sample of this id")
    parser.add_argument("--grep", metavar="REGEX", help="only samples whose text this regular expression matches")
    order = parser.add_mutually_exclusive_group()
    order.add_argument("--longest", dest="order", action="store_const", const="longest", help="longest samples first")
    order.add_argument(
        "--shortest", dest="order", action="store_const", const="shortest", help="shortest samples first"
    )
    parser.add_argument(
        "--limit", type=positive, default=3, metavar="N", help="rows, or samples, of each task (default: 3)"
    )
    parser.add_argument("--tokenizer", metavar="PATH", help="default: the one that made the shards")
    parser.add_argument("--no-color", action="store_true", help="mark supervised spans without colour")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--html", type=local, metavar="FILE", help="write a self-contained page")
    add_json(output, "print the rows as JSON")


def _inspect(arguments: Namespace) -> int:
    """Decoded rows or samples of shards."""
    from mftcoder.config.schema import Model, TemplateChat
    from mftcoder.data.chat import load_tokenizer
    from mftcoder.data.inspection import Query, as_json, find
    from mftcoder.data.inspection import show as show_rows
    from mftcoder.data.shards import Shards

    shards = Shards.open(arguments.shards, arguments.verify)
    tokenizer = arguments.tokenizer and load_tokenizer(Model(path=arguments.tokenizer), TemplateChat())
    query = Query(**{key: getattr(arguments, key) for key in Query.__dataclass_fields__})
    found = list(find(shards, query, tokenizer))
    if arguments.html:
        from mftcoder.report.samples import write_samples

        tell(f"wrote {write_samples(shards, query, found, arguments.html)}")
    elif arguments.json:
        print_json(as_json(found))
    else:
        show_rows(found, console(), color=sys.stdout.isatty() and not arguments.no_color)
    if not found:
        tell(f"{arguments.shards}: nothing in split {query.split} matches")
    return 0


def _part(text: str) -> tuple[int, int]:
    number, _, of = text.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise ArgumentTypeError(f'must be I/N with I of 1 … N, such as 3/16; found "{text}"')
    return int(number), int(of)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise ArgumentTypeError(f'must be an integer from 0 on; found "{text}"')
    return int(text)


COMMANDS = (
    Command(
        "tokenize",
        "turn task files into packed shards",
        _declare_tokenize,
        _tokenize,
        "mftcoder tokenize configs/sft-mixed.json",
    ),
    Command(
        "inspect",
        "show decoded rows, supervised spans in colour",
        _declare_inspect,
        _inspect,
        "mftcoder inspect shards/mixed --task code --limit 1\n"
        "  mftcoder inspect shards/mixed --grep 'TODO|FIXME' --html found.html",
    ),
)
