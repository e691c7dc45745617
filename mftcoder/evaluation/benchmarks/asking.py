"""What a model is asked for a problem, where its answer ends, and the program that the answer makes.

As plain text, code is gone on with, up to the stop texts that are usual for HumanEval, MBPP and HumanEval-X. Through a
chat template the whole code is asked for, and taken out of the first code block of the answer.
"""

import re

from mftcoder.evaluation.benchmarks.problems import Problem
from mftcoder.evaluation.prompts import Prompt, question

CLOSING = "\n}"  # ends a function or class that began at the left margin; it belongs to the answer
_PYTHON_STOPS = ("\nclass", "\ndef", "\n#", "\n@", "\nif", "\nprint", "\n```")
_WRITTEN_STOPS = ("\nclass", "\nassert", '\n"""', "\nprint", "\nif", "\n```")
_BLOCK = re.compile(r"```[^\n`]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
_NAME_BEFORE_BRACKET = re.compile(r"(\w+)\s*(?:=\s*(?:async\s*)?(?:function\s*)?)?\(")
_PREAMBLE = {
    "cpp": re.compile(r"^(?:#include|using namespace)\b.*$", re.MULTILINE),
    "java": re.compile(r"^import\s.*;[ \t]*$", re.MULTILINE),
    "go": re.compile(r"^import\s+(?:\([^)]*\)|.*$)", re.MULTILINE),
}


def prompt_of(problem: Problem, *, chat: bool) -> Prompt:
    """What the model goes on from."""
    if chat:
        return question(_ASKED[problem.kind](problem), problem.where)
    return _PLAIN[problem.kind](problem)


def stops_of(problem: Problem, *, chat: bool) -> tuple[str, ...]:
    """The texts at which an answer ends."""
    if chat:
        return ()
    if problem.kind == "number":
        return ("\nQuestion:",)
    if problem.language != "python":
        return (CLOSING, "\n```")
    return _PYTHON_STOPS if problem.kind == "complete" else _WRITTEN_STOPS


def program_of(problem: Problem, completion: str, *, chat: bool) -> str:
    """The code that is tested: ``completion`` behind the prompt where it goes on with it."""
    if not chat:
        return problem.prompt + completion if problem.kind == "complete" else completion
    code = _first_block(completion)
    if problem.kind == "write":
        return code
    if not _defines(code, problem):
        return f"{problem.prompt}{code}"
    return f"{_preamble(problem)}\n{code}"


def _first_block(answer: str) -> str:
    """The first code block, also if it is not closed; the whole of an answer without one."""
    block = _BLOCK.search(answer)
    return block[1] if block else answer


def _function(problem: Problem) -> str:
    """The name of the function under test, where it can be known."""
    names = _NAME_BEFORE_BRACKET.findall(problem.prompt.rstrip().rpartition("\n")[2])
    return problem.entry_point or (names[0] if names else "")


def _defines(code: str, problem: Problem) -> bool:
    """Whether code holds the function itself, not only what goes into it."""
    name = re.escape(_function(problem))
    if problem.language == "python":
        return re.search(rf"^(?:async )?def {name}\b", code, re.MULTILINE) is not None
    if problem.language == "go":
        return re.search(rf"^func {name}\b", code, re.MULTILINE) is not None
    if problem.language == "javascript":
        return re.search(rf"\bfunction\s*\*?\s*{name}\b|\b{name}\s*=[^=]", code) is not None
    return re.search(rf"^\s*(?!return\b|else\b)[\w<>\[\],:*& \t]+[ \t*&]{name}\s*\(", code, re.MULTILINE) is not None


def _preamble(problem: Problem) -> str:
    """What answers leave out of the prompt: in Python all before the function, elsewhere what it imports."""
    if problem.language == "python":
        return re.split(rf"^(?:async )?def {re.escape(_function(problem))}\b", problem.prompt, flags=re.MULTILINE)[0]
    lines = _PREAMBLE.get(problem.language)
    return "\n".join(lines.findall(problem.prompt)) if lines else ""


def _fenced(problem: Problem, code: str) -> str:
    return f"```{problem.language}\n{code.strip()}\n```"


def _plainly_written(problem: Problem) -> str:
    opened, closed = ('"""', '"""') if problem.language == "python" else ("/*", "*/")
    return f"{opened}\n{problem.prompt}\n{problem.tests}\n{closed}\n"


_PLAIN = {
    "complete": lambda problem: problem.prompt,
    "write": _plainly_written,
    "number": lambda problem: f"Question: {problem.prompt}\nAnswer:",
}
_ASKED = {
    "complete": lambda problem: (
        f"Complete this {problem.language} code. Answer with the whole of it, in one code block.\n\n"
        f"{_fenced(problem, problem.prompt)}"
    ),
    "write": lambda problem: (
        f"{problem.prompt.strip()}\n\nWrite it in {problem.language}, in one code block. It must pass these tests:\n\n"
        f"{_fenced(problem, problem.tests)}"
    ),
    "number": lambda problem: (
        f"{problem.prompt.strip()}\n\nReason step by step. End with a line that holds #### and the number alone."
    ),
}
