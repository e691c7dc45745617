"""Making task files, in one of several ways."""

import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace

from mftcoder.commands.options import Command, add_allow_execution, add_json, add_set, local, positive, seed
from mftcoder.commands.output import console, print_json, show, tell
from mftcoder.errors import MftcoderError

PREVIEWED = 20  # samples on a page, if no number is given


def _declare_from_source(parser: ArgumentParser) -> None:
    parser.add_argument("out", type=local, metavar="OUT", help="folder for the task files")
    parser.add_argument(
        "--roots",
        type=local,
        nargs="+",
        metavar="DIR",
        help="folders or git checkouts (default: this Python's standard library)",
    )
    parser.add_argument(
        "--tasks",
        type=_names,
        metavar="TASK,TASK…",
        help="of completion, completion-line, completion-block, completion-body, infill, text-to-code, comment, "
        "repair, unit-test, text (default: all)",
    )
    parser.add_argument(
        "--languages",
        type=_names,
        metavar="NAME,NAME…",
        help="of python, java, javascript, typescript, c, cpp, go, rust (default: all)",
    )
    parser.add_argument(
        "--licences",
        type=_names,
        default=["permissive"],
        metavar="ID,ID…",
        help="SPDX ids of the licences to accept; also permissive, unknown, any (default: permissive)",
    )
    parser.add_argument(
        "--workers", type=positive, default=1, metavar="N", help="processes that read files (default: 1)"
    )
    parser.add_argument("--max-samples", type=positive, metavar="N", help="of each task (default: all)")
    parser.add_argument("--max-chars", type=positive, metavar="N", help="of a conversation (default: 6000)")
    parser.add_argument("--seed", type=seed, default=0, metavar="S", help="of cuts, defects and choice (default: 0)")
    add_json(parser, "print the counts as JSON")


def _from_source(arguments: Namespace) -> int:
    from mftcoder.construct.counts import as_table
    from mftcoder.construct.from_source import MAX_CHARS, TASKS, construct

    counts = construct(
        arguments.out,
        arguments.roots,
        arguments.tasks or TASKS,
        languages=arguments.languages,
        licences=arguments.licences,
        workers=arguments.workers,
        max_samples=arguments.max_samples,
        max_chars=arguments.max_chars or MAX_CHARS,
        seed=arguments.seed,
        tell=tell,
    )
    show(arguments, counts, as_table(counts))
    return 0


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise ArgumentTypeError(f'must be names with commas between them; found "{text}"')
    return list(dict.fromkeys(names))


def _declare_run(parser: ArgumentParser) -> None:
    parser.add_argument(
        "config", type=local, metavar="CONFIG", help="JSON, such as configs/construct/self-instruct.json"
    )
    add_set(parser, "endpoint.model=my-model")
    parser.add_argument("--retry-failed", action="store_true", help="ask again what failed in an earlier run")
    add_allow_execution(parser)
    parser.add_argument("--preview", type=positive, metavar="N", help="also show N samples, from all over the file")
    parser.add_argument("--html", type=local, metavar="FILE", help="write the preview (20 samples) as a page instead")
    add_json(parser, "print the manifest as JSON")


def _run(arguments: Namespace) -> int:
    from mftcoder.construct.settings import load as load_construct

    config = load_construct(arguments.config, arguments.overrides)
    from mftcoder.construct.pipeline import run
    from mftcoder.construct.yields import table

    manifest = run(config, retry_failed=arguments.retry_failed, allow_execution=arguments.allow_execution, tell=tell)
    show(arguments, manifest, table(manifest))
    if arguments.html or (arguments.preview and not arguments.json):
        from mftcoder.construct.preview import chosen, write_preview
        from mftcoder.construct.preview import show as show_samples

        samples = chosen(config, arguments.preview or PREVIEWED)
        if arguments.html:
            tell(f"wrote {write_preview(config, manifest, samples, arguments.html)}")
        else:
            show_samples(samples, console(), color=sys.stdout.isatty())
    return 0


def _declare_verify(parser: ArgumentParser) -> None:
    parser.add_argument("file", type=local, metavar="TASKFILE", help="records in any format that tokenize reads")
    add_allow_execution(parser)
    parser.add_argument("--out", type=local, metavar="FILE", help="default: TASKFILE with .verified.jsonl at its end")
    for part in ("solution", "tests"):
        parser.add_argument(
            f"--{part}", metavar="FIELD,FIELD…", help=f"fields that together are the {part} (default: found out)"
        )
    parser.add_argument("--language", metavar="NAME", help="of all records (default: what their field language says)")
    parser.add_argument(
        "--workers", type=positive, metavar="N", help="programs at the same time (default: one per core)"
    )
    add_set(parser, "mutants=8")
    add_json(parser, "print the manifest as JSON")


def _verify(arguments: Namespace) -> int:
    from mftcoder.construct.settings import execute_settings

    settings = execute_settings(arguments.overrides)
    if bool(arguments.solution) != bool(arguments.tests):
        raise MftcoderError("--solution and --tests: name the fields of both, or of neither.")
    from mftcoder.construct.verify_file import Fields, table, verify_file

    fields = arguments.solution and Fields(*(tuple(f.split(",")) for f in (arguments.solution, arguments.tests)))
    stem = arguments.file.name.split(".", 1)[0]
    out = arguments.out or arguments.file.with_name(f"{stem}.verified.jsonl")
    manifest = verify_file(
        arguments.file,
        out,
        settings,
        allowed=arguments.allow_execution,
        fields=fields,
        language=arguments.language,
        workers=arguments.workers,
    )
    show(arguments, manifest, table(manifest))
    tell(f"wrote {out}")
    return 0


def _declare_topics(parser: ArgumentParser) -> None:
    parser.add_argument("list", nargs="?", metavar="LIST", help="show the topics of this one")
    add_json(parser, "print them as JSON")


def _topics(arguments: Namespace) -> int:
    from mftcoder.construct.seeds import read_topics, topic_lists

    if arguments.list:
        topics = [topic.text for topic in read_topics([arguments.list])]
        print_json(topics) if arguments.json else print(*topics, sep="\n")
        return 0
    lists = topic_lists()
    if arguments.json:
        print_json(lists)
    else:
        for name, topics in lists.items():
            print(f"{name:<16} {len(topics):>3} topics: {', '.join(topics[:3])} …")
    return 0


WAYS = {
    way.name: way
    for way in (
        Command("from-source", "ten tasks from source code, by parsing it", _declare_from_source, _from_source),
        Command(
            "run", "a task by asking a model, as a config says; call it again to go on after a kill", _declare_run, _run
        ),
        Command(
            "verify",
            "keep the samples of a task file whose tests pass on their solutions and notice when those are made wrong",
            _declare_verify,
            _verify,
        ),
        Command("topics", "the ready-made lists of topics", _declare_topics, _topics),
    )
}


def _declare(parser: ArgumentParser) -> None:
    ways = parser.add_subparsers(title="ways", dest="way", required=True, metavar="WAY")
    for way in WAYS.values():
        way.declare(ways.add_parser(way.name, help=way.purpose, description=way.description))


def _construct(arguments: Namespace) -> int:
    return WAYS[arguments.way].run(arguments)


COMMANDS = (
    Command(
        "construct",
        "make task files",
        _declare,
        _construct,
        "mftcoder construct from-source tasks --roots ~/projects --max-samples 10000\n"
        "  mftcoder construct run configs/construct/self-instruct.json --preview 20",
    ),
)
