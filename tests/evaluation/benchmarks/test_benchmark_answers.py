"""From answers to programs: where answers end, code out of conversations, what is put before it."""

import pytest

from mftcoder.data.records import Conversation
from mftcoder.evaluation.answering import Answer
from mftcoder.evaluation.benchmarks import writing
from mftcoder.evaluation.benchmarks.asking import program_of, prompt_of, stops_of
from mftcoder.evaluation.benchmarks.problems import Problem
from mftcoder.evaluation.benchmarks.writing import Wanted
from mftcoder.evaluation.sampling import Sampling, cut_at_stop

HELPED = Problem(
    "file:1",
    "HumanEval/1",
    "complete",
    "python",
    'import math\n\ndef twice(x):\n    return 2 * x\n\ndef four(x):\n    """Four times x."""\n',
    "assert four(1) == 4",
    "four",
)
IN_JAVA = Problem(
    "file:2",
    "Java/1",
    "complete",
    "java",
    "import java.util.*;\n\nclass Solution {\n    public int four(int x) {\n",
    "class Main { }",
)
IN_CPP = IN_JAVA._replace(language="cpp", prompt="#include <vector>\nusing namespace std;\nvector<int> four(int x) {\n")
IN_JAVASCRIPT = IN_JAVA._replace(language="javascript", prompt="/* Four. */\nconst four = (x) => {\n")
WRITTEN = HELPED._replace(kind="write", prompt="Write four.", entry_point="")
NUMBER = HELPED._replace(kind="number", language="text", prompt="How many?", tests="4")


def cut(problem, text):
    return cut_at_stop(text, stops_of(problem, chat=False))[0]


@pytest.mark.parametrize("after", ["def g():", "class A:", "if __name__", "print(1)", "# Test", "@cache", "```"])
def test_the_body_of_a_function_ends_where_something_else_begins(after):
    body = "    if x:\n        # a comment\n        return twice(twice(x))\n    return 0"
    assert cut(HELPED, f"{body}\n{after}\n  rest") == body


def test_a_program_that_is_written_may_hold_several_functions():
    code = "def twice(x):\n    return 2 * x\n\ndef four(x):\n    return twice(twice(x))"
    for after in ("assert four(1) == 4", '"""', "print(four(1))", "class A:", "if __name__"):
        assert cut(WRITTEN, f"{code}\n{after}") == code


def test_plain_text_is_gone_on_with():
    assert prompt_of(HELPED, chat=False) == HELPED.prompt
    assert program_of(HELPED, "    return 4 * x", chat=False) == HELPED.prompt + "    return 4 * x"
    assert prompt_of(WRITTEN, chat=False) == '"""\nWrite four.\nassert four(1) == 4\n"""\n'
    assert program_of(WRITTEN, "def four(x): ...", chat=False) == "def four(x): ..."
    assert prompt_of(NUMBER, chat=False) == "Question: How many?\nAnswer:"


@pytest.mark.parametrize("problem", [HELPED, WRITTEN, NUMBER])
def test_a_conversation_asks_for_everything_that_a_problem_says(problem):
    prompt = prompt_of(problem, chat=True)
    assert isinstance(prompt, Conversation)
    (message,) = prompt.messages
    assert problem.prompt.strip() in message.content
    assert (problem.tests in message.content) == (problem.kind == "write")
    assert stops_of(problem, chat=True) == ()


WHOLE = "def four(x):\n    return twice(twice(x))\n"


@pytest.mark.parametrize(
    "answer",
    [
        f"Here it is:\n\n```python\n{WHOLE}```\nAnd a test:\n```python\nprint(four(1))\n```",
        f"```\n{WHOLE}```",
        f"```python\n{WHOLE}",  # cut at the limit of tokens
        WHOLE,
    ],
)
def test_the_first_code_block_is_taken_behind_what_stands_before_the_function(answer):
    program = program_of(HELPED, answer, chat=True)
    scope: dict = {}
    exec(program, scope)
    assert scope["four"](3) == 12
    assert "math" in scope
    assert "And a test" not in program


def test_a_body_alone_goes_behind_the_prompt():
    assert program_of(HELPED, "```python\n    return 4 * x\n```", chat=True) == HELPED.prompt + "    return 4 * x\n"
    recursive = "        return x > 0 ? four(x - 1) + 4 : 0;\n    }\n}\n"
    assert program_of(IN_JAVA, f"```java\n{recursive}```", chat=True) == IN_JAVA.prompt + recursive


@pytest.mark.parametrize(
    ("problem", "code", "before"),
    [
        (IN_JAVA, "class Solution {\n  public int four(int x) { return 4 * x; }\n}\n", "import java.util.*;\n"),
        (IN_CPP, "vector<int> four(int x) { return {4 * x}; }\n", "#include <vector>\nusing namespace std;\n"),
        (IN_JAVASCRIPT, "const four = (x) => 4 * x\n", "\n"),
        (IN_JAVASCRIPT, "function four(x) { return 4 * x }\n", "\n"),
    ],
)
def test_whole_code_in_other_languages_keeps_its_imports_and_is_defined_once(problem, code, before):
    assert program_of(problem, f"```\n{code}```", chat=True) == before + code


def test_the_bracket_that_closes_a_function_ends_its_writing_and_is_kept(base_model, monkeypatch):
    def closes(model, tokenizer, questions, sampling, *, batch_size):
        assert sampling.stop == ("\n}", "\n```", "mine")
        return [
            Answer("    return 4;", "stop", 9, "\n}"),
            Answer("    return 4; }", "stop", 9),
            Answer("a", "length", 9),
        ]

    monkeypatch.setattr(writing, "answer_all", closes)
    wanted = [Wanted(0, IN_CPP, sample) for sample in range(3)]
    (batch,) = writing.Writer(str(base_model)).write(wanted, Sampling(9, stop=("mine",)), chat=False, batch_size=4)
    assert [written.text for _, written in batch] == ["    return 4;\n}", "    return 4; }", "a"]
    assert [written.finish for _, written in batch] == ["stop", "stop", "length"]
