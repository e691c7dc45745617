"""Task datasets from the Python source on this machine: four code tasks and plain text, by parsing, without a model."""

import ast
import platform
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from rich.table import Table

from mftcoder.construct.code_tasks import CODE_TASKS, Record, RecordMaker
from mftcoder.construct.functions import (
    Function,
    FunctionNode,
    LeftOut,
    function_at,
    function_nodes,
    parse,
    read_source,
    source_files,
)
from mftcoder.construct.output import Tally, TaskFile, task_files, write_json
from mftcoder.errors import MftcoderError

TASKS = (*CODE_TASKS, "text")
MAX_CHARS = 6000  # of a conversation: about 1,800 tokens of code
FILES_PER_MESSAGE = 500


def construct(
    out: Path,
    roots: Sequence[Path] | None = None,
    tasks: Sequence[str] = TASKS,
    *,
    max_samples: int | None = None,
    max_chars: int = MAX_CHARS,
    seed: int = 0,
    tell: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Writes ``out/<task>.jsonl`` for every task, and the returned counts to ``out/construct.json``.

    The same files give the same bytes; ``seed`` decides where functions are cut, which defect they get, and which
    ``max_samples`` records of each task are kept. ``max_chars`` bounds the characters of a conversation; whole files
    (``text``) have no bound, as tokenizing splits them. ``roots`` default to this Python's standard library.

    In the counts, what was found is what was used plus what was left out, by reason. Raises MftcoderError for unknown
    tasks, folders without Python files, an ``out`` that cannot be written, and where no record comes out at all.
    """
    for task in tasks:
        if task not in TASKS:
            raise MftcoderError(f'tasks: there is no task "{task}". Choose from {", ".join(TASKS)}.')
    if max_samples is not None and max_samples < 1:
        raise MftcoderError(f"max_samples: must be at least 1; found {max_samples}.")
    roots = [Path(sysconfig.get_path("stdlib"))] if roots is None else roots
    paths = [(root, path) for root in roots for path in source_files(root)]
    files, functions = Tally(), Tally()
    with task_files(out, tasks) as outputs:
        for number, (root, path) in enumerate(paths, 1):
            source = files.attempt(_source, root, path, files)
            if source is not None:
                for function in _functions(*source, root, path, functions):
                    _write_code(function, outputs, max_chars, seed)
                if "text" in outputs:
                    outputs["text"].tally.attempt(outputs["text"].write, {"text": source[0], "group": path})
            if number % FILES_PER_MESSAGE == 0:
                tell(f"{number:,} of {len(paths):,} files read, {functions.used:,} functions taken")
        if max_samples is not None:
            for task, output in outputs.items():
                output.keep(max_samples, Random(f"{seed} {task}"))
        counts = {
            "python": platform.python_version(),
            "roots": [str(root) for root in roots],
            "settings": {"max_samples": max_samples, "max_chars": max_chars, "seed": seed},
            "files": files.counts("used"),
            "functions": functions.counts("used"),
            "tasks": {task: _task_counts(task, output) for task, output in outputs.items()},
        }
        _require_records(counts)
        for output in outputs.values():
            output.publish()
        write_json(out / "construct.json", counts)
    return counts


def table(counts: dict[str, Any]) -> Table:
    """The counts of ``construct`` for a terminal: a line per task, and one each for files and functions."""
    shown = Table("", "used", "left out", "because")
    for column in shown.columns[1:3]:
        column.justify = "right"
    for name, count in {"files": counts["files"], "functions": counts["functions"], **counts["tasks"]}.items():
        used = count["records"] if "records" in count else count["used"]
        reasons = ", ".join(f"{reason} {number:,}" for reason, number in count["left_out"].items())
        shown.add_row(name, f"{used:,}", f"{count['found'] - used:,}", reasons, end_section=name == "functions")
    return shown


def _source(root: Path, path: str, files: Tally) -> tuple[str, ast.Module]:
    text = read_source(root, path)
    tree = parse(text)
    if tree is None:
        raise LeftOut("syntax error")
    files.once(text)
    return text, tree


def _functions(text: str, tree: ast.Module, root: Path, path: str, functions: Tally) -> Iterator[Function]:
    lines = text.split("\n")
    name = root.resolve().name

    def take(node: FunctionNode, nested: bool) -> Function:
        if nested:
            raise LeftOut("inside another function")
        function = function_at(node, lines, name, path)
        functions.once(function.code)
        return function

    for node, nested in function_nodes(tree):
        function = functions.attempt(take, node, nested)
        if function is not None:
            yield function


def _write_code(function: Function, outputs: Mapping[str, TaskFile], max_chars: int, seed: int) -> None:
    """Writes the function's record into every code task that can be made of it."""
    for task, output in outputs.items():
        if task in CODE_TASKS:
            rng = Random(f"{seed} {task} {function.path} {function.line}")
            record = output.tally.attempt(_record, CODE_TASKS[task], function, rng, max_chars, output.tally)
            if record is not None:
                output.write(record)


def _record(make: RecordMaker, function: Function, rng: Random, max_chars: int, tally: Tally) -> Record:
    record = make(function, rng)
    prompt, answer = (message["content"] for message in record["messages"])
    if len(prompt) + len(answer) > max_chars:
        raise LeftOut("too long")
    tally.once(prompt)
    return record


def _task_counts(task: str, output: TaskFile) -> dict[str, Any]:
    counts = output.tally.counts("records")
    if task == "repair":
        kinds = Counter(record["defect"]["kind"] for record in output.records())
        counts["defects"] = dict(kinds.most_common())
    return counts


def _require_records(counts: dict[str, Any]) -> None:
    if not any(count["records"] for count in counts["tasks"].values()):
        raise MftcoderError(
            f"{', '.join(counts['roots'])}: no record could be made; left out were files {counts['files']['left_out']} "
            f"and functions {counts['functions']['left_out']}. Name other folders or a larger max_chars."
        )
