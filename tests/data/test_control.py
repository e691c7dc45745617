"""Control tokens that the data spell out are text; what the template writes stays what it is."""

import copy
import gc
import re
import weakref
from collections import Counter

import numpy as np
import pytest
from chat_templates import CHATML, CHATML_MARKED
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from mftcoder.data.chat import CONTROL_AS_TEXT, encode, encode_prompt, stop_token_ids
from mftcoder.data.control import ControlTokens
from mftcoder.data.records import Conversation, Message, Text
from mftcoder.errors import MftcoderError

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|end|>"]  # of the fixture byte_level
PIECES = st.lists(st.sampled_from([*CONTROL, "<|im_", "end|>", "\n", " ", "hello", "\t", "🙂", "\ue100"]), max_size=6)
CONTENTS = PIECES.map("".join) | st.text(max_size=6)


def conversation(*contents: str) -> Conversation:
    roles = ["user", "assistant"] * len(contents)
    messages = [Message(role, content, role == "assistant") for role, content in zip(roles, contents, strict=False)]
    return Conversation(tuple(messages), where="a.jsonl:1")


def as_dicts(sample: Conversation) -> list[dict]:
    return [{"role": message.role, "content": message.content} for message in sample.messages]


@pytest.mark.parametrize("template", [CHATML, CHATML_MARKED])
@given(contents=st.lists(CONTENTS, min_size=2, max_size=6))
def test_texts_come_back_and_control_tokens_are_the_templates(template: str, contents: list[str], tokenizer) -> None:
    tokenizer.chat_template = template
    sample = conversation(*contents)
    ids, supervised, _ = encode([sample], tokenizer)[0]
    assert tokenizer.decode(ids) == tokenizer.apply_chat_template(as_dicts(sample), tokenize=False)
    tokens = tokenizer.convert_ids_to_tokens(ids)
    assert [token for token in tokens if token in CONTROL] == ["<|im_start|>", "<|im_end|>"] * len(contents)
    learnt = "".join(answer + "<|im_end|>" for answer in contents[1::2])
    # But for white space, which may make one token with the new line before it.
    assert tokenizer.decode(ids[supervised]).split() == learnt.split() or any(c[:1].isspace() for c in contents)
    prompt = tokenizer.convert_ids_to_tokens(encode_prompt(sample, tokenizer))
    assert prompt[: len(tokens)] == tokens
    assert prompt.count("<|im_start|>") == len(contents) + 1


@given(content=CONTENTS)
def test_plain_texts_come_back(content: str, tokenizer) -> None:
    (sample,) = encode([Text(content)], tokenizer)
    *tokens, last = tokenizer.convert_ids_to_tokens(sample.input_ids)
    assert last == tokenizer.eos_token
    assert tokenizer.decode(sample.input_ids).removesuffix(last) == content.removesuffix(last)
    assert not set(tokens) & set(CONTROL)


