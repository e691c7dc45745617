"""``construct verify``: the samples of a task file whose solutions pass their tests, and whose tests notice mutants.

OUT                the records that are proven, as they were, with ``proof``
OUT.verdicts       JSON Lines: a verdict for each record; a run that was killed goes on from there
OUT.manifest       JSON, written last: settings and counts
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from mftcoder import __version__
from mftcoder.construct.execution import Case, Proof, open_sandbox, prove
from mftcoder.construct.output import write_json
from mftcoder.construct.settings.samples import ExecuteVerification
from mftcoder.data.reading import read_file
from mftcoder.errors import MftcoderError, RunError
from mftcoder.sandbox.sandbox import Sandbox


class Fields(NamedTuple):
    """Where a case lies in a record. Several fields are put together; dots lead into objects."""

    solution: tuple[str, ...]
    tests: tuple[str, ...]


# Tried in this order. After `construct run`; plain; MBXP and HumanEval; MBPP.
KNOWN_FIELDS = (
    Fields(("source.parts.code",), ("source.parts.tests",)),
    Fields(("solution",), ("tests",)),
    Fields(("code",), ("tests",)),
    Fields(("prompt", "canonical_solution"), ("test",)),
    Fields(("code",), ("test_setup_code", "test_list")),
)
_LANGUAGE_FIELDS = ("language", "source.parts.language")
_FIRST = 1000  # records in which fields are looked for: some lack them
_BATCH = 64  # records read ahead for each worker


class _Unreadable(Exception):  # noqa: N818 - a verdict, not an error
    """A record without what it takes."""


def verify_file(
    path: Path,
    out: Path,
    settings: ExecuteVerification,
    *,
    allowed: bool,
    fields: Fields | None = None,
    language: str | None = None,
    workers: int | None = None,
) -> dict[str, Any]:
    """Writes what is proven of ``path`` into ``out``; returns the manifest.

    Args:
        allowed: whether programs may be executed.
        fields: default: the first of ``KNOWN_FIELDS`` that one of the first records has.
        language: of all records; default: what their field says.
        workers: programs at the same time; default: one per core. The result does not depend on it.

    Raises MftcoderError for files without such fields, and where programs cannot be contained.
    """
    if path.resolve() == out.resolve():
        raise MftcoderError(f"{out}: is the task file itself. Name another file with --out.")
    workers = workers or os.cpu_count() or 1
    fields = fields or _known_fields(path)
    counts: Counter[str] = Counter()
    with (
        open_sandbox(settings, allowed=allowed, workers=workers) as sandbox,
        _Verdicts(beside(out, "verdicts")) as verdicts,
        ThreadPoolExecutor(workers) as pool,
        _aside(out).open("w", encoding="utf-8") as file,
    ):
        judge = _Judge(settings, fields, language, sandbox, verdicts)
        records = read_file(path)
        while batch := list(islice(records, _BATCH * workers)):
            for (where, record), verdict in zip(batch, pool.map(judge, batch), strict=True):
                verdicts.final(where, verdict)
                counts[verdict["reason"]] += 1
                if verdict["kept"]:
                    file.write(json.dumps({**record, "proof": verdict["proof"]}, ensure_ascii=False) + "\n")
                    counts["kept"] += 1
    manifest = _manifest(path, settings, fields, counts)
    if not manifest["samples"]:
        _aside(out).unlink()
        reasons = ", ".join(f"{reason} {number:,}" for reason, number in manifest["left_out"].items())
        raise RunError(f"{path}: no sample is proven: {reasons}. {beside(out, 'verdicts')} says why each is not.")
    os.replace(_aside(out), out)
    write_json(beside(out, "manifest"), manifest)
    return manifest


def table(manifest: dict[str, Any]) -> Table:
    """The counts, for a terminal."""
    shown = Table("found", "proven", "kept", "left out because")
    for column in shown.columns[:3]:
        column.justify = "right"
    reasons = [f"{reason} {number:,}" for reason, number in manifest["left_out"].items()]
    shown.add_row(*(f"{manifest[name]:,}" for name in ("found", "proven", "samples")), ", ".join(reasons))
    return shown


def beside(out: Path, name: str) -> Path:
    """Not called .json, as they are no files of records."""
    return out.with_name(f"{out.name}.{name}")


class _Judge:
    """Gives the verdict on a record, from the file of verdicts where it is known."""

    def __init__(
        self,
        settings: ExecuteVerification,
        fields: Fields,
        language: str | None,
        sandbox: Sandbox,
        verdicts: "_Verdicts",
    ) -> None:
        self._settings, self._fields, self._language = settings, fields, language
        self._sandbox, self._verdicts = sandbox, verdicts
        self._asked = settings.model_dump_json(exclude={"unverifiable"})

    def __call__(self, item: tuple[str, dict[str, Any]]) -> dict[str, Any]:
        _, record = item
        try:
            case = _case(record, self._fields, self._language)
        except _Unreadable as reason:
            return _verdict("", Proof(str(reason), {}), keep_unverifiable=False)
        key = hashlib.blake2b(json.dumps([case, self._asked]).encode(), digest_size=16).hexdigest()
        if (proof := self._verdicts.known(key)) is None:
            proof = prove(case, self._settings, self._sandbox)
            self._verdicts.add(key, proof)
        return _verdict(key, proof, keep_unverifiable=self._settings.unverifiable == "keep")


def _verdict(key: str, proof: Proof, *, keep_unverifiable: bool) -> dict[str, Any]:
    details = {"unverifiable": proof.reason} if proof.unverifiable else dict(proof.details)
    return {
        "key": key,
        "kept": not proof.reason or (proof.unverifiable and keep_unverifiable),
        "reason": f"unverifiable: {proof.reason}" if proof.unverifiable else proof.reason,
        "proof": details,
    }


class _Verdicts:
    """The file of verdicts: while it grows, in the order in which they come; at the end, in that of the records."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, Proof] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        for line in path.read_bytes().splitlines() if path.exists() else ():
            try:
                verdict = json.loads(line)
                self._known[verdict["key"]] = Proof(*verdict["found"])
            except (ValueError, KeyError, TypeError):  # torn, when the last run was killed
                continue
        self._final = _aside(path).open("w", encoding="utf-8")
        self._growing = path.open("a", encoding="utf-8")
        self._growing.write("\n" if path.stat().st_size else "")

    def known(self, key: str) -> Proof | None:
        return self._known.get(key)

    def add(self, key: str, proof: Proof) -> None:
        """Records a verdict at once. May be called in several threads."""
        self._growing.write(json.dumps({"key": key, "found": proof}, ensure_ascii=False) + "\n")
        self._growing.flush()
        self._known[key] = proof

    def final(self, where: str, verdict: dict[str, Any]) -> None:
        found = self._known.get(verdict["key"])
        line = {"where": where, **{name: verdict[name] for name in ("kept", "reason", "key")}, "found": found}
        self._final.write(json.dumps(line, ensure_ascii=False) + "\n")

    def __enter__(self) -> "_Verdicts":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._growing.close()
        self._final.close()
        if kind is None:
            os.replace(_aside(self._path), self._path)
        else:
            _aside(self._path).unlink()


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _manifest(path: Path, settings: ExecuteVerification, fields: Fields, counts: Counter[str]) -> dict[str, Any]:
    left_out = sorted(((reason, n) for reason, n in counts.items() if reason not in ("", "kept")), key=lambda i: -i[1])
    if settings.unverifiable == "keep":
        left_out = [(reason, number) for reason, number in left_out if not reason.startswith("unverifiable")]
    return {
        "mftcoder": __version__,
        "source": str(path),
        "settings": settings.model_dump(mode="json"),
        "fields": fields._asdict(),
        "found": sum(number for reason, number in counts.items() if reason != "kept"),
        "proven": counts[""],
        "samples": counts["kept"],
        "left_out": dict(left_out),
    }


