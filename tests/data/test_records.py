import bz2
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from mftcoder.config.schema import Task
from mftcoder.data.records import RECORD_FORMATS, Conversation, Text
from mftcoder.data.spans import template_messages
from mftcoder.data.task_records import read_records, record_format
from mftcoder.errors import MftcoderError

SAMPLES = Path(__file__).parents[2] / "data" / "samples"


def read(path: Path | str, format: str = "auto") -> list[Conversation | Text]:
    return list(read_records(Task(name="t", path=str(path), format=format)))


def turns(conversation: Conversation | Text) -> list[tuple[str, str, bool]]:
    assert isinstance(conversation, Conversation)
    return [(message.role, message.content, message.supervised) for message in conversation.messages]


@pytest.fixture
def one(tmp_path: Path) -> Callable[..., Conversation | Text]:
    """Reads one record through a file."""

    def read_one(record: object, format: str = "auto") -> Conversation | Text:
        file = tmp_path / "a.jsonl"
        file.write_text(json.dumps(record))
        return read(file, format)[0]

    return read_one


def test_every_format_has_a_sample_file() -> None:
    assert {file.stem for file in SAMPLES.iterdir()} == set(RECORD_FORMATS)


@pytest.mark.parametrize("format", RECORD_FORMATS)
def test_sample_files_are_detected_and_read(format: str) -> None:
    file = SAMPLES / f"{format}.jsonl"
    assert record_format(Task(name="t", path=str(file))) == format
    assert len(read(file)) == len(file.read_text().splitlines())


ASKED = [("user", "Q", False), ("assistant", "A", True)]
WITH_SYSTEM = [("system", "S", False), *ASKED]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"prompt": "Q", "answer": "A"}, ASKED),
        ({"prompt": "Q", "response": "A"}, ASKED),
        ({"input": "Q", "output": "A"}, ASKED),
        ({"instruction": "Q", "output": "A"}, ASKED),
        ({"instruction": "Q", "response": "A"}, ASKED),
        ({"question": "Q", "response": "A", "system": "S"}, WITH_SYSTEM),
        ({"question": "Q", "answer": "A"}, ASKED),
        ({"query": "Q", "answer": "A"}, ASKED),
        ({"prompt": "Q", "completion": "A", "system": None}, ASKED),
        ({"instruction": "I", "input": "X", "output": "A"}, [("user", "I\nX", False), ("assistant", "A", True)]),
        ({"chat_rounds": [{"role": "human", "content": "Q"}, {"role": "gpt", "content": "A"}]}, ASKED),
        (
            {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}], "system": "S"},
            WITH_SYSTEM,
        ),
        (
            {
                "messages": [
                    {"role": "developer", "content": "S"},
                    {"role": "user", "content": [{"type": "text", "text": "Q"}]},
                    {"role": "assistant", "content": "A"},
                ]
            },
            WITH_SYSTEM,
        ),
    ],
)
def test_formats_say_the_same_thing_in_their_own_ways(one: Callable, record: dict, expected: list) -> None:
    assert turns(one(record)) == expected


def test_a_message_can_be_left_out_of_training_and_carries_its_tool_calls(one: Callable) -> None:
    calls = [{"type": "function", "function": {"name": "f", "arguments": {}}}]
    messages = [
        {"role": "user", "content": "Q"},
        {"role": "assistant", "content": None, "tool_calls": calls, "train": False},
        {"role": "tool", "content": "R", "tool_call_id": "1"},
        {"role": "assistant", "content": "A"},
    ]
    read = one({"messages": messages, "tools": [{"type": "function"}], "group": 12})
    assert [message.supervised for message in read.messages] == [False, False, False, True]
    assert read.messages[1].fields == {"tool_calls": calls}
    assert read.messages[2].fields == {"tool_call_id": "1"}
    assert read.tools == ({"type": "function"},)
    assert read.group == "12"


def test_other_keys_of_a_turn_never_replace_its_role_and_content(one: Callable) -> None:
    turn = {"from": "human", "value": "Q", "role": "assistant", "content": "A"}
    assert template_messages(one({"conversations": [turn]})) == [{"role": "user", "content": "Q"}]


def rounds(*roles: str) -> dict:
    return {"chat_rounds": [{"role": role, "content": "x"} for role in roles]}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            rounds("human", "bot", "moderator"),
            "a.jsonl:1: chat_rounds[2].role must be system, user or assistant (or human, bot); found \"moderator\".",
        ),
        (rounds("human", "human"), 'chat_rounds[1].role must be assistant after user; found "human".'),
        (rounds("bot"), 'chat_rounds[0].role must be user after the start; found "bot".'),
        (rounds("system", "bot"), 'chat_rounds[1].role must be user after system; found "bot".'),
        (rounds("human", "system"), "chat_rounds[1].role: a system message must come first; found it after user."),
        ({"messages": []}, "messages must be a list of at least one message; found []."),
        ({"messages": ["hi"]}, 'messages[0] must be an object; found "hi".'),
        ({"messages": [{"role": "user"}]}, "messages[0].content must be a string, or a list of"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, 'found [{"type": "text"}].'),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, 'found [{"type": "image"}].'),
        ({"messages": [{"role": "user", "content": "x", "train": 1}]}, "train must be true or false; found 1."),
        ({"conversations": [{"from": "human", "value": 3}]}, "conversations[0].value must be a string, or a list"),
        ({"messages": [{"role": "user", "content": "x"}], "tools": "["}, "tools: not valid JSON"),
        ({"prompt": "x", "answer": "y", "response": "z"}, "found prompt/answer and prompt/response. Keep one of them."),
        ({"prompt": "x", "answer": 3}, "answer must be a string; found 3."),
        ({"text": "x", "group": 1.5}, "group must be a string or an integer; found 1.5."),
        ({"code": "x"}, 'alpaca, prompt_completion, pairs, infill, text; found keys ["code"].'),
        ({"text": "a \ud83d"}, 'a.jsonl:1: holds a lone surrogate, "\\ud83d": half of a character'),
        ({"text": "x", "meta": [{"\udc00": 1}]}, "a.jsonl:1: holds a lone surrogate"),
        ({"messages": [{"role": "user", "content": "x"}], "tools": '["\\ud83d"]'}, "tools: holds a lone surrogate"),
        ([1], "a record must be a JSON object; found list."),
    ],
)  # fmt: skip
def test_errors_name_the_line_what_is_expected_and_what_was_found(one: Callable, record: object, message: str) -> None:
    with pytest.raises(MftcoderError) as caught:
        one(record)
    assert message in str(caught.value)
    assert "a.jsonl:1" in str(caught.value)


