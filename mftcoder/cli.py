"""The command line. One function per subcommand: take the arguments, call, print.

Libraries are imported where they are used, so that ``--help`` and config errors come at once.
"""

import io
import json
import logging
import os
import sys
import warnings
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mftcoder.arguments import PathOrUrl, make_parser
from mftcoder.config.load import load
from mftcoder.config.schema import Config
from mftcoder.errors import INTERRUPTED, MftcoderError, ReportedByMain, RunError

PREVIEWED = 20  # samples on a page, if no number is given
TABLE_WIDTH = 160  # columns, where the output is no terminal


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand. Returns 0: done, 1: failed, 2: the input is at fault, 75 or 130: stopped by a signal."""
    arguments = make_parser().parse_args(argv)
    _quieten_libraries()
    if isinstance(sys.stdout, io.TextIOWrapper):  # data and file names can hold what its encoding cannot write
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = COMMANDS[arguments.name](arguments)
        sys.stdout.flush()
        return code
    except ReportedByMain as error:
        return error.exit_code
    except MftcoderError as error:
        _tell(f"mftcoder {arguments.name}: {error}")
        return error.exit_code
    except BrokenPipeError:  # as by `| head`: the reader has seen enough
        _leave_stdout()
        return RunError.exit_code
    except OSError as error:  # a full disk, a folder that is read-only
        place = f"{error.filename}: " if error.filename else ""
        _tell(f"mftcoder {arguments.name}: {place}{error.strerror or error}")
        _leave_stdout()
        return RunError.exit_code
    except KeyboardInterrupt:
        _tell(f"mftcoder {arguments.name}: interrupted")
        return INTERRUPTED


def construct(arguments: Namespace) -> int:
    """Task files, in one of several ways."""
    ways = {
        "from-source": _from_source,
        "run": _construct_run,
        "verify": _construct_verify,
        "topics": _construct_topics,
    }
    return ways[arguments.way](arguments)


def _from_source(arguments: Namespace) -> int:
    from mftcoder.construct.from_source import MAX_CHARS, TASKS, construct, table

    counts = construct(
        arguments.out,
        arguments.roots,
        arguments.tasks.split(",") if arguments.tasks else TASKS,
        languages=arguments.languages.split(",") if arguments.languages else None,
        licences=(arguments.licences or "permissive").split(","),
        workers=arguments.workers,
        max_samples=arguments.max_samples,
        max_chars=arguments.max_chars or MAX_CHARS,
        seed=arguments.seed,
        tell=_tell,
    )
    _show(arguments, counts, table(counts))
    return 0


def _construct_run(arguments: Namespace) -> int:
    from mftcoder.construct.settings import load as load_construct

    config = load_construct(arguments.config, arguments.overrides)
    from mftcoder.construct.pipeline import run
    from mftcoder.construct.yields import table

    manifest = run(config, retry_failed=arguments.retry_failed, allow_execution=arguments.allow_execution, tell=_tell)
    _show(arguments, manifest, table(manifest))
    if arguments.html or (arguments.preview and not arguments.json):
        from mftcoder.construct.preview import chosen, show, write_preview

        samples = chosen(config, arguments.preview or PREVIEWED)
        if arguments.html:
            _tell(f"wrote {write_preview(config, manifest, samples, arguments.html)}")
        else:
            show(samples, _console(), color=sys.stdout.isatty())
    return 0


def _construct_verify(arguments: Namespace) -> int:
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
    _show(arguments, manifest, table(manifest))
    _tell(f"wrote {out}")
    return 0


def _construct_topics(arguments: Namespace) -> int:
    from mftcoder.construct.seeds import read_topics, topic_lists

    if arguments.list:
        topics = [topic.text for topic in read_topics([arguments.list])]
        _print_json(topics) if arguments.json else print(*topics, sep="\n")
        return 0
    lists = topic_lists()
    if arguments.json:
        _print_json(lists)
    else:
        for name, topics in lists.items():
            print(f"{name:<16} {len(topics):>3} topics: {', '.join(topics[:3])} …")
    return 0


def tokenize(arguments: Namespace) -> int:
    """Task files into packed shards, or a share of them into encoded samples."""
    config = _config(arguments)
    from mftcoder.data.mixture import epoch_note, make_mixture
    from mftcoder.data.prepare import prepare, prepare_share
    from mftcoder.data.summary import table

    if arguments.part:
        share = prepare_share(config, *arguments.part, tell=_tell, num_workers=arguments.workers)
        _show(arguments, share._asdict(), str(share))
        return 0
    manifest = prepare(config, tell=_tell, overwrite=arguments.overwrite, num_workers=arguments.workers)
    _show(arguments, manifest.model_dump(mode="json"), table(manifest))
    rows, sampling = {task.name: task.splits["train"].rows for task in manifest.tasks}, config.data.sampling
    _tell(epoch_note(sampling, rows, make_mixture(sampling, rows, config.seed)))
    return 0


def inspect(arguments: Namespace) -> int:
    """Decoded rows or samples of shards."""
    from mftcoder.config.schema import Model, TemplateChat
    from mftcoder.data.chat import load_tokenizer
    from mftcoder.data.inspection import Query, as_json, find, show
    from mftcoder.data.shards import Shards

    shards = Shards.open(arguments.shards, arguments.verify)
    tokenizer = arguments.tokenizer and load_tokenizer(Model(path=arguments.tokenizer), TemplateChat())
    query = Query(**{key: getattr(arguments, key) for key in Query.__dataclass_fields__})
    found = list(find(shards, query, tokenizer))
    if arguments.html:
        from mftcoder.report.samples import write_samples

        _tell(f"wrote {write_samples(shards, query, found, arguments.html)}")
    elif arguments.json:
        _print_json(as_json(found))
    else:
        show(found, _console(), color=sys.stdout.isatty() and not arguments.no_color)
    if not found:
        _tell(f"{arguments.shards}: nothing in split {query.split} matches")
    return 0


def validate(arguments: Namespace) -> int:
    """Every check that needs no GPU; 2 if one fails."""
    config = _config(arguments)
    from mftcoder.training.validate import validate

    checks = validate(config, arguments.world_size, arguments.verify, arguments.gpu_memory)
    if arguments.json:
        _print_json([vars(check) for check in checks])
    else:
        for check in checks:
            first, *more = check.finding.splitlines()
            print(f"{'ok' if check.ok else 'problem':<8} {check.name:<10} {first}")
            for line in more:
                print(f"{'':<19} {line}")
    return 0 if all(check.ok for check in checks) else MftcoderError.exit_code


def train(arguments: Namespace) -> int:
    """A run, on the ranks that the launcher started."""
    config = _config(arguments)
    from mftcoder.training.run import train

    train(config, resume=arguments.resume, verify=arguments.verify)
    return 0


def evaluate(arguments: Namespace) -> int:
    """The loss of each task, of one model or of two."""
    from mftcoder.data.shards import Shards
    from mftcoder.evaluation.losses import evaluate, table

    shards = Shards.open(arguments.shards, arguments.verify)
    result = evaluate(arguments.model, shards, split=arguments.split, against=arguments.against)
    if arguments.output:
        _write(arguments.output, _as_json(result))
    _show(arguments, result, table(result))
    return 0


def generate(arguments: Namespace) -> int:
    """A model's answers to prompts, or to held-out samples beside the true ones."""
    _check_generate(arguments)
    prompts = None if arguments.held_out else _prompts(arguments)
    from mftcoder.evaluation.generation import generate, generate_held_out

    sampling, batch_size = _sampling(arguments), arguments.batch_size
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
        tell = _print_piece if arguments.stream else None
        answers = generate(
            arguments.model, prompts, sampling, num_samples=arguments.samples, batch_size=batch_size, tell=tell
        )
    if arguments.stream:
        return 0
    as_json = arguments.held_out or arguments.json or arguments.to
    lines = [json.dumps(answer, ensure_ascii=False) if as_json else answer["generated"] for answer in answers]
    if arguments.to:
        _write(arguments.to, "\n".join(lines))
    else:
        print(*lines, sep="\n")
    return 0


