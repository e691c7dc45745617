"""Under which licence a source file is, as SPDX says it: by its own header, or by the licence file nearest above it."""

import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from mftcoder.errors import MftcoderError

PERMISSIVE = (
    "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "ISC", "MIT", "MIT-0", "NCSA",
    "PSF-2.0", "Python-2.0", "Unlicense", "UPL-1.0", "X11", "Zlib", "blessing",
)  # fmt: skip
UNKNOWN = "unknown"  # no licence was found, or none that is known here
ANY = "any"
OTHERS = ("AGPL-3.0", "BSD-4-Clause", "CDDL-1.0", "EPL-1.0", "EPL-2.0", "GPL-2.0", "GPL-3.0", "LGPL-2.1", "LGPL-3.0",
          "MPL-2.0", "proprietary")  # fmt: skip

HEADER_CHARS = 3000  # of a source file, where a licence may be named
_FILE_CHARS = 20_000
_FILES = re.compile(r"(?i)(un)?licen[sc]e([-_.].*)?|copying([-_.].*)?|mit-licen[sc]e.*")
_MANIFESTS = {  # what packages say of themselves where no licence file lies beside them
    "package.json": re.compile(r'"license"\s*:\s*"([^"]+)"'),
    "Cargo.toml": re.compile(r'^license\s*=\s*"([^"]+)"', re.MULTILINE),
    "pyproject.toml": re.compile(r'^license\s*=\s*(?:"|\{\s*text\s*=\s*")([^"]+)"', re.MULTILINE),
}
_SPDX = re.compile(r"SPDX-License-Identifier:\s*([\w.+-]+(?:\s+(?:OR|AND|WITH|or|and|with)\s+[\w.+()-]+|[()])*|\(.*\))")
_BSD = "redistribution and use in source and binary forms"
# In order: the first whose phrases all stand in the text. Texts are in lower case, blanks and comment marks folded.
_PHRASES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("proprietary", ("proprietary and confidential",)),
    ("proprietary", ("unauthorized copying",)),
    ("AGPL-3.0", ("gnu affero general public license",)),
    ("LGPL-3.0", ("gnu lesser general public license", "version 3")),
    ("LGPL-2.1", ("gnu lesser general public license",)),
    ("LGPL-2.1", ("gnu library general public license",)),
    ("GPL-3.0", ("gnu general public license", "version 3")),
    ("GPL-2.0", ("gnu general public license",)),
    ("MPL-2.0", ("mozilla public license",)),
    ("EPL-2.0", ("eclipse public license", "2.0")),
    ("EPL-1.0", ("eclipse public license",)),
    ("CDDL-1.0", ("common development and distribution license",)),
    ("PSF-2.0", ("python software foundation license",)),
    ("Apache-2.0", ("apache license", "version 2.0")),
    ("BSL-1.0", ("boost software license",)),
    ("Unlicense", ("free and unencumbered software released into the public domain",)),
    ("CC0-1.0", ("cc0 1.0",)),
    ("BSD-4-Clause", (_BSD, "all advertising materials")),
    ("NCSA", ("permission is hereby granted, free of charge", "redistributions of source code must retain")),
    ("BSD-3-Clause", (_BSD, "endorse or promote products")),
    ("BSD-2-Clause", (_BSD,)),
    ("BSD-3-Clause", ("governed by a bsd-style",)),
    ("UPL-1.0", ("universal permissive license",)),
    ("MIT", ("permission is hereby granted, free of charge", "copyright notice and this permission notice")),
    ("MIT-0", ("permission is hereby granted, free of charge, to any person obtaining a copy",)),
    ("ISC", ("permission to use, copy, modify", "provided that the above copyright notice")),
    ("0BSD", ("permission to use, copy, modify", "for any purpose with or without fee is hereby granted")),
    ("Zlib", ("this software is provided 'as-is'", "altered source versions must be plainly marked")),
    ("MIT", ("mit license",)),
    ("MIT", ("mit-style license",)),
    ("Apache-2.0", ("apache-2.0",)),
    ("BSD-3-Clause", ("bsd 3-clause",)),
    ("BSD-2-Clause", ("bsd 2-clause",)),
)  # fmt: skip


