"""What of a benchmark is found in texts."""

import gzip
import json
import os
from pathlib import Path

import pytest

from mftcoder.data.filters.benchmarks import Benchmarks, Item, item_text

SUM = "Write a function to find the sum of all even numbers between two given integers, both of them included."
SHORT = "Write a function to reverse a string."
LONG_CODE = "def unrelated(x):\n    return x\n" * 200


def benchmarks(*texts: str, bleu: float | None = None, ngram_words: int | None = None) -> Benchmarks:
    return Benchmarks([Item(f"line {n}", text) for n, text in enumerate(texts)], bleu=bleu, ngram_words=ngram_words)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        (f"{LONG_CODE}# {SUM.upper()}", 1.0),
        (SUM.replace(" ", "\n  "), 1.0),
        (" ".join(SUM.split()[:13]), 1 / 7),
        (" ".join(SUM.split()[:12]), None),
        (SUM.replace("even", "odd").replace("integers", "numbers"), None),
    ],
)
def test_thirteen_words_in_a_row_give_an_item_away(text: str, share: float | None) -> None:
    assert len(SUM.split()) == 19
    (hit,) = benchmarks(SHORT, SUM, ngram_words=13).find([text])
    assert (hit and tuple(hit)) == (share and ("ngram", 1, share))


def test_an_item_shorter_than_that_is_found_where_it_is_all_of_a_text() -> None:
    index = benchmarks(SUM, SHORT, ngram_words=13)
    assert [hit and hit.item for hit in index.find([SHORT.lower(), f"Please: {SHORT}", "reverse a string"])] == [
        1,
        None,
        None,
    ]


def test_what_is_common_to_many_items_of_a_benchmark_counts_for_none() -> None:
    form = "You are given a problem. Write a program that solves it and prints the answer on one line."
    items = [Item(str(n), f"{form} {word * 5}", n % 2) for n, word in enumerate(["add ", "sort ", "draw "] * 8)]
    assert Benchmarks(items[:11], bleu=None, ngram_words=13).find([form]) != [None]  # at most 6 of each benchmark
    assert Benchmarks(items, bleu=None, ngram_words=13).find([form]) == [None]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (SUM.replace("even", "odd"), True),
        (f'def f(a, b):\n    """{SUM}\n    >>> f(1, 4)\n    6\n    """\n{LONG_CODE}', True),
        (f"You are a good programmer.\n{SUM}\nThink first.", True),
        (f"/**\n * Your task:\n * {SUM}\n * > f(1, 4)\n * 6\n */", True),
        ("Write a function to find the area of a circle.", False),
        (LONG_CODE, False),
        ("", False),
    ],
)
def test_bleu_finds_an_item_with_a_word_changed_wherever_it_stands_in_a_text(text: str, found: bool) -> None:
    (hit,) = benchmarks(SUM, bleu=0.5).find([text])
    assert (hit is not None) == found
    assert hit is None or (hit.reason == "bleu" and hit.score > 0.5)


def test_items_of_few_words_are_named_and_found_nowhere() -> None:
    index = benchmarks("sort it", "", SUM, bleu=0.5, ngram_words=13)
    assert index.too_short.tolist() == [0, 1]
    assert index.find(["sort it", ""]) == [None, None]


@pytest.mark.parametrize(
    ("record", "field", "text"),
    [
        ({"task_id": "1", "prompt": 'def f():\n    """Help."""\n\ndef g():\n    """Do it."""\n'}, None, "Do it."),
        ({"text": "Write it.", "code": "x"}, None, "Write it."),
        ({"prompt": "a", "docstring": "// Do it.\n"}, None, "Do it."),
        ({"prompt": "a", "solution": "b"}, "solution", "b"),
        ({"prompt": "a"}, "solution", None),
        ({"prompt": 3, "n": 1}, None, None),
    ],
)
def test_the_text_of_an_item_is_its_docstring_or_all_of_it(record: dict, field: str | None, text: str | None) -> None:
    assert item_text(record, field) == text


@pytest.mark.corpora
def test_the_test_set_of_mbpp_is_found_in_thirteen_languages() -> None:
    corpora = Path(os.environ["MFTCODER_CORPORA"])
    lines = (corpora / "eval/mbpp/mbpp.jsonl").read_text().splitlines()
    test_set = [record for line in lines if 11 <= (record := json.loads(line))["task_id"] <= 510]
    items = [Item(str(record["task_id"]), item_text(record, None)) for record in test_set]
    index = Benchmarks(items, bleu=0.5, ngram_words=13)
    files = sorted((corpora / "train/mbxp").glob("*.jsonl.gz"))
    assert len(files) == 13
    for file in files:
        records = [json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]
        numbers = [int(record["task_id"].split("/")[1]) for record in records]
        hits = index.find([record["prompt"] for record in records])
        assert all(hit for number, hit in zip(numbers, hits, strict=True) if 11 <= number <= 510)
        # Others are flagged too where they are worded alike ("find the nth … number"), but by far not all.
        others = [hit for number, hit in zip(numbers, hits, strict=True) if not 11 <= number <= 510]
        assert sum(hit is not None for hit in others) < 0.5 * len(others)
