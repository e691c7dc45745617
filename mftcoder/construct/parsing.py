"""What models write, taken apart: numbered lists, code blocks, JSON. LeftOut is raised where it is not as asked."""

import json
import re
from typing import Any, NamedTuple

from mftcoder.construct.functions import LeftOut

_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*([^\s`]*)[^\n`]*$", re.MULTILINE)
_NUMBER = re.compile(r"^[ \t]*(?:#+[ \t]*|\*\*)?(\d{1,3})[.):](?:\*\*)?[ \t]+", re.MULTILINE)
LANGUAGES = {  # what is written behind a fence -> the language, in lower case
    "py": "python",
    "python3": "python",
    "js": "javascript",
    "node": "javascript",
    "ts": "typescript",
    "cpp": "c++",
    "cc": "c++",
    "cxx": "c++",
    "golang": "go",
    "rs": "rust",
    "sh": "bash",
    "shell": "bash",
    "cs": "c#",
    "csharp": "c#",
    "rb": "ruby",
    "kt": "kotlin",
}
_NAMES = {
    "javascript": "JavaScript",
    "typescript": "TypeScript",
    "php": "PHP",
    "sql": "SQL",
    "css": "CSS",
    "html": "HTML",
}
_TAGS = {"c++": "cpp", "c#": "csharp"}


class Block(NamedTuple):
    """A fenced block of Markdown."""

    language: str  # in lower case, by its common name; empty where none is said
    code: str  # without the last line end


def canonical(language: str) -> str:
    """The common name of a programming language, in lower case."""
    return LANGUAGES.get(language.lower(), language.lower())


def displayed(language: str) -> str:
    """How a programming language is written in a sentence."""
    return _NAMES.get(canonical(language), canonical(language).capitalize())


def code_blocks(text: str) -> list[Block]:
    """The fenced blocks in order. Raises LeftOut where the last one is not closed."""
    blocks: list[Block] = []
    opened: re.Match[str] | None = None
    for fence in _FENCE.finditer(text):
        if opened is None:
            opened = fence
        elif fence[1][0] == opened[1][0] and len(fence[1]) >= len(opened[1]) and not fence[2]:
            code = text[opened.end() + 1 : fence.start()].removesuffix("\n")
            blocks.append(Block(canonical(opened[2]), code))
            opened = None
    if opened is not None:
        raise LeftOut("code block not closed")
    return blocks


def code_in(text: str, language: str | None = None) -> str:
    """The longest code block in ``language``, or that says none. Raises LeftOut where there is none."""
    wanted = canonical(language) if language else None
    fitting = [b.code for b in code_blocks(text) if wanted is None or b.language in ("", wanted)]
    if not any(code.strip() for code in fitting):
        raise LeftOut("no code block")
    return max(fitting, key=len)


def prose(text: str) -> str:
    """``text`` without code blocks and without `code` in lines."""
    parts, end, opened = [], 0, False
    for fence in _FENCE.finditer(text):
        if not opened:
            parts.append(text[end : fence.start()])
        opened, end = not opened, fence.end()
    if not opened:
        parts.append(text[end:])
    return re.sub(r"`[^`\n]+`", " ", "\n".join(parts))


def json_in(text: str) -> Any:
    """The JSON value that is the whole text, or its only code block. Raises LeftOut where there is none."""
    blocks = code_blocks(text)
    try:
        return json.loads(blocks[0].code if len(blocks) == 1 else text)
    except (ValueError, RecursionError):
        raise LeftOut("not JSON") from None


def numbered(text: str) -> list[str]:
    """The items of a list that counts up from 1, each with the lines that follow it; what stands before is dropped."""
    starts: list[re.Match[str]] = []
    for match in _NUMBER.finditer(text):
        if int(match[1]) == len(starts) + 1:  # numbers inside an item do not go on where the list does
            starts.append(match)
    ends = [*(match.start() for match in starts[1:]), len(text)]
    return [text[match.end() : end].strip() for match, end in zip(starts, ends, strict=False)]


def fenced(code: str, language: str = "") -> str:
    """A Markdown code block around ``code``, whatever fences that holds itself."""
    ticks = "`" * max(3, 1 + max(map(len, re.findall("`+", code)), default=0))
    return f"{ticks}{_TAGS.get(language, language)}\n{code}\n{ticks}"
