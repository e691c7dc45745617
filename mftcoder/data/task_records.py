"""The records of a task: those of its files that belong to it, in one format."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from mftcoder.config.schema import Task
from mftcoder.data.reading import Refuse, read_file, stop
from mftcoder.data.records import RECORD_FORMATS, Conversation, Record, Text, detect, shown
from mftcoder.data.sources import source_files
from mftcoder.errors import MftcoderError


def record_format(task: Task) -> str:
    """The record format of a task: as its config says, or that of its first record.

    Raises MftcoderError if the format is unknown or the first record fits none.
    """
    known = ", ".join(RECORD_FORMATS)
    if task.format in RECORD_FORMATS:
        return task.format
    if task.format != "auto":
        raise MftcoderError(f'data.tasks "{task.name}": format must be auto, {known}; found "{task.format}".')
    bad: list[MftcoderError] = []  # whoever reads the records tells of them
    try:
        where, record = next(_task_records(task, bad.append))
    except MftcoderError as error:
        raise (bad[0] if bad else error) from None
    detected = detect(record)
    if detected is None:
        raise MftcoderError(
            f"{where}: fits none of the record formats {known}; found keys {shown(list(record))}. "
            "Mend it, or name the format of the others in the task."
        )
    return detected


def read_records(task: Task) -> Iterator[Conversation | Text]:
    """The records of a task, in the order of its files and lines; nothing is held in memory."""
    return parse_records(_task_records(task), task, record_format(task))


def parse_records(
    raw: Iterable[tuple[str, Record]], task: Task, format: str, refuse: Refuse = stop
) -> Iterator[Conversation | Text]:
    """Those of the ``raw`` records, each with its place, that belong to ``task``; all are of ``format``.

    Records that are broken or of another format go to ``refuse``, as errors with file and line.
    """
    for where, record in raw:
        if not _belongs(record, task):
            continue
        try:
            parsed = _parse(record, where, task, format)
        except MftcoderError as error:
            refuse(error)
            continue
        yield parsed


def _last_answer_only(sample: Conversation) -> Conversation:
    last = max((index for index, message in enumerate(sample.messages) if message.role == "assistant"), default=None)
    messages = [m if index == last else replace(m, supervised=False) for index, m in enumerate(sample.messages)]
    return replace(sample, messages=tuple(messages))


def _parse(record: Record, where: str, task: Task, format: str) -> Conversation | Text:
    if not RECORD_FORMATS[format].detect(record):
        other = detect(record)
        found = f"a record of format {other}" if other else f"keys {shown(list(record))}"
        raise MftcoderError(f'{where}: task "{task.name}" has format {format}; found {found}. Use one format per task.')
    parsed = RECORD_FORMATS[format].parse(record, where)
    return _last_answer_only(parsed) if task.supervise == "last" and isinstance(parsed, Conversation) else parsed


def _task_records(task: Task, refuse: Refuse = stop) -> Iterator[tuple[str, Record]]:
    """The raw records that belong to ``task``, at least one, with their places."""
    empty = True
    for file in source_files(task):
        for where, record in read_file(file, refuse):
            if _belongs(record, task):
                empty = False
                yield where, record
    if empty:
        raise no_record(task)


def no_record(task: Task) -> MftcoderError:
    """The error for a ``task`` to which none of its files' records belongs."""
    return MftcoderError(f'data.tasks "{task.name}": no record has {shown(task.where)}. Correct where.')


def _belongs(record: Record, task: Task) -> bool:
    return all(record.get(key) == value for key, value in task.where.items())