def chat(arguments: Namespace) -> int:
    """A conversation on the terminal."""
    from mftcoder.evaluation.chatting import chat

    chat(arguments.model, _sampling(arguments), system=arguments.system, tell=_print_piece)
    return 0


def serve(arguments: Namespace) -> int:
    """The protocol of OpenAI's API, until a signal ends it."""
    from mftcoder.evaluation.server import serve

    name = arguments.model_name or Path(arguments.model).resolve().name
    serve(
        arguments.model,
        host=arguments.host,
        port=arguments.port,
        name=name,
        ready=lambda url: _tell(f"serving {name} at {url}"),
    )
    return 0


def export(arguments: Namespace) -> int:
    """A run as a Hugging Face folder, here or on the hub."""
    from mftcoder.export.folder import Options, export
    from mftcoder.export.record import is_ours

    folder, source, wanted = arguments.to or arguments.run, None, vars(arguments)
    if not arguments.push and (arguments.public or arguments.revision or arguments.create_pr or arguments.message):
        raise MftcoderError("--public, --revision, --create-pr and --message are about --push ORG/NAME. Add it.")
    if arguments.to is not None:
        options = {key: wanted[key] for key in ("checkpoint", "verify", "overwrite", "max_shard_size")}
        source = export(arguments.run, arguments.to, Options(merge=not arguments.adapter, **options), _tell)
        _tell(f"wrote {arguments.to} from {source}")
    elif not arguments.push or not is_ours(arguments.run):
        raise MftcoderError("--to: name the folder to write. Only a folder that was exported is pushed without it.")
    pushed = None
    if arguments.push:
        from mftcoder.export.hub import push

        choice = {key: wanted[key] for key in ("revision", "create_pr", "message")}
        pushed = push(folder, arguments.push, private=not arguments.public, tell=_tell, **choice)
        _tell(f"pushed {folder} to {pushed}")
    if arguments.json:
        _print_json({"folder": str(folder), "checkpoint": source and str(source), "pushed": pushed})
    return 0


