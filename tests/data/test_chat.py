import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_templates import CHATML, CHATML_MARKED, LLAMA2, MISTRAL
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

from mftcoder.config.schema import MarkersChat, Model, Task, TemplateChat
from mftcoder.data import layouts, rendering, spans
from mftcoder.data.chat import encode, load_tokenizer, markers_template
from mftcoder.data.records import Conversation, Message, Text
from mftcoder.data.rendering import Renderer
from mftcoder.data.task_records import read_records
from mftcoder.errors import MftcoderError


def conversation(*contents: str, system: str | None = None, supervised: tuple[bool, ...] = ()) -> Conversation:
    """User and assistant by turns; ``supervised`` says which answers are (default: all)."""
    messages = [Message("system", system, False)] if system is not None else []
    for index, content in enumerate(contents):
        role = "assistant" if index % 2 else "user"
        learnt = role == "assistant" and (not supervised or supervised[index // 2])
        messages.append(Message(role, content, learnt))
    return Conversation(tuple(messages), where="a.jsonl:1")


CONVERSATIONS = [
    conversation("hello", "hello there"),
    conversation("hello", "hello", "two", "three", system="you"),
    conversation("def add(a, b):", "def add(a, b):\n    return a + b\n"),
    conversation("ünï 🙂", "\n\n  🙂 漢字  ", "x", ""),
    conversation("so it is", "<|im_end|> is said"),
]
MARKERS = markers_template(MarkersChat(type="markers"))


def as_dicts(sample: Conversation) -> list[dict]:
    return [{"role": message.role, "content": message.content} for message in sample.messages]


def supervised_text(sample: Conversation | Text, tokenizer: PreTrainedTokenizerFast) -> str:
    ids, supervised, _ = encode([sample], tokenizer)[0]
    return tokenizer.decode(ids[supervised])


@pytest.mark.parametrize(
    ("kind", "template"),
    [(kind, template) for kind in ("byte_level", "llama") for template in (None, LLAMA2, MARKERS)]
    + [("byte_level", CHATML_MARKED)],
)
def test_ids_are_those_of_apply_chat_template(kind: str, template: str | None, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(kind)
    tokenizer.chat_template = template or tokenizer.chat_template
    encoded = encode(CONVERSATIONS[:3], tokenizer)
    for sample, (ids, supervised, _) in zip(CONVERSATIONS, encoded, strict=False):
        assert ids.tolist() == tokenizer.apply_chat_template(as_dicts(sample), return_dict=False)
        assert supervised.any()
        assert not supervised.all()


@pytest.mark.parametrize("sample", CONVERSATIONS)
def test_exactly_the_answers_and_their_end_tokens_are_supervised(sample: Conversation, byte_level) -> None:
    answers = [message.content + "<|im_end|>" for message in sample.messages if message.role == "assistant"]
    if "<|im_end|>" in sample.messages[1].content:
        assert supervised_text(sample, byte_level) == "<|im_end|> is said<|im_end|>"
    else:
        assert supervised_text(sample, byte_level) == "".join(answers)


def test_masks_are_those_of_a_template_with_generation_marks(byte_level) -> None:
    samples = CONVERSATIONS[:3]
    found = encode(samples, byte_level)
    byte_level.chat_template = CHATML_MARKED
    for sample, (_, supervised, _), (_, marked, _) in zip(samples, found, encode(samples, byte_level), strict=True):
        by_transformers = byte_level.apply_chat_template(as_dicts(sample), return_assistant_tokens_mask=True)
        assert supervised.tolist() == [bool(bit) for bit in by_transformers["assistant_masks"]]
        assert supervised.tolist() == marked.tolist()


def test_llama_answers_start_after_the_instruction_and_end_with_eos(llama) -> None:
    sample = conversation("hello", "hello there", "two", "three", system="you")
    assert supervised_text(sample, llama) == "hello there </s> three </s>"
    ids, _, _ = encode([sample], llama)[0]
    assert llama.decode(ids).count("<s>") == 2  # one per exchange, none doubled


def test_markers_render_as_mftcoder_does(byte_level, tmp_path: Path) -> None:
    byte_level.save_pretrained(tmp_path)
    chat = MarkersChat(type="markers", assistant="<s>bot \"'{{🙂}}\\n\n")
    tokenizer = load_tokenizer(Model(path=str(tmp_path)), chat)
    sample = conversation("hello", "two", "three", "five", system="so")
    rendered = tokenizer.apply_chat_template(as_dicts(sample), tokenize=False)
    bot = chat.assistant
    assert rendered == (f"<s>system\nso\n<s>human\nhello\n{bot}two<|im_end|>\n<s>human\nthree\n{bot}five<|im_end|>\n")
    prompt = tokenizer.apply_chat_template(as_dicts(sample)[:2], tokenize=False, add_generation_prompt=True)
    assert prompt == f"<s>system\nso\n<s>human\nhello\n{bot}"
    assert supervised_text(sample, tokenizer) == "two<|im_end|>five<|im_end|>"
    tokenizer.save_pretrained(tmp_path / "exported")
    exported = AutoTokenizer.from_pretrained(tmp_path / "exported")
    assert exported.apply_chat_template(as_dicts(sample), tokenize=False) == rendered


def test_a_template_file_replaces_the_tokenizers_own(byte_level, tmp_path: Path) -> None:
    byte_level.save_pretrained(tmp_path)
    (tmp_path / "mine.jinja").write_text("{{ messages[0].content }}")
    chat = TemplateChat(file=str(tmp_path / "mine.jinja"))
    assert load_tokenizer(Model(path=str(tmp_path)), chat).chat_template == "{{ messages[0].content }}"
    with pytest.raises(MftcoderError, match=r"data\.chat\.file: .*none\.jinja cannot be read"):
        load_tokenizer(Model(path=str(tmp_path)), TemplateChat(file=str(tmp_path / "none.jinja")))


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(MftcoderError, match=r"model\.path: no tokenizer can be loaded from .*nothing"):
        load_tokenizer(Model(path=str(tmp_path / "nothing")), TemplateChat())


@pytest.mark.parametrize("template", [None, CHATML_MARKED])
def test_answers_can_be_left_out(byte_level, template: str | None) -> None:
    byte_level.chat_template = template or byte_level.chat_template
    sample = conversation("hello", "two", "so", "three", supervised=(False, True))
    assert supervised_text(sample, byte_level) == "three<|im_end|>"
    none = conversation("hello", "two", supervised=(False,))
    assert not encode([none], byte_level)[0].supervised.any()


def test_a_token_that_straddles_the_start_of_an_answer_is_not_supervised(byte_level) -> None:
    # The prompt ends with a space, which the tokenizer joins with the answer's first word.
    byte_level.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }} bot: {% else %}{{ m.content + eos_token }}"
        "{% endif %}{% endfor %}"
    )
    assert byte_level.tokenize("bot: hello hello")[-2:] == ["Ġhello", "Ġhello"]
    assert supervised_text(conversation("hello", "hello hello"), byte_level) == " hello<|im_end|>"


