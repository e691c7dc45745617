"""Whatever JSON a task file holds: its records become samples, or a MftcoderError names the line."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import CHATML, tiny_tokenizer

from mftcoder.config.schema import Task
from mftcoder.data.encoding import Encoder
from mftcoder.data.records import RECORD_FORMATS
from mftcoder.data.task_records import read_records
from mftcoder.errors import MftcoderError

SAMPLES = Path(__file__).parents[2] / "data" / "samples"
TOOL = {"name": "add", "parameters": {"type": "object"}}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add", "arguments": "{}"}}]}
RECORDS: list[Any] = [{"messages": [{"role": "user", "content": "2 + 3"}, CALL], "tools": [TOOL]}] * 4
RECORDS += [json.loads(line) for file in sorted(SAMPLES.iterdir()) for line in file.read_text().splitlines()]
WITH_TOOLS = (
    "{% for tool in tools or [] %}{{ tool | tojson }}{{ tool.name.strip() }}{% endfor %}"
    "{% for m in messages %}{% for call in m.tool_calls or [] %}{{ call.function.name + call.function.arguments }}"
    "{% endfor %}{% endfor %}" + CHATML
)
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=8)  # with halves of characters
KEYS = st.sampled_from(sorted({key for record in RECORDS for key in record} | {"role", "content", "type"})) | ANY_TEXT
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@st.composite
def spoilt_records(draw: st.DrawFn) -> Any:
    """A good record after a few parts of it were replaced, renamed or taken out."""

    def spoil(node: Any) -> Any:
        if not isinstance(node, dict | list) or not node or not draw(st.integers(0, 3)):
            return draw(VALUES)
        new = node.copy()
        place = draw(st.sampled_from(list(node) if isinstance(node, dict) else range(len(node))))
        new[place] = spoil(node[place])
        match draw(st.integers(0, 9)):
            case 0:
                del new[place]
            case 1 if isinstance(new, dict):
                new[draw(KEYS)] = new.pop(place)
        return new

    record = draw(st.sampled_from(RECORDS))
    for _ in range(draw(st.integers(1, 3))):
        record = spoil(record)
    return record


@pytest.fixture(scope="module")
def encoders() -> list[Encoder]:
    made = []
    for template in (CHATML, WITH_TOOLS):
        tokenizer = tiny_tokenizer()
        tokenizer.chat_template = template
        made.append(Encoder(tokenizer, seed=0, sequence_length=32))
    return made


@pytest.mark.parametrize("format", ["auto", *RECORD_FORMATS])
@settings(max_examples=60)
@given(record=spoilt_records() | VALUES)
def test_any_record_becomes_samples_or_an_error_that_names_its_line(
    format: str, record: Any, encoders: list[Encoder], tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / "hostile.jsonl"
    file.write_text(json.dumps(record) + "\n")
    for encoder in encoders:
        try:
            task = Task(name="t", path=str(file), format=format)
            encoded = encoder(list(read_records(task)), task)
            outcome = f"{file}:1" if encoded.counts["records"] == 1 else "a record was lost"
        except MftcoderError as error:
            outcome = str(error)
        assert f"{file}:1" in outcome
