"""What models write comes out of its wrapping as it went in, or not at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mftcoder.construct.asking import without_thoughts
from mftcoder.construct.functions import LeftOut
from mftcoder.construct.parsing import code_blocks, code_in, displayed, fenced, json_in, numbered, prose

CODE = st.text(st.sampled_from("ab `~\n\t#1.)"), min_size=1).filter(str.strip)
ITEM = st.text(st.sampled_from("ab c`\n"), min_size=1).map(str.strip).filter(bool)


@given(st.lists(CODE, min_size=1, max_size=3))
def test_code_comes_out_of_its_fence_as_it_went_in(codes):
    text = "\n\nand\n\n".join(fenced(code, "python") for code in codes)
    assert [block.code for block in code_blocks(text)] == [code.removesuffix("\n") for code in codes] or any(
        code.endswith("\n") for code in codes
    )
    assert code_in(text, "py") in codes


@given(st.lists(ITEM, min_size=1, max_size=9))
def test_a_numbered_list_comes_apart_as_it_was_put_together(items):
    assert numbered("Sure:\n" + "\n".join(f"{n}. {item}" for n, item in enumerate(items, 1))) == items


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("1) one\n2) two", ["one", "two"]),
        ("**1.** one\n**2.** two", ["one", "two"]),
        ("1. steps:\n   1. first\n   2. second", ["steps:\n   1. first", "second"]),
        ("1. of 3. one\n2. two", ["of 3. one", "two"]),
        ("2. two\n3. three", []),
        ("one\ntwo", []),
    ],
)
def test_lists(text, items):
    assert numbered(text) == items


@pytest.mark.parametrize(
    ("text", "language", "code"),
    [
        ("```js\na\n```\n```go\nbb\n```", "JavaScript", "a"),
        ("```\na\n```\n```python\nlonger\n```", "python", "longer"),
        ("~~~c++\na\n~~~", "C++", "a"),
        ("````python\n```\nx\n```\n````", "python", "```\nx\n```"),
        ('```python title="a.py"\nx\n```', "python", "x"),
    ],
)
def test_the_code_in_a_language(text, language, code):
    assert code_in(text, language) == code


@pytest.mark.parametrize(
    ("text", "reason"),
    [("a", "no code block"), ("```go\na\n```", "no code block"), ("```python\na", "code block not closed")],
)
def test_code_that_is_not_there(text, reason):
    with pytest.raises(LeftOut, match=reason):
        code_in(text, "python")


def test_prose_is_what_is_left():
    assert prose("Use `x` here:\n```python\ny\n```\nDone.").split() == ["Use", "here:", "Done."]


def test_json_with_and_without_a_fence():
    assert json_in('{"a": [1]}') == json_in('Here:\n```json\n{"a": [1]}\n```') == {"a": [1]}
    for text in ("Sure", "```json\n{\n```", "[" * 100_000):
        with pytest.raises(LeftOut, match="not JSON"):
            json_in(text)


def test_thoughts_are_cut_off():
    assert without_thoughts("<think>\na\n</think>\n\nb") == "b"
    assert without_thoughts("a <think>b</think>") == "a <think>b</think>"
    assert without_thoughts("<think>never ends") == ""


def test_names_of_languages():
    assert [displayed(name) for name in ("py", "js", "cpp", "go")] == ["Python", "JavaScript", "C++", "Go"]