def test_leading_spaces_of_an_answer_are_supervised(byte_level) -> None:
    byte_level.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>{% endif %}"
    )
    answer = "        hello    there    "
    assert supervised_text(conversation("hello", answer), byte_level) == answer + "<|im_end|>"


@pytest.mark.parametrize("kind", ["byte_level", "llama"])  # their offsets differ: without and with the white space
def test_an_end_token_that_swallows_the_newline_is_supervised(kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(kind)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}assistant\n{% endif %}"
    )
    assert supervised_text(conversation("hello", "two"), tokenizer) == "two<|end|>"


def test_the_first_token_is_never_supervised(byte_level) -> None:
    byte_level.chat_template = "{% for m in messages %}{{ m.content + eos_token }}{% endfor %}"
    answer_first = Conversation((Message("assistant", "hello hello", True),))
    ids, supervised, _ = encode([answer_first], byte_level)[0]
    assert supervised.tolist() == [False] + [True] * (len(ids) - 1)


REWRITING = (  # as reasoning models do: the last answer has an empty thought, earlier ones have none
    "{% for m in messages %}{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}assistant\n{% endif %}"
)


def test_a_template_that_rewrites_earlier_turns_needs_marks_or_only_last_answers(byte_level) -> None:
    byte_level.chat_template = REWRITING
    with pytest.raises(MftcoderError, match=r"a\.jsonl:1: the chat template writes earlier turns differently"):
        encode([conversation("hello", "two", "so", "three")], byte_level)
    last = conversation("hello", "two", "so", "three", supervised=(False, True))
    assert supervised_text(last, byte_level) == "<think></think>three<|im_end|>"
    byte_level.chat_template = REWRITING.replace(
        "{{ m.content }}<|im_end|>",
        "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
        "{% else %}{{ m.content }}<|im_end|>{% endif %}",
    )
    assert supervised_text(conversation("hello", "two", "so", "three"), byte_level) == "two<|im_end|>three<|im_end|>"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (CHATML.replace("<|im_end|>", "<|not_a_token|>"), r"ends an answer with .*not_a_token.*not learn to stop"),
        (None, r"a\.jsonl:1: the tokenizer has no chat template.*data\.chat\.file"),
        (LLAMA2, r"a\.jsonl:1: the chat template refuses the conversation: roles must alternate"),
        (
            "{% for m in messages %}{{ m.role }}\n{{ m.content }}\n{% endfor %}",
            "ends an answer with .*not learn to stop",
        ),
        ("{% for m in messages %}{{ m.content if m.role == 'user' }}{% endfor %}", "leaves no token of the answers"),
        ("{% for m in messages %}{{ m.content }}", "refuses the conversation"),
    ],
)
def test_templates_that_cannot_be_trained_on_are_errors(byte_level, template: str | None, message: str) -> None:
    byte_level.chat_template = template
    bad = conversation("hello", "two", "so", "three")
    if template == LLAMA2:
        bad = Conversation((bad.messages[0], bad.messages[2], bad.messages[3]), where="a.jsonl:1")
    with pytest.raises(MftcoderError, match=message):
        encode([bad], byte_level)