def report(arguments: Namespace) -> int:
    """Runs as one HTML page."""
    from mftcoder.report.page import write_report

    page = write_report(arguments.runs, arguments.to or arguments.runs[0] / "report.html")
    _tell(f"wrote {page}")
    return 0


def compare(arguments: Namespace) -> int:
    """Runs side by side, in numbers."""
    from mftcoder.report.compare import compare

    comparison = compare(arguments.runs)
    _show(arguments, comparison.as_dict(), comparison.table())
    return 0


def simulate(arguments: Namespace) -> int:
    """What a weighting would have made of recorded losses."""
    try:
        weighting = json.loads(arguments.weighting)
    except (ValueError, RecursionError) as error:
        raise MftcoderError(f"--weighting: not JSON: {error}. Give what loss.weighting would hold.") from None
    if not isinstance(weighting, dict):
        raise MftcoderError(f"--weighting: must be a JSON object; found {arguments.weighting}.")
    from mftcoder.report.replay import as_csv, as_json, read_losses, simulation, table

    result = simulation(weighting, read_losses(arguments.losses, arguments.case), arguments.interval)
    if arguments.to:
        _write(arguments.to, as_csv(result) if arguments.to.suffix == ".csv" else _as_json(as_json(result)))
    else:
        _show(arguments, as_json(result), table(result))
    return 0


def schema(arguments: Namespace) -> int:
    """The JSON schema of the config."""
    from mftcoder.config.describe import json_schema

    if arguments.construct:
        from mftcoder.construct.settings import ConstructConfig

        _print_json(json_schema(ConstructConfig))
    else:
        _print_json(json_schema())
    return 0


def env(arguments: Namespace) -> int:
    """Versions and hardware."""
    from mftcoder.environment import environment

    found = environment()
    if arguments.json:
        _print_json(found)
        return 0
    for name, version in found.pop("versions").items():
        print(f"{name:<14} {version}")
    devices = [f"{device['name']} ({device['memory_gib']} GiB)" for device in found.pop("cuda")]
    print(f"{'cuda':<14} {', '.join(devices) or 'no device'}")
    for name, value in found.items():
        print(f"{name:<14} {value}")
    return 0


def import_config(arguments: Namespace) -> int:
    """A config of MFTCoder as one of ours; what became of each key goes to standard error."""
    from mftcoder.config.predecessor import import_config

    config, notes = import_config(arguments.old)
    for note in notes:
        _tell(note)
    if arguments.to:
        _write(arguments.to, _as_json(config))
    else:
        _print_json(config)
    return 0


def completion(arguments: Namespace) -> int:
    """A completion script for bash or zsh."""
    import shtab

    parser = make_parser()
    subcommands: Any = next(action.choices for action in parser._actions if action.dest == "name")
    for subcommand in subcommands.values():
        for action in subcommand._actions:
            if action.type in (Path, PathOrUrl):
                action.complete = shtab.FILE
    print(shtab.complete(parser, arguments.shell))
    return 0


COMMANDS: dict[str, Callable[[Namespace], int]] = {
    "construct": construct,
    "tokenize": tokenize,
    "inspect": inspect,
    "validate": validate,
    "train": train,
    "evaluate": evaluate,
    "generate": generate,
    "chat": chat,
    "serve": serve,
    "export": export,
    "report": report,
    "compare": compare,
    "simulate": simulate,
    "schema": schema,
    "env": env,
    "import-config": import_config,
    "completion": completion,
}


def _quieten_libraries() -> None:
    """Leave out what libraries say at every start and nobody can act on; set before they are imported."""
    logging.getLogger("DeepSpeed").addFilter(_is_news)
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # an optional kernel is not there
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing", category=FutureWarning)  # of peft's calls


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Setting accelerator to CPU")


def _leave_stdout() -> None:
    """If standard output can no longer be written, drop what waits for it, or Python would fail again at its exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _config(arguments: Namespace) -> Config:
    return load(arguments.config, arguments.overrides)


def _sampling(arguments: Namespace) -> Any:
    from mftcoder.evaluation.sampling import Sampling

    if "" in arguments.stop:
        raise MftcoderError("--stop: is empty. Give the text at which answers end.")
    stop = tuple(arguments.stop)
    return Sampling(arguments.max_new_tokens, arguments.temperature, arguments.top_p, arguments.seed, stop)


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


def _print_piece(piece: str) -> None:
    print(piece, end="", flush=True)


def _show(arguments: Namespace, content: Any, table: Any) -> None:
    if arguments.json:
        _print_json(content)
    else:
        _console().print(table)


def _console() -> Any:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else TABLE_WIDTH, highlight=False)


def _print_json(content: Any) -> None:
    print(_as_json(content))


def _as_json(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise MftcoderError(
            f"{path}: cannot be written: {error.strerror}. Name a file in a folder that exists."
        ) from None
    _tell(f"wrote {path}")


def _tell(message: str) -> None:
    print(message, file=sys.stderr)
