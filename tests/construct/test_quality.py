"""What is found fault with, and, as important, what is not."""

import pytest

from mftcoder.construct.quality import filter_stage
from mftcoder.construct.samples import Sample, conversation
from mftcoder.construct.settings.samples import ParseVerification, Quality
from mftcoder.construct.verification import verify_stage

BLOCK = "```python\nx = 1\n```"


def sample(answer, question="Write a function that adds.", **more):
    return Sample(conversation(question, answer), (), (), {}, **more)


def reason(answer, quality=None, **more):
    return filter_stage(quality or Quality())(sample(answer, **more)).reason


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I cannot help with this request.",
        "I can't assist with that.",
        "Sorry, I am unable to write malware. I will not provide it.",
        "As an AI, I don't have access to your files, so I can't read them.",
        "I cannot provide the code for this.",
        "抱歉，我无法回答这个问题。",
        "Lo siento, pero no puedo ayudar con eso.",
    ],
)
def test_refusals(answer):
    assert reason(answer) == "refusal"
    assert reason(answer, Quality(refusals="keep")) != "refusal"


@pytest.mark.parametrize(
    "answer",
    [
        "As a language model, I recommend quicksort.",
        "As of my knowledge cutoff, this was the newest version.",
        "```python\ndef f():\n    # your code here\n```",
        "```python\nx = 1\n# ... rest of the code\n```",
        "```java\n// TODO: implement this\n```",
        "Dear [Your Name], here is the code.",
    ],
)
def test_boilerplate(answer):
    assert reason(answer) == "boilerplate"
    assert reason(answer, Quality(boilerplate="keep")) == ""


@pytest.mark.parametrize(
    "answer",
    [
        "You cannot assign to a tuple: it raises TypeError. I would use a list instead.",
        "If the file cannot be opened, the function says sorry and returns None.",
        "A language model predicts the next token.",
        "```python\n# TODO list: a class that stores tasks\nclass TodoList: ...\n```",
        "Put your code into a folder of its own.",
        "def f(*args, **kwargs): ...",
        "x[your_key] = 1",
        "The rest of the code stays the same.",
    ],
)
def test_what_only_sounds_like_them(answer):
    assert reason(answer) == ""


def test_lengths_count_every_turn():
    assert reason("Yes.", question="Go on") == "prompt too short"
    assert reason("Yes.", Quality(min_answer_chars=10)) == "answer too short"
    assert reason("Yes. " * 30, Quality(max_chars=100)) == "too long"


def test_loops_but_not_tables():
    table = "\n".join(f"| {n} | {n * n} | {n**3} |" for n in range(60))
    assert reason("I think so. " * 100) == "repeats itself"
    assert reason(table) == ""
    assert reason("I think so. " * 100, Quality(max_repetition=None)) == ""


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("This function adds two numbers and returns their sum to the caller.", ""),
        ("Diese Funktion addiert zwei Zahlen und gibt ihre Summe zurück.", "language de"),
        ("这个函数把两个数字相加，然后返回它们的和。" * 3, "language zh"),
        ("Esta función suma dos números y devuelve el resultado al que la llama.", "language es"),
        ("```python\n# Diese Funktion addiert zwei Zahlen und gibt ihre Summe zurück.\n```", ""),
        ("Ja.", ""),
    ],
)
def test_the_language_of_the_prose(answer, found):
    assert reason(answer, Quality(languages=["en"])) == found
    assert reason(answer) == ""


def test_formats():
    assert reason("No code.", format="code") == "no code block"
    assert reason(BLOCK, format="code") == ""
    assert reason("```python\nx = 1") == "code block not closed"
    assert reason("```python\nx = 1", Quality(answer_format=False)) == ""
    assert reason("{", format="json") == "not JSON"
    assert reason('{"a": 1}', format="json") == ""


def test_verification_by_parsing_says_what_it_found():
    stage = verify_stage(ParseVerification(type="parse"))
    assert stage(sample(BLOCK)).sample.proof == {"parsed": 1}
    assert stage(sample("```python\nx = = 1\n```")).reason == "does not parse"
    assert stage(sample("```go\nx := 1\n```")) == (sample("```go\nx := 1\n```").proven(parsed=0), "")