def _known_fields(path: Path) -> Fields:
    first = [record for _, record in islice(read_file(path), _FIRST)]
    for fields in KNOWN_FIELDS:
        names = (*fields.solution, *fields.tests)
        if any(all(_value(record, name) is not None for name in names) for record in first):
            return fields
    raise MftcoderError(f"{path}: has no known fields of a solution and its tests. Name them: --solution, --tests.")


def _case(record: dict[str, Any], fields: Fields, language: str | None) -> Case:
    if language is None:
        found = [value for name in _LANGUAGE_FIELDS if isinstance(value := _value(record, name), str)]
        language = found[0] if found else ""
    solution, tests = ("".join(_texts(record, names)) for names in fields)
    if not solution.strip():
        raise _Unreadable("no solution")
    entry_point = record.get("entry_point")
    return Case(language, solution, tests, entry_point if isinstance(entry_point, str) else "")


def _texts(record: dict[str, Any], names: Sequence[str]) -> Iterator[str]:
    """The texts of fields; the items of lists are lines."""
    for name in names:
        value = _value(record, name)
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            yield "\n" + "\n".join(value)
        elif isinstance(value, str):
            yield value
        else:
            raise _Unreadable(f"no field {name}")


def _value(record: dict[str, Any], name: str) -> Any:
    value: Any = record
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