def test_a_pair_of_surrogates_is_a_character(one: Callable) -> None:
    assert one({"text": "\ud83d\ude00"}) == Text("😀")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "x", "meta": ' + "[" * 200 + "]" * 200 + "}", "nested more than 100 deep"),
        ('{"text": "x", "meta": ' + '{"a":' * 9999 + "1" + "}" * 10000, "nested more than 100 deep"),
        ('{"text": "x", "meta": ' + "9" * 5000 + "}", "not valid JSON: Exceeds the limit"),
        (r'{"text": "\ud83d"}', "holds a lone surrogate"),
    ],
)
def test_a_line_that_python_stumbles_over_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n' + line + "\n")
    with pytest.raises(MftcoderError, match=rf"a\.jsonl:2: .*{message}"):
        read(tmp_path / "a.jsonl")


def test_an_element_of_an_array_that_holds_half_a_character_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(r'[{"text": "x"}, {"text": "\ud83d"}]')
    with pytest.raises(MftcoderError, match=r"a\.json\[1\]: holds a lone surrogate"):
        read(tmp_path / "a.json")


def test_broken_json_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n\n{"text": \n')
    with pytest.raises(MftcoderError, match=r"a\.jsonl:3: not valid JSON"):
        read(tmp_path / "a.jsonl")


def test_a_task_has_one_format(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{"prompt": "x", "answer": "y"}\n')
    with pytest.raises(MftcoderError, match=r'a\.jsonl:2: task "t" has format text; found a record of format pairs\.'):
        read(tmp_path / "a.jsonl")
    with pytest.raises(MftcoderError, match=r"a\.jsonl:1: .* has format pairs; found a record of format text\."):
        read(tmp_path / "a.jsonl", format="pairs")
    with pytest.raises(MftcoderError, match=r'format must be auto, messages, .*; found "csv"'):
        read(tmp_path / "a.jsonl", format="csv")


def test_every_packaging_gives_the_same_records(tmp_path: Path) -> None:
    records = [{"text": f"ä {i}\u2028", "group": str(i)} for i in range(5)]
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()
    array = json.dumps(records, indent=1).encode()
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + lines)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "c.jsonl.bz2").write_bytes(bz2.compress(lines))
    (tmp_path / "d.jsonl.zst").write_bytes(zstandard.compress(lines))
    (tmp_path / "e.json").write_bytes(array)
    (tmp_path / "f.json.gz").write_bytes(gzip.compress(array))
    (tmp_path / "g.json").write_bytes(lines)
    (tmp_path / "i.json.zst").write_bytes(zstandard.compress(lines))
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "h.parquet")
    expected = [Text(record["text"], record["group"]) for record in records]
    for file in tmp_path.iterdir():
        assert read(file) == expected, file


def test_folders_and_globs_are_read_in_sorted_order_and_entries_in_theirs(tmp_path: Path) -> None:
    for name in ["z/b", "z/a/c", "a", "y"]:
        file = tmp_path / f"{name}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"text": name}))
    (tmp_path / "z" / "README.md").write_text("not a record")
    task = Task(name="t", path=[str(tmp_path / "y.jsonl"), str(tmp_path / "z"), str(tmp_path / "[a]*.jsonl")])
    assert [record.text for record in read_records(task)] == ["y", "z/a/c", "z/b", "a"]
    twice = Task(name="t", path=[str(tmp_path / "z"), str(tmp_path / "z" / "b.jsonl")])
    with pytest.raises(MftcoderError, match=r"b\.jsonl is named twice"):
        list(read_records(twice))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.jsonl", None, "does not exist"),
        ("*.jsonl", None, "holds no file"),
        ("a.csv", b"x", "is of no known kind"),
        ("a.jsonl", b"\n", "no record found"),
        ("a.json", b"[]", "no record found"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "x"}\n' * 9999)[:-20], "cannot be read"),
        ("a.jsonl.zst", b"not zstandard", "cannot be read"),
        ("a.jsonl", b'{"text": "\xff"}', "is not UTF-8"),
        ("a.parquet", b"PAR1", "cannot be read"),
    ],
)
def test_unreadable_files_are_named(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(MftcoderError, match=message) as caught:
        read(tmp_path / name)
    assert name in str(caught.value)


def test_a_parquet_file_with_a_date_beyond_pythons_is_named(tmp_path: Path) -> None:
    column = pa.array([2**60], pa.timestamp("ms"))
    pq.write_table(pa.table({"text": ["x"], "made": column}), tmp_path / "a.parquet")
    with pytest.raises(MftcoderError, match=r"a\.parquet: cannot be read"):
        read(tmp_path / "a.parquet")
