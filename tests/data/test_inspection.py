import io

import pytest
from rich.console import Console

from mftcoder.data.inspection import as_json, show
from mftcoder.data.prepare import prepare, shards_path
from mftcoder.errors import MftcoderError

RECORDS = {
    "a": [{"prompt": f"two [b]{i}[/b]", "answer": f"five {i}"} for i in range(3)],
    "b": [{"text": "hello there"}],
}


@pytest.fixture
def folder(make_config):
    config = make_config(RECORDS, validation_fraction=0.0)
    prepare(config, tell=lambda _: None)
    return shards_path(config)


def test_json_holds_the_text_of_every_sample_and_what_of_it_is_supervised(folder) -> None:
    (row,) = as_json(folder, task="a")
    assert (row["task"], row["split"], row["row"]) == ("a", "train", 0)
    for sample in row["samples"]:
        i = sample["id"]
        assert sample["stretches"] == [
            {"text": f"<|im_start|>user\ntwo [b]{i}[/b]<|im_end|>\n<|im_start|>assistant\n", "supervised": False},
            {"text": f"five {i}<|im_end|>", "supervised": True},
            {"text": "\n", "supervised": False},
        ]
    assert len(row["samples"]) == 3
    assert [row["task"] for row in as_json(folder)] == ["a", "b"]


def printed(folder, **options) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100, color_system="standard", highlight=False)
    show(folder, console=console, **options)
    return stream.getvalue()


def test_supervised_text_is_green_and_markup_in_samples_is_left_alone(folder) -> None:
    shown = printed(folder, task="a", rows=1)
    assert "\x1b[1;32mfive 1<|im_end|>\x1b[0m" in shown
    assert "two [b]1[/b]" in shown


def test_without_colour_supervised_text_is_quoted(folder) -> None:
    shown = printed(folder, task="a", color=False)
    assert "«five 1<|im_end|>»" in shown
    assert "a / train / row 0: 3 samples" in shown
    assert "sample 1: " in shown


def test_an_unknown_task_is_named(folder) -> None:
    with pytest.raises(MftcoderError, match='hold no task "c"'):
        as_json(folder, task="c")
