"""Descriptions of what code is to do: docstrings and comments taken out of code, without marks and examples."""

import re

_COMMENT = re.compile(
    r'"""(.*?)"""'
    r"|'''(.*?)'''"
    r"|/\*(.*?)\*/"
    r"|^=begin\b(.*?)^=end\b"
    r"|((?:^[ \t]*(?://|--|#(?![!\[]|include\b|define\b))[^\n]*\n?)+)",  # lines that each begin with a mark
    re.DOTALL | re.MULTILINE,
)
_MARKS = re.compile(r"^[ \t]*(?:/{2,}!?|--|[#*]+(?:[ \t]*[#*]+)*)?[ \t]*|</?summary>", re.MULTILINE)
_EXAMPLE = re.compile(
    r"^\W*(?:(?:\w+ ?)?>+ |irb|assert\b|(?:for )?examples?\b|e\.g\.|例)", re.IGNORECASE | re.MULTILINE
)
_WORDS_OF_A_LINE = 6  # shorter lines of code are far too many, and describe nothing


def docstrings(text: str) -> list[str]:
    """The docstrings, block comments and runs of comment lines in ``text``, in order, without the comments' marks.

    Knows the comments of Python, C and its kin, JavaScript, PHP, Rust, Go, Ruby, Perl, shell, SQL, Lua and Haskell.
    """
    found = (next(filter(None, match.groups()), "") for match in _COMMENT.finditer(text))
    return [bare for comment in found if (bare := _MARKS.sub("", comment).strip())]


def without_examples(description: str) -> str:
    """``description`` up to its first line of an example or a test."""
    example = _EXAMPLE.search(description)
    return description[: example.start()].rstrip() if example else description


def descriptions(text: str) -> list[str]:
    """All in ``text`` that may describe a task: the whole, each docstring, each without examples, each line."""
    whole = [text, *docstrings(text)]
    bare = [without_examples(form) for form in whole]
    lines = (line.strip() for form in bare for line in form.splitlines() if len(line.split()) >= _WORDS_OF_A_LINE)
    return list(dict.fromkeys(form for form in [*whole, *bare, *lines] if form))
