import io

import pytest
from rich.console import Console

from mftcoder.data.inspection import Query, as_json, find, show
from mftcoder.data.prepare import prepare, shards_path
from mftcoder.data.shards import Shards
from mftcoder.errors import MftcoderError

RECORDS = {
    "a": [{"prompt": f"two [b]{i}[/b]" + " more" * i, "answer": f"five {i}"} for i in range(30)],
    "b": [{"text": "hello there"}],
}


@pytest.fixture
def shards(make_config) -> Shards:
    config = make_config(RECORDS, validation_fraction=0.0, sequence_length=256)
    prepare(config, tell=lambda _: None)
    return Shards.open(shards_path(config))


def text_of(i: int) -> str:
    more = " more" * i
    return f"<|im_start|>user\ntwo [b]{i}[/b]{more}<|im_end|>\n<|im_start|>assistant\nfive {i}<|im_end|>\n"


def samples(shards: Shards, **asked) -> list[dict]:
    return [sample for row in as_json(find(shards, Query(**asked))) for sample in row["samples"]]


def ids(shards: Shards, **asked) -> list[int]:
    return [sample["id"] for sample in samples(shards, **asked)]


def test_every_sample_is_there_once_with_its_text_and_what_of_it_is_supervised(shards) -> None:
    found = samples(shards, task="a", limit=99)
    assert sorted(sample["id"] for sample in found) == list(range(30))
    for sample in found:
        context, answer, end = sample["stretches"]
        i = sample["id"]
        assert context["text"] + answer["text"] + end["text"] == text_of(i)
        assert (answer["text"], end["text"]) == (f"five {i}<|im_end|>", "\n")
        assert [part["supervised"] for part in sample["stretches"]] == [False, True, False]
        assert sum(part["tokens"] for part in sample["stretches"]) == sample["tokens"]


def test_rows_of_every_task_are_shown_up_to_the_limit_or_one_that_is_named(shards) -> None:
    rows = shards.rows("a")
    assert len(rows) > 3
    found = as_json(find(shards, Query(limit=2)))
    assert [(row["task"], row["row"]) for row in found] == [("a", 0), ("a", 1), ("b", 0)]
    (row,) = as_json(find(shards, Query(row=3)))
    assert (row["task"], row["tokens"]) == ("a", len(rows[3].input_ids))
    assert [sample["id"] for sample in row["samples"]] == rows[3].sample_ids.tolist()


def test_samples_are_found_by_id_text_and_length(shards) -> None:
    assert ids(shards, task="a", sample=17) == [17]
    assert sorted(ids(shards, grep=r"\[b\]2[34]\[|hello", limit=9)) == [0, 23, 24]
    by_length = sorted(range(30), key=lambda i: len(text_of(i)))
    assert ids(shards, task="a", order="longest", limit=2) == by_length[:-3:-1]
    assert sorted(ids(shards, task="a", order="shortest", limit=30)) == list(range(30))
    assert ids(shards, task="a", order="longest", grep="five 1", limit=4) == [19, 18, 17, 16]
    assert ids(shards, task="a", grep="nowhere") == []
    (excerpt,) = find(shards, Query(task="a", sample=17))
    assert 17 in shards.rows("a")[excerpt.row].sample_ids
    assert excerpt.num_samples == len(shards.rows("a")[excerpt.row].sample_ids)


def printed(shards: Shards, color: bool = True, **asked) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=100, color_system="standard" if color else None, highlight=False)
    show(find(shards, Query(**asked)), console, color=color)
    return stream.getvalue()


def test_supervised_text_is_green_and_markup_in_samples_is_left_alone(shards) -> None:
    shown = printed(shards, task="a", sample=1)
    assert "\x1b[1;32mfive 1<|im_end|>\x1b[0m" in shown
    assert "two [b]1[/b]" in shown


def test_without_colour_supervised_text_is_quoted(shards) -> None:
    shown = printed(shards, color=False, task="a", sample=1)
    assert "«five 1<|im_end|>»" in shown
    row = next(find(shards, Query(task="a", sample=1)))
    assert f"a / train / row {row.row}: 1 of {row.num_samples} samples, {row.tokens} tokens" in shown
    assert f"sample 1: {row.samples[0].tokens} tokens, {row.samples[0].supervised_tokens} supervised" in shown


def test_a_sample_cannot_steer_the_terminal(make_config) -> None:
    hostile = "x\x1b[2J\x07\r\b\x9b1m\u202eevil\u2066\ttab\nline é"
    config = make_config({"a": [{"text": hostile}]}, validation_fraction=0.0)
    prepare(config, tell=lambda _: None)
    shards = Shards.open(shards_path(config))
    shown = printed(shards, color=False)
    assert "«␛[2J␇␍␈<U+009B>1m<U+202E>evil<U+2066>" in shown
    assert "\nline é" in shown
    assert not set(shown) & set("\x1b\x07\r\b\x9b\u202e\u2066")
    (sample,) = samples(shards)
    assert "".join(part["text"] for part in sample["stretches"]) == f"{hostile}<|im_end|>"


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ({"task": "c"}, 'hold no task "c"'),
        ({"row": 99}, r"--row 99: there is no such row; rows in split train: a \d+, b 1\."),
        ({"task": "b", "sample": 5}, "--sample 5: there is no such sample in split train of b"),
        ({"grep": "("}, r'--grep: must be a regular expression; found "\("'),
    ],
)
def test_what_is_not_there_is_named(asked, problem, shards) -> None:
    with pytest.raises(MftcoderError, match=problem):
        list(find(shards, Query(**asked)))
