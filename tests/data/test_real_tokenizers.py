"""Every family's real tokenizer with a template of its kind, against what transformers and tokenizers say."""

import json
import os
import re
import unicodedata
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from chat_templates import CHATML, CHATML_TOOLS, INSTRUCTION, LLAMA2, MISTRAL
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mftcoder.config.schema import MarkersChat
from mftcoder.data.chat import CONTROL_AS_TEXT, encode, encode_prompt, markers_template, stop_token_ids
from mftcoder.data.records import Conversation, Message, Text

pytestmark = pytest.mark.corpora

MARKERS = markers_template(MarkersChat(type="markers"))
TEMPLATES = {
    "qwen2": CHATML,
    "llama2": LLAMA2,
    "mistral-v3": MISTRAL,
    "starcoder2": MARKERS,
    "phi-1_5": MARKERS,
    "deepseek-coder": INSTRUCTION,
}
CONTENTS = {
    "english": "Sort the numbers, please.",
    "chinese": "请写一个函数，计算两个数的和。",
    "arabic": "اكتب دالة تجمع عددين",
    "hindi": "दो संख्याओं को जोड़ने का फलन लिखिए।",
    "decomposed": "e\u0301te\u0301 n\u0303 \u1100\u1161",
    "emoji": "👩‍👩‍👧‍👦 🇰🇪 👍🏽 ok",
    "tabs": "def f():\n\tif x:\n\t\treturn  1\t# tab\n",
    "crlf": "one\r\ntwo\r\n\r\n  three\r\n",
    "spaces": "        deep    wide        ",
    "newlines": "\n\n\nlate\n\n",
    "punctuation": "<|, </, [/, _, <0x0A>",
    "nothing": "",
}
HOLE = "\ue800"


@pytest.fixture(params=TEMPLATES, scope="module")
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    tokenizer = AutoTokenizer.from_pretrained(Path(os.environ["MFTCODER_CORPORA"]) / "tokenizers" / request.param)
    tokenizer.chat_template = TEMPLATES[request.param]
    return tokenizer


def conversation(*contents: str, system: str | None = None) -> Conversation:
    messages = [Message("system", system, False)] if system is not None else []
    for index, content in enumerate(contents):
        messages.append(Message("assistant", content, True) if index % 2 else Message("user", content, False))
    return Conversation(tuple(messages), where="a.jsonl:1")


def rendered(sample: Conversation, tokenizer: PreTrainedTokenizerFast, **options: bool) -> str:
    messages = [{"role": message.role, "content": message.content} for message in sample.messages]
    return tokenizer.apply_chat_template(messages, tokenize=False, **options)


