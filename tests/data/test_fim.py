"""Fill-in-the-middle: the document comes back from its parts, whatever the tokenizer."""

import os
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mftcoder.config.schema import Config, Fim, Task
from mftcoder.data.chat import CONTROL_AS_TEXT, encode, load_tokenizer
from mftcoder.data.encoding import Encoder
from mftcoder.data.fim import REARRANGED, SENTINELS, TOO_LONG, cut, rearranged, sentinel_ids
from mftcoder.data.fitting import Encoded
from mftcoder.data.prepare import prepare
from mftcoder.data.records import RECORD_FORMATS, Conversation, Text
from mftcoder.errors import MftcoderError

ALWAYS = Fim(rate=1.0)
CODE = "def add(a, b):\n    return a + b\n\n\nprint(add(2, 3))  # façade 🙂\n"


def made(
    texts: list[str], tokenizer: PreTrainedTokenizerFast, fim: Fim = ALWAYS, length: int = 10**6, seed: int = 7
) -> tuple[dict[int, Encoded], Counter[str]]:
    noted: Counter[str] = Counter()
    samples = [Text(text, where="a.jsonl:1") for text in texts]
    options = {"seed": seed, "sequence_length": length, "parse_control": False, "noted": noted}
    return rearranged(samples, fim, tokenizer, **options), noted


def put_together(sample: Encoded, tokenizer: PreTrainedTokenizerFast) -> tuple[str, bool]:
    """The document of a sample, from the order that its sentinels tell, and whether the suffix came first."""
    pre, suf, mid = sentinel_ids(ALWAYS, tokenizer)
    ids = sample.input_ids.tolist()
    assert [ids.count(number) for number in (pre, suf, mid)] == [1, 1, 1]
    assert ids[-1] == tokenizer.eos_token_id
    at_pre, at_suf, at_mid = (ids.index(number) for number in (pre, suf, mid))
    assert at_pre == (ids[0] == tokenizer.bos_token_id)
    assert at_pre < at_suf < at_mid

    def decode(part: list[int]) -> str:
        # Llama's decoder drops a space at the start; the new line keeps it from being the start.
        new_line = tokenizer.backend_tokenizer.encode("\n", add_special_tokens=False).ids[-1:]
        return tokenizer.decode([*new_line, *part], clean_up_tokenization_spaces=False).removeprefix("\n")

    borders = (at_pre, at_suf, at_mid, len(ids) - 1)
    first, suffix, rest = (decode(ids[start + 1 : end]) for start, end in pairwise(borders))
    suffix_first = at_suf == at_pre + 1 and not first
    return first + rest + suffix, suffix_first