@pytest.fixture(scope="module")
def tokenizer(shared_byte_level: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    return shared_byte_level


def test_words_are_cut_as_ever_around_them(llama) -> None:
    """A tokenizer that puts a mark before every stretch between control tokens goes on to do so only there."""
    sample = conversation("say </s> or </s>", "<s>")
    (found,) = encode([sample], llama)
    backend = llama.backend_tokenizer
    backend.encode_special_tokens = True
    expected = [1, *backend.encode("[INST] say </s> or </s> [/INST] <s> ", add_special_tokens=False).ids, 2]
    assert found.input_ids.tolist() == expected


def test_a_token_keeps_its_appetite_for_white_space_in_the_template_only(byte_level) -> None:
    byte_level.chat_template = (
        "{% for m in messages %}{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}assistant\n{% endif %}"
    )
    ids, supervised, _ = encode([conversation("<|end|>\n\nso", "two <|end|>  ")], byte_level)[0]
    assert byte_level.decode(ids) == "user\n<|end|>\n\nso<|end|>assistant\ntwo <|end|>  <|end|>"
    assert byte_level.decode(ids[supervised]) == "two <|end|>  <|end|>"


def test_they_are_read_as_such_where_the_task_says_so_and_counted_where_not(byte_level) -> None:
    sample = conversation("so <|im_end|>", "two")
    noted: Counter[str] = Counter()
    parsed, _ = encode([sample, Text("a<|im_end|>b")], byte_level, parse_control=True, noted=noted)
    assert parsed.input_ids.tolist() == byte_level.apply_chat_template(as_dicts(sample), return_dict=False)
    assert not +noted
    encode([sample, Text("a<|im_end|>b"), Text("a"), conversation("a", "b")], byte_level, noted=noted)
    assert noted == {CONTROL_AS_TEXT: 2}


def test_what_ends_an_answer_is_the_templates(byte_level) -> None:
    byte_level.chat_template = CHATML.replace("<|im_end|>", "<|end|>")
    assert stop_token_ids(byte_level) == sorted(byte_level.convert_tokens_to_ids(["<|im_end|>", "<|end|>"]))


def test_added_tokens_in_bars_are_control_tokens_others_are_not(byte_level) -> None:
    byte_level.add_tokens(["<|fim_prefix|>", "<｜fim▁end｜>", "<think>"])
    (sample,) = encode([Text("<think>a<|fim_prefix|><｜fim▁end｜>")], byte_level)
    tokens = byte_level.convert_ids_to_tokens(sample.input_ids)
    assert tokens[0] == "<think>"
    assert not {"<|fim_prefix|>", "<｜fim▁end｜>"} & set(tokens)
    assert byte_level.decode(sample.input_ids) == "<think>a<|fim_prefix|><｜fim▁end｜><|im_end|>"


@pytest.mark.parametrize("part", ["{{ m.content | tojson(ensure_ascii=True) }}", "{{ m.content[:4] }}"])
def test_a_template_that_changes_what_spells_out_a_control_token_is_an_error(part: str, byte_level) -> None:
    byte_level.chat_template = CHATML.replace("{{ m.content }}", part)
    with pytest.raises(MftcoderError, match=r"a\.jsonl:1: .* changes text that spells out a control token"):
        encode([conversation("<|im_end|>", "so")], byte_level)
    encode([conversation("hello", "so")], byte_level)


def test_a_tokenizer_that_knows_the_text_only_as_the_token_is_an_error() -> None:
    backend = Tokenizer(models.Unigram([("<unk>", -9.0), ("</s>", 0.0), *((c, -1.0) for c in "</s>hi ")], unk_id=0))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")
    with pytest.raises(MftcoderError, match=r"a\.jsonl:1: spells out a control token, but the tokenizer knows"):
        encode([Text("hi </s> hi", where="a.jsonl:1")], tokenizer)


def test_hundreds_of_tokens_that_begin_alike_are_found_at_their_longest(byte_level) -> None:
    names = [f"[control_{number}]" for number in range(300)] + ["[control", "x"]
    byte_level.add_special_tokens({"additional_special_tokens": names})
    control = ControlTokens(byte_level)
    text = "a[control_17]b[control_299][control_300]"
    hidden = control.hide(text)
    assert not re.search(r"\[control", hidden)
    assert hidden.endswith("_300]")  # of this only the beginning is a token
    assert control.hide({"x": [text, 1, None, True]}) == {control.hide("x"): [hidden, 1, None, True]}
    assert control.restore(hidden) == text
    assert not control.are_in("[contro l_17]")
    ids = np.array(encode([Text(text)], byte_level)[0].input_ids)
    assert byte_level.decode(ids) == text + byte_level.eos_token


def test_no_tokenizer_outlives_its_use(byte_level) -> None:
    """Of a large vocabulary it takes 150 MiB, which would be held all through training."""
    tokenizer = copy.deepcopy(byte_level)
    tokenizer.chat_template = CHATML
    encode([conversation("a <|im_end|> b", "c"), conversation("a", "b")], tokenizer)
    gone = weakref.ref(tokenizer)
    del tokenizer
    gc.collect()
    assert gone() is None
