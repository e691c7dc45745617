"""What each generator makes of what it is told, by its own rules."""

import json
import re
from itertools import combinations

import pytest
from author import author
from endpoint import Reply
from test_novelty import textbook

from mftcoder.construct.functions import LeftOut
from mftcoder.construct.generators.transform import TRANSFORMS
from mftcoder.construct.generators.two_agents import STOP
from mftcoder.construct.seeds import Piece, read_seeds
from mftcoder.errors import RunError

PAIR = {"teacher": "tutor of programming", "student": "beginner"}


def words_of(text):
    """As the novelty filter sees them."""
    return " ".join(re.findall(r"\w+", text.lower()))


def test_every_new_instruction_is_unlike_all_before_it_and_all_seeds(serve, make):
    serve(author)
    made = make({"type": "self_instruct", "instructions": 12, "per_request": 4, "max_rouge": 0.6})
    texts = [words_of(seed.instruction) for seed in read_seeds(None)]
    new = [words_of(record["messages"][0]["content"]) for record in made.records]
    assert len(new) == 12
    assert made.steps["novelty"]["left_out"]["like an earlier one"] > 0
    assert max(textbook(one, other) for one, other in combinations(texts + new, 2) if other in new) < 0.6


def test_instructions_that_are_no_task_of_text_are_left_out(serve, make):
    listed = [
        "Draw a diagram of a binary tree with seven nodes.",
        "Sort it.",
        "- Explain what recursion is to a child.",
        "Explain what recursion is. " * 60,
        "Explain in two sentences what recursion is to a child of ten.",
        "Write a limerick about recursion that a child of ten enjoys.",
    ]
    listing = "\n".join(f"{number}. {text}" for number, text in enumerate(listed, 1))
    lists = iter([listing, "I would rather not."])
    serve(lambda request: Reply(next(lists, "No.")) if "numbered list" in request.prompt else author(request))
    made = make({"type": "self_instruct", "instructions": 9, "per_request": 5, "requests_per_round": 2})
    assert made.steps["parse"]["left_out"] == {
        "no list": 7,  # the second of the first round, and three barren rounds
        "begins with a mark": 1,
        "more than asked for": 1,
        "not a task of text": 1,
        "too long": 1,
        "too short": 1,
    }
    assert [record["messages"][0]["content"] for record in made.records] == [listed[4]]


def test_later_requests_show_earlier_instructions_too(serve, make):
    server = serve(author)
    made = make({"type": "self_instruct", "instructions": 20, "per_request": 2, "requests_per_round": 3})
    first = made.records[0]["messages"][0]["content"]
    later = [request.prompt for request in server.requests[3:] if "numbered list" in request.prompt]
    assert any(first in prompt for prompt in later)
    shown = {seed for record in made.records for seed in record["source"]["seeds"]}
    assert any(seed.startswith("code/") for seed in shown)
    assert any(not seed.startswith("code/") for seed in shown)


def talk(serve, make, student, teacher=None, **settings):
    """The conversations of a student who says, in order, what is in ``student``, and then stops."""

    def script(request):
        system = request.body["messages"][0]
        turn = len(request.body["messages"]) // 2
        if system["role"] != "system":
            return Reply("Sort a list of names by length.")
        if STOP in system["content"]:
            return Reply(student[turn - 1] if turn <= len(student) else STOP)
        return teacher(turn) if teacher else Reply(f"This is answer number {turn}, in full.")

    serve(script)
    generator = {"type": "two_agents", "topics": ["python"], "max_topics": 1, "pairs": [PAIR], **settings}
    return make(generator, endpoint={"retries": 0})


QUESTIONS = ["How do I sort names?", "And by their length?", "What if two are equally long?", "Is that stable?"]