@pytest.fixture
def with_sentinels(byte_level: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    byte_level.add_tokens(list(SENTINELS[1]))
    return byte_level


@pytest.mark.parametrize("family", SENTINELS)
@pytest.mark.parametrize("kind", ["byte_level", "llama"])
def test_documents_come_back_for_every_family(kind: str, family: tuple, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(kind)
    tokenizer.add_special_tokens({"additional_special_tokens": list(family)})
    text = CODE if kind == "byte_level" else CODE.replace("façade 🙂", "five")  # the fixture llama has no other letters
    texts = [f"{text}{number}" for number in range(40)]
    found, noted = made(texts, tokenizer)
    assert noted == {REARRANGED: 40, CONTROL_AS_TEXT: 0}
    both = [put_together(found[number], tokenizer) for number in range(40)]
    assert [text for text, _ in both] == texts
    assert {suffix_first for _, suffix_first in both} == {True, False}
    for sample in found.values():
        assert sample.supervised.tolist() == [False] + [True] * (len(sample.input_ids) - 1)


@given(text=st.text(max_size=40), seed=st.integers(0, 2**32))
def test_parts_are_the_text_at_every_seed(text: str, seed: int) -> None:
    parts = cut(text, ALWAYS, seed)
    assert parts is not None
    assert parts.prefix + parts.middle + parts.suffix == text
    assert cut(text, ALWAYS, seed) == parts
    assert cut(text, Fim(rate=0.0), seed) is None


def test_rates_and_cuts_are_those_asked_for() -> None:
    texts = [f"{number:010d}" for number in range(4000)]
    parts = [cut(text, Fim(rate=0.3, spm_rate=0.8), 1) for text in texts]
    chosen = [part for part in parts if part]
    # Standard deviations of the shares: 0.007 and 0.012; six of them.
    assert abs(len(chosen) / 4000 - 0.3) < 0.045
    assert abs(np.mean([part.suffix_first for part in chosen]) - 0.8) < 0.07
    both = Counter((len(part.prefix), len(part.suffix)) for text in texts if (part := cut(text, ALWAYS, 2)))
    assert len(both) == 66  # 11 places, two cuts in order
    apart, together = both[0, 0] + both[3, 2], both[5, 5] + both[0, 10]
    assert 1.3 < apart / together < 3  # two different places can be drawn in two ways
    assert sum(cut(text, ALWAYS, 1) == cut(text, ALWAYS, 2) for text in texts) < 100


def middle_of(sample: Encoded, tokenizer: PreTrainedTokenizerFast, suffix_first: bool, prefix: str) -> str:
    """What a model learns to write: all behind the last sentinel, but for a prefix that stands there too."""
    ids = sample.input_ids.tolist()
    written = tokenizer.decode(ids[ids.index(sentinel_ids(ALWAYS, tokenizer)[2]) + 1 : -1])
    return written.removeprefix(prefix) if suffix_first else written


@pytest.mark.parametrize(
    ("prefix", "middle", "suffix"),
    [
        ("def add(a, b):\n", "    return a + b\n", "print(add(2, 3))\n"),
        ("", "first", " rest"),
        ("all but ", "the end", ""),
        ("nothing ", "", "between"),
        ("", "everything", ""),
        ("é🙂", "ö🙃ü", "ß"),
    ],
)
def test_the_hole_of_a_record_is_what_is_learnt_in_either_order(with_sentinels, prefix, middle, suffix) -> None:
    record = {"prefix": prefix, "middle": middle, "suffix": suffix}
    text = RECORD_FORMATS["infill"].parse(record, "a.jsonl:1")
    assert cut(text.text, ALWAYS, 1, text.hole)[:3] == (prefix, middle, suffix)
    assert cut(text.text, Fim(rate=0.0), 1, text.hole) is None
    orders = set()
    for seed in range(20):
        options = {"seed": seed, "sequence_length": 10**6, "parse_control": False, "noted": Counter()}
        sample = rearranged([text], ALWAYS, with_sentinels, **options)[0]
        whole, suffix_first = put_together(sample, with_sentinels)
        assert whole == prefix + middle + suffix
        suffix_first = suffix_first and cut(text.text, ALWAYS, seed, text.hole).suffix_first
        assert middle_of(sample, with_sentinels, suffix_first, prefix) == middle
        orders.add(suffix_first)
    assert orders == {True, False}


def test_sentinels_and_control_tokens_in_a_document_are_text(with_sentinels) -> None:
    text = "a<|fim_prefix|>b<|im_end|>c<|fim_middle|>" * 5
    found, noted = made([text, "plain"], with_sentinels)
    assert put_together(found[0], with_sentinels)[0] == text
    assert noted[CONTROL_AS_TEXT] == 1


def test_documents_that_do_not_fit_a_row_stay_as_they_are(with_sentinels) -> None:
    texts = ["so", "hello there " * 50]
    found, noted = made(texts, with_sentinels, length=40)
    assert (set(found), noted[TOO_LONG]) == ({0}, 1)
    encoder = Encoder(with_sentinels, seed=7, sequence_length=40)
    encoded = encoder([Text(text) for text in texts], Task(name="a", path="a", fim=ALWAYS))
    (plain,) = encode([Text(texts[1])], with_sentinels)
    assert [sample.input_ids.tolist() for sample in encoded.samples] == [
        found[0].input_ids.tolist(),
        plain.input_ids.tolist(),
    ]
    assert +encoded.noted == {REARRANGED: 1, TOO_LONG: 1}


def test_tokens_may_be_named_and_their_lack_is_an_error(byte_level) -> None:
    named = Fim(rate=1.0, sentinels=["<|im_start|>", "<|im_end|>", "<|end|>"])
    assert sentinel_ids(named, byte_level) == (1, 2, 3)
    with pytest.raises(MftcoderError, match=r"the tokenizer lacks the tokens it needs .*fim_prefix.*fim\.sentinels"):
        made(["a"], byte_level)
    with pytest.raises(MftcoderError, match=r"lacks the tokens it needs \(<a>, <b>, <c>\)"):
        made(["a"], byte_level, Fim(sentinels=["<a>", "<b>", "<c>"]))


def test_conversations_are_refused(with_sentinels) -> None:
    encoder = Encoder(with_sentinels, seed=7, sequence_length=40)
    with pytest.raises(MftcoderError, match=r'b\.jsonl:2: is a conversation; fim of task "a" is for plain text'):
        encoder([Text("x"), Conversation((), where="b.jsonl:2")], Task(name="a", path="a", fim=ALWAYS))


def test_shards_count_them_and_are_made_anew_for_another_seed_or_length(make_config, tmp_path: Path) -> None:
    config = make_config({"a": [{"text": f"{CODE}{number}"} for number in range(40)]})
    tokenizer = load_tokenizer(config.model, config.data.chat)
    tokenizer.add_tokens(list(SENTINELS[1]))
    tokenizer.save_pretrained(config.model.path)

    def noted(fim: dict | None, seed: int = 1, length: int = 128) -> dict[str, int]:
        raw = config.model_dump() | {"output_dir": str(tmp_path / f"{fim}{seed}{length}"), "seed": seed}
        raw["data"] |= {"samples": str(tmp_path / "samples"), "sequence_length": length}
        raw["data"]["tasks"][0]["fim"] = fim
        return prepare(Config.model_validate(raw), tell=lambda _: None).task("a").noted

    half = {"rate": 0.5}
    assert noted({"rate": 1.0}) == {REARRANGED: 40}
    assert noted(None) == {}
    assert len({tuple(noted(half, seed).items()) for seed in (1, 2, 3)}) > 1
    assert noted(half, length=20) == {TOO_LONG: noted(half)[REARRANGED]}


@pytest.mark.corpora
@pytest.mark.parametrize("name", ["starcoder2", "deepseek-coder", "qwen2", "llama2"])
def test_documents_come_back_with_real_tokenizers(name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(Path(os.environ["MFTCODER_CORPORA"]) / "tokenizers" / name)
    missing = {"qwen2": SENTINELS[1], "llama2": SENTINELS[3]}
    tokenizer.add_special_tokens({"additional_special_tokens": list(missing.get(name, ()))})
    texts = [f"{CODE}{'  ' * number}{number}\t\r\n 漢字" for number in range(60)]
    found, _ = made(texts, tokenizer)
    assert [put_together(found[number], tokenizer)[0] for number in range(60)] == texts
