"""Programs of the languages that can be run: a solution and its tests as one file, and the command for it.

``LANGUAGES`` is the table. Whether a language can be run is found out on the machine.
"""

import ast
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mftcoder.sandbox.sandbox import PYTHON

NOT_COMPILED = 121  # exit code of commands whose compiler finds fault

_IMPORTS = {
    "java": re.compile(r"^[ \t]*import\s+(?:static\s+)?[\w.]+(?:\.\*)?\s*;[ \t]*$", re.MULTILINE),
    "go": re.compile(r"^import\s+(?:\([^)]*\)|(?:\w+\s+)?\"[^\"]+\")[ \t]*$", re.MULTILINE),
}


@dataclass(frozen=True)
class Language:
    """How programs of a language are put together and run."""

    name: str
    file: str
    programs: tuple[str, ...]  # what must be there
    command: tuple[str, ...]  # or, where something must be compiled first, a script for sh
    assemble: Callable[[str, str, str], str]  # solution, tests, name of the function under test -> the file
    modules: str = ""  # the environment variable that names folders of modules


def _python(solution: str, tests: str, entry_point: str) -> str:
    return "\n".join([solution, "", tests, *_calls(tests, entry_point), ""])


def _calls(tests: str, entry_point: str) -> list[str]:
    """What calls tests that are functions or classes, unless they do it themselves."""
    try:
        body = ast.parse(tests).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    functions = [node for node in body if isinstance(node, ast.FunctionDef)]
    called = {
        n.func.id for node in body for n in ast.walk(node) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
    }
    calls = [f"{node.name}()" for node in functions if node.name.startswith("test") and node.name not in called]
    if entry_point and any(node.name == "check" for node in functions) and "check" not in called:
        calls.append(f"check({entry_point})")
    if any("TestCase" in ast.unparse(base) for node in body if isinstance(node, ast.ClassDef) for base in node.bases):
        calls += ["import unittest", "unittest.main()"]
    return calls


def _one_after_the_other(solution: str, tests: str, entry_point: str) -> str:
    return f"{solution}\n\n{tests}\n"


def _javascript(solution: str, tests: str, entry_point: str) -> str:
    """Node's console.assert only prints; here it fails, as the tests that use it mean it to."""
    fails = (
        'console.assert = (holds, ...why) => { if (!holds) throw new Error(["assertion failed", ...why].join(" ")); };'
    )
    return f"{solution}\n\n{fails}\n{tests}\n"


def _java(solution: str, tests: str, entry_point: str) -> str:
    """One file: its imports first, and no public class, whose name would have to be the file's."""
    both = f"{solution}\n\n{tests}\n"
    imports = dict.fromkeys(line.strip() for line in _IMPORTS["java"].findall(both))
    body = re.sub(r"^public\s+(?=(?:final\s+|abstract\s+)*(?:class|interface|enum|record)\b)", "", both, flags=re.M)
    body = re.sub(r"^[ \t]*package\s+[\w.]+\s*;", "", _IMPORTS["java"].sub("", body), flags=re.M)
    return "\n".join([*imports, body])


def _go(solution: str, tests: str, entry_point: str) -> str:
    both = re.sub(r"^package\s+\w+[ \t]*$", "", f"{solution}\n\n{tests}\n", flags=re.M)
    packages = dict.fromkeys(
        name for block in _IMPORTS["go"].findall(both) for name in re.findall(r'(?:\w+\s+)?"[^"]+"', block)
    )
    body = _IMPORTS["go"].sub("", both)
    return "\n".join(["package main", *(f"import {name}" for name in packages if _used(name, body)), body])


def _used(package: str, body: str) -> bool:
    """Go does not compile what imports more than it uses."""
    name = package.split()[0] if not package.startswith('"') else package.strip('"').rsplit("/", 1)[-1]
    return name in ("_", ".") or f"{name}." in body


LANGUAGES: dict[str, Language] = {
    language.name: language
    for language in (
        Language("python", "main.py", (PYTHON,), (PYTHON, "-B", "main.py"), _python, "PYTHONPATH"),
        Language("javascript", "main.js", ("node",), ("node", "main.js"), _javascript, "NODE_PATH"),
        Language(
            "java",
            "Main.java",
            ("java", "javac"),
            (
                "javac -J-XX:+UseSerialGC -J-XX:TieredStopAtLevel=1 -J-Xmx384m -nowarn -proc:none -d . Main.java || "
                f"exit {NOT_COMPILED}; exec java -ea -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xmx384m -cp . Main",
            ),
            _java,
            "CLASSPATH",
        ),
        Language(
            "cpp",
            "main.cpp",
            ("g++",),
            (f"g++ -std=c++17 -O0 -w -pipe -o main main.cpp || exit {NOT_COMPILED}; exec ./main",),
            _one_after_the_other,
            "CPLUS_INCLUDE_PATH",
        ),
        Language(
            "go",
            "main.go",
            ("go",),
            (
                "export GOCACHE=/tmp/go GOPATH=/tmp/gopath GOMAXPROCS=2 GO111MODULE=off CGO_ENABLED=0; "
                f"go build -o main main.go || exit {NOT_COMPILED}; exec ./main",
            ),
            _go,
        ),
    )
}
ALIASES = {"py": "python", "python3": "python", "js": "javascript", "node": "javascript", "c++": "cpp", "golang": "go"}


def canonical(name: str) -> str:
    """The name of a language as ``LANGUAGES`` has it, where it has it."""
    name = name.strip().lower()
    return ALIASES.get(name, name)


def missing(language: str) -> list[str]:
    """What would have to be installed to run programs of a language of ``LANGUAGES``."""
    return [program for program in LANGUAGES[language].programs if shutil.which(program) is None]


def folders() -> tuple[list[Path], list[Path]]:
    """Where the toolchains of this machine lie: what programs need to see, and the folders for PATH."""
    shown, search = [], []
    for language in LANGUAGES.values():
        for program in language.programs:
            if (found := shutil.which(program)) is not None:
                real = Path(os.path.realpath(found))
                search.append(real.parent)
                if not real.is_relative_to("/usr"):
                    shown.append(real.parents[1])
    return list(dict.fromkeys(shown)), [path for path in dict.fromkeys(search) if not _is_system(path)]


def _is_system(path: Path) -> bool:
    return path in (Path("/usr/bin"), Path("/bin"), Path("/usr/local/bin"))


def program(
    language: str, solution: str, tests: str, entry_point: str = "", modules: Mapping[str, str] | None = None
) -> tuple[dict[str, str], list[str]]:
    """Files and command that run ``tests`` on ``solution``: exit code 0 where they pass.

    Args:
        language: a name of ``LANGUAGES``.
        entry_point: the function under test, where tests are a function ``check`` of it.
        modules: folders with modules, by language.
    """
    chosen = LANGUAGES[language]
    command = list(chosen.command) if len(chosen.command) > 1 else ["sh", "-c", *chosen.command]
    if folder := (modules or {}).get(language):
        command = ["env", f"{chosen.modules}={folder}", *command]
    return {chosen.file: chosen.assemble(solution, tests, entry_point)}, command