def test_a_conversation_ends_with_the_goal_and_is_that_of_teacher_and_student(serve, make):
    (record,) = talk(serve, make, QUESTIONS[:3]).records
    assert record["source"]["end"] == "goal"
    assert record["source"]["goal"] == "Sort a list of names by length."
    assert [message["content"] for message in record["messages"]] == [
        text for n in (1, 2, 3) for text in (QUESTIONS[n - 1], f"This is answer number {n}, in full.")
    ]
    assert len(record["source"]["requests"]) == 1 + 2 * 3 + 1


@pytest.mark.parametrize(
    ("student", "teacher", "settings", "end", "exchanges"),
    [
        (QUESTIONS, None, {"max_exchanges": 2}, "exchanges", 2),
        ([*QUESTIONS[:2], "and by their LENGTH"], None, {}, "repetition", 2),
        ([*QUESTIONS[:2], ""], None, {}, "no question", 2),
        (QUESTIONS, lambda turn: Reply(f"Answer {turn}." if turn < 3 else ""), {}, "no answer", 2),
        (
            QUESTIONS,
            lambda turn: Reply(f"Answer {turn}.", usage={"prompt_tokens": 40 * turn, "completion_tokens": 9}),
            {"max_context_tokens": 85},
            "context",
            2,
        ),
    ],
)
def test_a_conversation_ends_for_other_reasons_after_a_whole_exchange(
    student, teacher, settings, end, exchanges, serve, make
):
    (record,) = talk(serve, make, student, teacher, **settings).records
    assert record["source"]["end"] == end
    assert [message["role"] for message in record["messages"]] == ["user", "assistant"] * exchanges


def test_a_conversation_that_is_too_short_is_left_out(serve, make):
    with pytest.raises(RunError, match=r"too few exchanges \(goal\) 1"):
        talk(serve, make, QUESTIONS[:1])


def evolve(serve, make, tmp_path, evolved, verdict="DIFFERENT", **settings):
    """What comes of one seed whose evolution is ``evolved``."""
    seed = "Write a function that sorts a list of names by their length."
    (tmp_path / "seeds.jsonl").write_text(json.dumps({"instruction": seed, "id": "s"}))

    def script(request):
        if "new task alone" in request.prompt:
            return Reply(evolved)
        return Reply(verdict if "SAME or DIFFERENT" in request.prompt else "Here you are, with all that you need.")

    serve(script)
    generator = {"type": "evolve", "seeds": str(tmp_path / "seeds.jsonl"), "rounds": 1, "keep_seeds": True, **settings}
    return make(generator)


def test_an_evolved_instruction_is_answered_and_stays_in_the_group_of_its_seed(serve, make, tmp_path):
    made = evolve(serve, make, tmp_path, "Sort names by length in linear time, keeping ties in order.", judge=True)
    assert made.records[0]["source"]["axes"] == []
    assert len(made.records[1]["source"]["axes"]) == 1
    assert [record["group"] for record in made.records] == ["seed s", "seed s"]


@pytest.mark.parametrize(
    ("evolved", "reason"),
    [
        ("Write a function that sorts a list of names, by their length!", "a copy"),
        ("Here is the rewritten task: sort names by length without loops.", "words of the request"),
        ("Sort it", "too short"),
        ("Sort names with these rules too. " * 30, "out of hand"),
    ],
)
def test_what_has_not_evolved_is_eliminated(evolved, reason, serve, make, tmp_path):
    made = evolve(serve, make, tmp_path, evolved)
    assert made.steps["round 1"]["left_out"] == {reason: 1}
    assert len(made.records) == 1


def test_the_judge_has_a_say(serve, make, tmp_path):
    made = evolve(serve, make, tmp_path, "Order strings by how many characters they have.", "SAME", judge=True)
    assert made.steps["round 1"]["left_out"] == {"the same to the judge": 1}


