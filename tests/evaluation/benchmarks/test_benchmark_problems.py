"""Problems in every known form, and what is refused, by its line."""

import gzip
import json
import os
from pathlib import Path

import pytest

from mftcoder.errors import MftcoderError
from mftcoder.evaluation.benchmarks.problems import last_number, read_problems

HUMAN_EVAL = {
    "task_id": "HumanEval/0",
    "prompt": 'def add(a, b):\n    """The sum."""\n',
    "entry_point": "add",
    "canonical_solution": "    return a + b\n",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
}
MBPP = {
    "task_id": 11,
    "text": "Write a function add.",
    "code": "def add(a, b):\r\n    return a + b",
    "test_setup_code": "two = 2",
    "test_list": ["assert add(1, two) == 3", "assert add(0, 0) == 0"],
    "challenge_test_list": [],
}
GSM8K = {"question": "What are 2 and 3?", "answer": "2 + 3 = <<2+3=5>>5\n#### 1,005"}


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def one(tmp_path, record, language=None):
    (problem,) = read_problems(write(tmp_path / "file.jsonl", record), language)
    return problem._replace(where="")


def test_human_eval(tmp_path):
    problem = one(tmp_path, HUMAN_EVAL)
    assert problem[1:4] == ("HumanEval/0", "complete", "python")
    assert (problem.prompt, problem.solution) == (HUMAN_EVAL["prompt"], "    return a + b\n")
    assert (problem.tests, problem.entry_point) == (HUMAN_EVAL["test"], "add")


def test_mbpp_and_its_sanitized_form(tmp_path):
    problem = one(tmp_path, MBPP)
    assert problem[1:5] == ("11", "write", "python", "Write a function add.")
    assert problem.tests == "two = 2\nassert add(1, two) == 3\nassert add(0, 0) == 0"
    assert problem.solution == MBPP["code"]
    changed = {"prompt": MBPP["text"], "test_imports": ["import math"]}
    sanitized = {key: value for key, value in MBPP.items() if key not in ("text", "test_setup_code")} | changed
    assert one(tmp_path, sanitized).tests == "import math\nassert add(1, two) == 3\nassert add(0, 0) == 0"
    listed = {"task_id": "Python/11", "prompt": MBPP["text"], "test": MBPP["test_list"], "test_setup": "two = 2"}
    assert one(tmp_path, listed | {"canonical_solution": MBPP["code"]}) == problem._replace(name="Python/11")


def test_gsm8k(tmp_path):
    problem = one(tmp_path, GSM8K)
    assert problem[1:6] == ("1", "number", "text", "What are 2 and 3?", "1005")


@pytest.mark.parametrize(
    ("record", "given", "language"),
    [
        ({"language": "js"}, None, "javascript"),
        ({"task_id": "CPP/3"}, None, "cpp"),
        ({"task_id": "Java/3"}, None, "java"),
        ({"task_id": "Unknown/3"}, "c++", "cpp"),
        ({"language": "java"}, "cpp", "java"),
        ({"task_id": 3}, None, "python"),
    ],
)
def test_the_language_is_said_by_the_record_the_caller_or_the_name(tmp_path, record, given, language):
    assert one(tmp_path, HUMAN_EVAL | record, given).language == language


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            HUMAN_EVAL | {"language": "kotlin"},
            'language must be one of python, javascript, java, cpp, go; found "kotlin"',
        ),
        (HUMAN_EVAL | {"task_id": "Rust/0", "test": "mod tests { }"}, "has no language, and test is not Python"),
        (HUMAN_EVAL | {"entry_point": ""}, "test defines check, but no entry_point says what to check"),
        (HUMAN_EVAL | {"entry_point": 3}, "entry_point must be a text; found 3"),
        (HUMAN_EVAL | {"prompt": " "}, 'prompt must be a text that is not empty; found " "'),
        (HUMAN_EVAL | {"task_id": [1]}, "task_id must be a text or an integer; found [1]"),
        (HUMAN_EVAL | {"language": "go"}, "test has no func main"),
        (MBPP | {"test_list": []}, "test_list must be a list of texts that is not empty; found []"),
        (MBPP | {"test_list": [1]}, "test_list must be a list of texts that is not empty; found [1]"),
        (GSM8K | {"answer": "five"}, 'answer must end in a number; found "five"'),
        ({"prompt": "p"}, "must have the keys of one of: prompt, test; text, test_list; prompt, test_list; question"),
        (HUMAN_EVAL, 'task_id "HumanEval/0" is that of'),
    ],
)
def test_what_is_no_problem_is_refused_by_its_line(tmp_path, record, message):
    path = write(tmp_path / "file.jsonl", HUMAN_EVAL, record)
    with pytest.raises(MftcoderError) as caught:
        read_problems(path)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert message in str(caught.value)


def test_files_without_problems_and_of_other_kinds_are_refused(tmp_path):
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(MftcoderError, match=r"empty\.jsonl: no record found"):
        read_problems(tmp_path / "empty.jsonl")
    with pytest.raises(MftcoderError, match=r"x\.txt: must be a file of one of the kinds \.jsonl"):
        read_problems(tmp_path / "x.txt")
    with pytest.raises(MftcoderError, match=r"absent\.jsonl"):
        read_problems(tmp_path / "absent.jsonl")


def test_packed_files_are_read(tmp_path):
    path = tmp_path / "file.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(HUMAN_EVAL).encode()))
    assert [problem.name for problem in read_problems(path)] == ["HumanEval/0"]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 3 + 4 = 7.", "7"),
        ("It costs $1,234.50 in all", "1234.5"),
        ("#### 18.00 dollars for 3", "18"),
        ("first #### 1\nthen #### -20", "-20"),
        ("1000000", "1000000"),
        ("none", None),
        ("7 ####", None),
    ],
)
def test_the_last_number_is_written_in_one_way(text, number):
    assert last_number(text) == number


@pytest.mark.corpora
def test_real_files_are_read():
    corpora = Path(os.environ["MFTCODER_CORPORA"])
    for file, count, language in (
        ("eval/human-eval/HumanEval.jsonl.gz", 164, "python"),
        ("eval/mbpp/mbpp.jsonl", 974, "python"),
        ("eval/codefuse-evaluation/code_completion/humaneval_java.jsonl", 164, "java"),
        ("eval/codefuse-evaluation/nl2code/mbpp_x.jsonl", 500, "python"),
        ("train/mbxp/mbjsp_release_v1.2.jsonl.gz", 966, "javascript"),
        ("train/gsm8k/gsm8k_test.jsonl.gz", 1319, "text"),
    ):
        problems = read_problems(corpora / file)
        assert (len(problems), {problem.language for problem in problems}) == (count, {language})