def control_tokens(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """As their makers use them; DeepSeek-Coder does not declare all of its own special."""
    added = tokenizer.added_tokens_decoder.values()
    return [token.content for token in added if token.special or token.content.startswith(("<|", "<｜"))]


@cache
def without_control_tokens(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    contents = json.loads(tokenizer.backend_tokenizer.to_str())
    controls = control_tokens(tokenizer)
    contents["added_tokens"] = [token for token in contents["added_tokens"] if token["content"] not in controls]
    return Tokenizer.from_str(json.dumps({**contents, "post_processor": None}))


def ids_with_holes_filled(text: str, content: str, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The ids of a text that is cut at its control tokens by hand, after which ``content`` takes the place of holes."""
    controls = control_tokens(tokenizer)
    ids: list[int] = []
    for piece in re.split("(" + "|".join(map(re.escape, controls)) + ")", text):
        if piece in controls:
            ids.append(tokenizer.convert_tokens_to_ids(piece))
        else:
            ids += without_control_tokens(tokenizer).encode(piece.replace(HOLE, content)).ids
    return ids


@pytest.mark.parametrize("kind", CONTENTS)
def test_ids_are_those_of_the_rendered_whole_and_masks_those_of_the_answers(kind: str, tokenizer) -> None:
    content = CONTENTS[kind]
    stops = stop_token_ids(tokenizer)
    for sample in (conversation("hello", content), conversation(content, "yes.", content, content)):
        ids, supervised, borders = encode([sample], tokenizer)[0]
        assert ids.tolist() == tokenizer(rendered(sample, tokenizer), add_special_tokens=False).input_ids
        runs = np.flatnonzero(np.diff([0, *supervised.astype(int), 0])).reshape(-1, 2)
        answers = [message.content for message in sample.messages if message.role == "assistant"]
        for (start, end), answer in zip(runs, answers, strict=True):
            assert ids[end - 1] in stops
            learnt = tokenizer.decode(ids[start : end - 1], clean_up_tokenization_spaces=False)
            assert learnt.strip() == unicodedata.normalize("NFC", answer).strip() or learnt.strip() == answer.strip()
        assert borders[-1] == len(ids)


@pytest.mark.parametrize("kind", CONTENTS)
def test_parts_between_borders_are_what_shorter_conversations_give(kind: str, tokenizer) -> None:
    content = CONTENTS[kind]
    turns = ["first", content + "1", content + "2", "two", "third", content]
    for system in (None, f"Be {content}."):
        if system and tokenizer.chat_template in (LLAMA2, MISTRAL):
            continue
        ids, supervised, borders = encode([conversation(*turns, system=system)], tokenizer)[0]
        head, *ends = borders.tolist()
        assert head >= 0
        assert len(ends) == 3
        for number, (start, end) in enumerate(pairwise([0, *ends])):
            alone, mask, _ = encode([conversation(*turns[2 * number : 2 * number + 2], system=system)], tokenizer)[0]
            begin = head if start else 0
            assert alone.tolist() == [*ids[:begin], *ids[start:end]]
            assert mask.tolist() == [*supervised[:begin], *supervised[start:end]]


def test_a_system_prompt_inside_the_first_turn_cannot_head_later_ones(tokenizer) -> None:
    if tokenizer.chat_template != LLAMA2:
        pytest.skip("templates that give the system prompt a turn of its own")
    _, _, borders = encode([conversation("a", "b", "c", "d", system="Be brief.")], tokenizer)[0]
    assert borders[0] == -1
    assert len(borders) == 3


def test_control_tokens_in_what_users_write_are_text(tokenizer) -> None:
    controls = control_tokens(tokenizer)
    for control in {*controls[:4], *controls[-4:]}:
        content = f"{control} is said, {control}{control}\n <{control}>"
        noted: Counter[str] = Counter()
        (found,) = encode([conversation(content, content, "more", content)], tokenizer, noted=noted)
        assert noted == {CONTROL_AS_TEXT: 1}
        with_holes = conversation(HOLE, HOLE, "more", HOLE)
        expected = ids_with_holes_filled(rendered(with_holes, tokenizer), content, tokenizer)
        assert found.input_ids.tolist() == expected
        assert tokenizer.decode(found.input_ids[found.supervised]).count(control) >= 2 * content.count(control)
        (text,) = encode([Text(content + "!")], tokenizer)
        bos, (eos,) = tokenizer("").input_ids, (tokenizer.eos_token_id,)
        assert text.input_ids.tolist() == [*bos, *ids_with_holes_filled(HOLE, content + "!", tokenizer), eos]
        prompt = ids_with_holes_filled(
            rendered(conversation(HOLE), tokenizer, add_generation_prompt=True), content, tokenizer
        )
        assert encode_prompt(conversation(content), tokenizer).tolist() == prompt
        (parsed,) = encode([conversation(content, "x")], tokenizer, parse_control=True)
        whole = rendered(conversation(content, "x"), tokenizer)
        assert parsed.input_ids.tolist() == tokenizer(whole, add_special_tokens=False).input_ids


def test_added_tokens_that_are_no_control_tokens_stay_tokens_in_text(tokenizer) -> None:
    added = [token.content for token in tokenizer.added_tokens_decoder.values()]
    ordinary = sorted(set(added) - set(control_tokens(tokenizer)))
    for token in ordinary[:3]:
        (sample,) = encode([conversation(f"a{token}b " + tokenizer.eos_token, "x")], tokenizer)
        assert tokenizer.convert_tokens_to_ids(token) in sample.input_ids


def test_a_sample_of_a_hundred_thousand_tokens(tokenizer) -> None:
    answer = "".join(f"row {number}:\t{number * number}\r\n" for number in range(11_000))
    ids, supervised, _ = encode([conversation("count", answer)], tokenizer)[0]
    assert len(ids) > 100_000
    assert (
        ids.tolist()
        == tokenizer(rendered(conversation("count", answer), tokenizer), add_special_tokens=False).input_ids
    )
    assert supervised.sum() > len(ids) - 50


def test_tool_calls_and_results(tokenizer) -> None:
    if tokenizer.chat_template != CHATML:
        pytest.skip("one family's template with tools")
    end = "<|im_end|>"
    call = {"tool_calls": [{"function": {"name": "find", "arguments": {"text": f"say {end}"}}}]}
    messages = (
        Message("user", "look for it", False),
        Message("assistant", "", True, call),
        Message("tool", f"found {end} there", False),
        Message("assistant", "It is there.", True),
        Message("user", "thanks", False),
        Message("assistant", "Welcome.", True),
    )
    sample = Conversation(messages, tools=({"name": "find", "description": f"finds {end}"},), where="a.jsonl:1")
    tokenizer.chat_template = CHATML_TOOLS
    try:
        ids, supervised, borders = encode([sample], tokenizer)[0]
        (parsed,) = encode([sample], tokenizer, parse_control=True)
        dicts = [{"role": m.role, "content": m.content, **m.fields} for m in messages]
        whole = tokenizer.apply_chat_template(dicts, tools=list(sample.tools), tokenize=False)
    finally:
        tokenizer.chat_template = CHATML
    assert tokenizer.decode(ids) == whole
    assert parsed.input_ids.tolist() == tokenizer(whole, add_special_tokens=False).input_ids
    assert (ids == tokenizer.convert_tokens_to_ids(end)).sum() == 7  # the tools and six messages
    arguments = json.dumps(call["tool_calls"][0]["function"], ensure_ascii=False)
    called = f"<tool_call>{arguments}</tool_call>{end}"
    assert tokenizer.decode(ids[supervised]) == f"{called}It is there.{end}Welcome.{end}"
    assert len(borders) == 3  # what begins both exchanges, and their ends: a call is not divided from its result