def test_an_axis_of_ones_own(serve, make, tmp_path):
    (tmp_path / "haiku.txt").write_text("{{ instruction }} As a haiku. Answer with the new task alone.")
    axes = {"axes": ["haiku"], "prompts": {"axis-haiku": str(tmp_path / "haiku.txt")}}
    made = evolve(serve, make, tmp_path, "Describe sorting by length in seventeen syllables.", **axes)
    assert made.records[1]["source"]["axes"] == ["haiku"]
    assert "axis-haiku" in made.records[1]["source"]["prompts"]


ADD = Piece("a.py:1", "def add(a, b):\n    return a + b", "python", "a.py")
GO = Piece("a.go:1", "func add(a, b int) int { return a + b }", "go", "a.go")


def block(code, language="python"):
    return f"```{language}\n{code}\n```"


@pytest.mark.parametrize(
    ("name", "piece", "reply", "reason"),
    [
        ("comment", ADD, block('def add(a, b):\n    """The sum."""\n    return a + b  # both numbers'), ""),
        ("comment", ADD, block("def add(a, b):\n    # The sum, in another order.\n    return b + a"), "was changed"),
        ("comment", ADD, block(ADD.code), "no comment added"),
        ("comment", GO, block("// The sum.\n" + GO.code, "go"), ""),
        ("tests", ADD, block("def test_add():\n    assert add(1, 2) == 3"), ""),
        ("tests", ADD, block("class T(TestCase):\n    def test(self):\n        self.assertEqual(add(1, 2), 3)"), ""),
        ("tests", ADD, block("def test_add():\n    add(1, 2)"), "tests nothing"),
        ("tests", ADD, block("def test_add():\n    assert 1 + 2 == 3"), "tests nothing"),
        ("translate", ADD, block("func add(a, b int) int { return a + b }", "go"), ""),
        ("translate", ADD, block("def add(a, b): return a + b"), "no code block"),
        ("repair", ADD, "It subtracts.\n\n" + block("def add(a, b):\n    return a - b"), ""),
        ("repair", ADD, "Nothing.\n\n" + block("def add(a, b):\n    # sum\n    return a + b"), "no bug put in"),
        (
            "repair",
            ADD,
            "It subtracts.\n\n" + block("def add(a, b):\n    return a - b  # bug here"),
            "gives the bug away",
        ),
        ("repair", ADD, "It stops.\n\n" + block("def add(a, b):\n    return a -"), "does not parse"),
        ("repair", ADD, block("def add(a, b):\n    return a - b"), "nothing said about the bug"),
        ("repair", GO, "It subtracts.\n\n" + block("func add(a, b int) int { return a - b }", "go"), ""),
        ("explain", ADD, "It adds two numbers.", ""),
        ("explain", ADD, "It adds:\n```python\nadd(1, 2)", "not closed"),
    ],
)
def test_a_transform_takes_what_does_what_was_asked(name, piece, reply, reason):
    if reason:
        with pytest.raises(LeftOut, match=reason):
            TRANSFORMS[name](piece, reply, "Go")
    else:
        TRANSFORMS[name](piece, reply, "Go")


def test_a_repair_shows_the_defect_and_answers_with_the_original():
    made = TRANSFORMS["repair"](ADD, "It subtracts.\n\n" + block("def add(a, b):\n    return a - b"), "")
    assert made.shown == made.parts["defective"] == "def add(a, b):\n    return a - b"
    assert made.answer == "It subtracts.\n\n" + block(ADD.code)


def test_snippets_of_other_languages(serve, make, tmp_path):
    snippets = [{"code": GO.code, "language": "Go", "path": "a.go"}, {"code": "x = 1;", "language": "js"}]
    (tmp_path / "code.jsonl").write_text("".join(json.dumps(snippet) + "\n" for snippet in snippets))
    serve(lambda request: Reply("It is simple, and here is why it is so."))
    made = make({"type": "transform", "transforms": ["explain"], "snippets": str(tmp_path / "code.jsonl")})
    assert [record["group"] for record in made.records] == ["a.go", "code.jsonl:2"]
    assert all("```go" in record["messages"][0]["content"] for record in made.records[:1])