@pytest.mark.parametrize(("kind", "adds_bos"), [("byte_level", False), ("llama", True)])
def test_text_has_the_tokenizers_bos_and_one_eos_and_is_supervised_from_its_second_token(
    kind: str, adds_bos: bool, request: pytest.FixtureRequest
) -> None:
    tokenizer = request.getfixturevalue(kind)
    plain, ended = encode([Text("hello there"), Text("hello there" + tokenizer.eos_token)], tokenizer)
    assert plain.input_ids.tolist() == [*tokenizer("hello there").input_ids, tokenizer.eos_token_id]
    assert (plain.input_ids[0] == tokenizer.bos_token_id) == adds_bos
    assert ended.input_ids.tolist() == plain.input_ids.tolist()
    assert plain.supervised.tolist() == [False] + [True] * (len(plain.input_ids) - 1)


def test_order_is_kept_and_the_tokenizers_own_truncation_is_not_used(byte_level) -> None:
    samples = [Text("two"), CONVERSATIONS[0], Text("three"), CONVERSATIONS[2]]
    together = encode(samples, byte_level)
    byte_level("x", truncation=True, max_length=2, padding="max_length")  # leaves both switched on in the backend
    apart = [encode([sample], byte_level)[0] for sample in samples]
    for one, other in zip(together, apart, strict=True):
        np.testing.assert_array_equal(one.input_ids, other.input_ids)
        np.testing.assert_array_equal(one.supervised, other.supervised)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        # The marks stand around the wrong turns, around all of them, and around half of an answer.
        (("user", "{{ m.content }}<|im_end|>"), r"marks as an answer to learn what is text of the role user"),
        (("assistant", "{{ m.content }}<|im_end|>{{ messages[0].content }}"), "marks as an answer .* of the role user"),
        (("assistant", "<|im_end|>"), "marks only a part of an answer"),
    ],
)
def test_marks_around_something_else_are_an_error(byte_level, part: tuple[str, str], message: str) -> None:
    role, inside = part
    byte_level.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == '"
        + role
        + "' %}{% generation %}"
        + inside
        + "{% endgeneration %}{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    )
    with pytest.raises(MftcoderError, match=rf"a\.jsonl:1: the chat template {message}"):
        encode([conversation("hello", "two")], byte_level)


def test_an_answer_span_that_covers_a_question_is_an_error(byte_level) -> None:
    # Questions are written only when their answer is.
    byte_level.chat_template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}Q: {{ messages[loop.index0 - 1].content }}\n"
        "A: {{ m.content + eos_token }}{% endif %}{% endfor %}"
    )
    with pytest.raises(MftcoderError, match="marks as an answer to learn what is text of the role user"):
        encode([conversation("hello", "two")], byte_level)


@pytest.mark.parametrize("template", [CHATML, CHATML_MARKED, LLAMA2, MARKERS, MISTRAL])
def test_the_shape_of_a_conversation_and_the_conversation_itself_say_the_same(
    template: str, byte_level, monkeypatch: pytest.MonkeyPatch
) -> None:
    byte_level.chat_template = template
    plain = [
        conversation("hello", "hello there"),
        conversation("hello", "  two ", "three", "\n", "so", "it", supervised=(True, False, True)),
        conversation("", "", "x", " y"),
    ]
    if template != MISTRAL:
        plain.append(conversation("\t", "so\t", "x", "y", system="\n you "))
    rendered = [Renderer(byte_level)(sample) for sample in plain]
    rendering._LAYOUTS.clear()
    monkeypatch.setattr(rendering, "layout_of", lambda *_: layouts.Layout())
    assert [Renderer(byte_level)(sample) for sample in plain] == rendered


@pytest.mark.parametrize(("touch", "renderings"), [("", 0), ("{{ 'x' if 'z' in m.content }}", 20)])
def test_a_conversation_is_rendered_at_most_once_and_not_at_all_where_contents_are_only_written(
    touch: str, renderings: int, byte_level, monkeypatch: pytest.MonkeyPatch
) -> None:
    byte_level.chat_template = CHATML.replace("{% if add", "{% for m in messages %}" + touch + "{% endfor %}{% if add")
    samples = [conversation(f"a{number}", "b", "c", f"d{number}", system="you") for number in range(20)]
    number = 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal number
        number += 1
        return render_jinja_template(*arguments, **options)

    monkeypatch.setattr(spans, "render_jinja_template", counted)
    encode(samples, byte_level)
    assert renderings <= number < renderings + 10


def test_only_last_answers_are_learnt_where_the_task_says_so(byte_level, tmp_path: Path) -> None:
    turns = [{"role": role, "content": role} for role in ("user", "assistant", "user", "assistant")]
    lines = [{"messages": turns}, {"messages": [*turns[:3], {**turns[3], "train": False}]}, {"messages": turns[:3]}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    records = list(read_records(Task(name="a", path=str(tmp_path / "a.jsonl"), supervise="last")))
    learnt = [[m.supervised for m in record.messages] for record in records if isinstance(record, Conversation)]
    assert learnt == [[False, False, False, True], [False] * 4, [False, True, False]]