def licence_of(text: str) -> str | None:
    """The licence that a licence's text or a file's header names: an SPDX id or expression; None if none is known."""
    if found := _SPDX.search(text):
        return found[1].strip().removesuffix("*/").strip()
    folded = re.sub(r"[\s*#/;!-]+", " ", text.lower().replace("-", "\0")).replace("\0", "-")
    return next((name for name, phrases in _PHRASES if all(phrase in folded for phrase in phrases)), None)


def header_licence(text: str) -> str | None:
    """The licence that a source file names at its beginning."""
    return (
        licence_of(text[:HEADER_CHARS])
        if re.search(r"(?i)licen[sc]e|permi|redistr|copying", text[:HEADER_CHARS])
        else None
    )


@cache
def folder_licence(folder: Path, top: Path) -> str | None:
    """The licence of a folder's files: of the files there that hold one, any of which may be chosen, or its parent's.

    ``top`` is the last folder looked into.
    """
    found = sorted(dict.fromkeys(filter(None, map(_read, _candidates(folder)))))
    if found:
        return " OR ".join(found)
    return folder_licence(folder.parent, top) if folder != top and folder != folder.parent else None


def parse_allowed(names: Iterable[str]) -> frozenset[str]:
    """The allow-list of SPDX ids, ``permissive``, ``unknown`` and ``any``. Raises MftcoderError for what is none."""
    known = {name.lower(): name for name in (*PERMISSIVE, *OTHERS, UNKNOWN, ANY)}
    allowed: set[str] = set()
    for name in names:
        if name.lower() == "permissive":
            allowed |= set(PERMISSIVE)
        elif name.lower() in known:
            allowed.add(known[name.lower()])
        else:
            raise MftcoderError(
                f'licences: "{name}" is not known. Choose from permissive, {UNKNOWN}, {ANY}, '
                f"{', '.join((*PERMISSIVE, *OTHERS))}."
            )
    return frozenset(allowed)


def is_allowed(licence: str | None, allowed: frozenset[str]) -> bool:
    """Whether files under ``licence`` may be used: of ``A OR B`` either will do, of ``A AND B`` both must."""
    if ANY in allowed:
        return True
    if licence is None:
        return UNKNOWN in allowed
    bare = re.sub(r"(?i)\s+with\s+[\w.+-]+", "", licence)
    lower = {name.lower() for name in allowed}
    tokens = re.findall(r"[()]|[^\s()]+", bare)
    value, rest = _either(tokens, lower)
    return value and not rest


def _either(tokens: list[str], allowed: set[str]) -> tuple[bool, list[str]]:
    value, rest = _both(tokens, allowed)
    while rest and (rest[0].lower() == "or" or rest[0] == "/"):
        other, rest = _both(rest[1:], allowed)
        value = value or other
    return value, rest


def _both(tokens: list[str], allowed: set[str]) -> tuple[bool, list[str]]:
    value, rest = _one(tokens, allowed)
    while rest and rest[0].lower() == "and":
        other, rest = _one(rest[1:], allowed)
        value = value and other
    return value, rest


def _one(tokens: list[str], allowed: set[str]) -> tuple[bool, list[str]]:
    if not tokens:
        return False, []
    if tokens[0] == "(":
        value, rest = _either(tokens[1:], allowed)
        return value, rest[1:]
    names = re.sub(r"(-only|-or-later|\+)$", "", tokens[0].lower()).split("/")  # Rust wrote MIT/Apache-2.0 once
    return any(name in allowed for name in names), tokens[1:]


def _candidates(folder: Path) -> Iterator[Path]:
    try:
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    except OSError:
        return
    files = [
        name for name in names if _FILES.fullmatch(name) and not name.endswith((".py", ".js", ".ts", ".go", ".rs"))
    ]
    for name in files or [name for name in names if name in _MANIFESTS]:
        yield folder / name


def _read(path: Path) -> str | None:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            text = file.read(_FILE_CHARS)
    except OSError:
        return None
    if path.name in _MANIFESTS:
        found = _MANIFESTS[path.name].search(text)
        return found[1].strip() if found else None
    return licence_of(text)
