"""From records to token ids and the mask of supervised tokens.

Everything is rendered by the tokenizer's chat template, the one that generation and export use too: the ids of a sample
are those of ``tokenizer.apply_chat_template``. An answer's span runs from where the prompt for it ends (the rendering
of all earlier messages with ``add_generation_prompt``) to the end of its end-of-turn token::

    <|im_start|>user\\nhi<|im_end|>\\n<|im_start|>assistant\\n|hello<|im_end|>|\\n
                                                           |--supervised--|

A template with ``{% generation %}`` marks says itself which spans these are.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

from mftcoder.config.schema import MarkersChat, Model, TemplateChat
from mftcoder.data.fitting import Encoded
from mftcoder.data.records import Conversation, Message, Text
from mftcoder.errors import MftcoderError

_GENERATION_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")
_OWN_TEMPLATE = 'Give a template in data.chat.file, or role markers with data.chat.type "markers".'


class Span(NamedTuple):
    """A stretch of characters of a rendered conversation."""

    start: int
    end: int


def load_tokenizer(model: Model, chat: TemplateChat | MarkersChat) -> PreTrainedTokenizerFast:
    """The model's tokenizer with the chat template that the run trains on.

    Raises MftcoderError if there is no tokenizer, no fast one, or the template's file cannot be read.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            model.path, revision=model.revision, trust_remote_code=model.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise MftcoderError(f"model.path: no tokenizer can be loaded from {model.path}: {error}") from error
    if not tokenizer.is_fast:
        raise MftcoderError(
            f"model.path: {model.path} has no fast tokenizer, which is needed. Convert it to tokenizer.json."
        )
    if isinstance(chat, MarkersChat):
        tokenizer.chat_template = markers_template(chat)
    elif chat.file is not None:
        try:
            tokenizer.chat_template = Path(chat.file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise MftcoderError(f"data.chat.file: {chat.file} cannot be read: {error}.") from error
    return tokenizer


def check_vocabulary(tokenizer: PreTrainedTokenizerFast, model: PretrainedConfig) -> None:
    """MftcoderError if the tokenizer can give an id, other than padding, for which the model has no embedding."""
    padding, size = tokenizer.pad_token_id, model.get_text_config().vocab_size
    highest = max(number for number in tokenizer.get_vocab().values() if number != padding)
    if highest >= size:
        raise MftcoderError(
            f"model.path: the tokenizer's token {json.dumps(tokenizer.convert_ids_to_tokens(highest))} has the id "
            f"{highest}, but the model embeds only ids below {size}. Resize the model's embedding, or remove tokens."
        )


def template_messages(sample: Conversation) -> list[dict[str, Any]]:
    """The messages as a chat template takes them."""
    return [{**message.fields, "role": message.role, "content": message.content} for message in sample.messages]


def markers_template(chat: MarkersChat) -> str:
    """The Jinja chat template that writes marker + content + newline, with eos after the content of an answer."""
    system, user, assistant = (
        json.dumps(text, ensure_ascii=False) for text in (chat.system, chat.user, chat.assistant)
    )
    return (
        "{%- for message in messages -%}"
        "{%- if message['role'] == 'system' -%}{{ " + system + " + message['content'] + '\\n' }}"
        "{%- elif message['role'] == 'user' -%}{{ " + user + " + message['content'] + '\\n' }}"
        "{%- elif message['role'] == 'assistant' -%}{{ " + assistant + " + message['content'] + eos_token + '\\n' }}"
        "{%- else -%}{{ raise_exception('role markers have none for the role ' + message['role']) }}"
        "{%- endif -%}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{ " + assistant + " }}{%- endif -%}"
    )


def stop_token_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The tokens at which generation stops: eos, and what ends an answer in the chat template."""
    stops = set() if tokenizer.eos_token_id is None else {tokenizer.eos_token_id}
    if tokenizer.chat_template:
        messages = (Message("user", "a", False), Message("assistant", "b", True))
        (sample,) = encode([Conversation(messages, where="chat template")], tokenizer)
        stops.add(int(sample.input_ids[sample.supervised.nonzero()[0][-1]]))
    return sorted(stops)


def encode(samples: Sequence[Conversation | Text], tokenizer: PreTrainedTokenizerFast) -> list[Encoded]:
    """Ids and masks of ``samples``, in their order. Truncates nothing.

    Raises MftcoderError, naming the sample's place, if the template refuses a conversation, if a supervised span cannot
    be found or is empty, and if an answer ends without an end-of-turn token.
    """
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    conversations = iter(_encode_conversations([s for s in samples if isinstance(s, Conversation)], tokenizer))
    texts = iter(_encode_texts([s for s in samples if isinstance(s, Text)], tokenizer))
    return [next(conversations if isinstance(sample, Conversation) else texts) for sample in samples]


def _encode_texts(samples: list[Text], tokenizer: PreTrainedTokenizerFast) -> list[Encoded]:
    eos = tokenizer.eos_token_id
    if samples and eos is None:
        raise MftcoderError(
            f"{samples[0].where}: plain text ends with eos, but the tokenizer has no eos token. Set one."
        )
    encoded = []
    for encoding in tokenizer.backend_tokenizer.encode_batch([sample.text for sample in samples]):
        ids = encoding.ids if encoding.ids[-1:] == [eos] else [*encoding.ids, eos]
        encoded.append(Encoded(np.array(ids, np.int32), np.arange(len(ids)) > 0, np.zeros(0, np.int32)))
    return encoded


def _encode_conversations(samples: list[Conversation], tokenizer: PreTrainedTokenizerFast) -> list[Encoded]:
    rendered = [_render(sample, tokenizer) for sample in samples]
    encodings = tokenizer.backend_tokenizer.encode_batch([text for text, _ in rendered], add_special_tokens=False)
    end_tokens = {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}
    encoded = []
    for sample, (text, spans), encoding in zip(samples, rendered, encodings, strict=True):
        ids = np.array(encoding.ids, np.int32)
        offsets = np.array(encoding.offsets, np.int64).reshape(-1, 2)
        # Byte-level tokenizers leave a token's leading spaces out of its offsets; they lie after the token before.
        starts = np.minimum(offsets[:, 0], np.concatenate([[0], offsets[:-1, 1]]))
        supervised = np.zeros(len(ids), np.bool_)
        for start, end in spans:
            supervised |= (starts >= start) & (starts < end)
        supervised[:1] = False
        _check_mask(sample, text, spans, ids, supervised, end_tokens)
        encoded.append(Encoded(ids, supervised, np.array([-1, len(ids)], np.int32)))
    return encoded


def _check_mask(
    sample: Conversation,
    text: str,
    spans: list[Span],
    ids: NDArray[np.int32],
    supervised: NDArray[np.bool_],
    end_tokens: set[int],
) -> None:
    answers = [message for message in sample.messages if message.role == "assistant"]
    if not any(answer.supervised for answer in answers):
        return
    if not supervised.any():
        raise MftcoderError(
            f"{sample.where}: the chat template leaves no token of the answers supervised. {_OWN_TEMPLATE}"
        )
    if answers[-1].supervised and int(ids[np.flatnonzero(supervised)[-1]]) not in end_tokens:
        tail = json.dumps(text[spans[-1].start : spans[-1].end][-20:], ensure_ascii=False)
        raise MftcoderError(
            f"{sample.where}: the chat template ends an answer with {tail} and no special token, so the model would "
            f"not learn to stop. Let the template write eos_token after answers. {_OWN_TEMPLATE}"
        )


def _render(sample: Conversation, tokenizer: PreTrainedTokenizerFast) -> tuple[str, list[Span]]:
    """The text of a conversation and the spans of its supervised answers."""
    tools = list(sample.tools) or None
    if not tokenizer.chat_template:
        raise MftcoderError(f"{sample.where}: the tokenizer has no chat template for conversations. {_OWN_TEMPLATE}")
    template = tokenizer.get_chat_template(None, tools)
    messages = template_messages(sample)
    marked = _GENERATION_MARK.search(template) is not None

    def render(count: int, **options: bool) -> tuple[str, list[Any]]:
        try:
            texts, marks = render_jinja_template(
                [messages[:count]], tools=tools, chat_template=template, **tokenizer.special_tokens_map, **options
            )
        except Exception as error:  # a template is a program: it can fail in any way
            raise MftcoderError(f"{sample.where}: the chat template refuses the conversation: {error}.") from error
        return texts[0], marks[0] if marks else []

    text, marks = render(len(messages), return_assistant_tokens_mask=marked)
    if marked:
        return text, _marked_spans(sample, marks)
    return text, [
        _span(sample, text, render(index, add_generation_prompt=True)[0], render(index + 1)[0])
        for index, message in enumerate(sample.messages)
        if message.supervised
    ]


def _span(sample: Conversation, text: str, prompt: str, answered: str) -> Span:
    """Where in ``text`` the answer is that turns the rendering ``prompt`` into ``answered``."""
    if not (text.startswith(answered) and answered.startswith(prompt)):
        raise MftcoderError(
            f"{sample.where}: the chat template writes earlier turns differently once later ones follow, so its "
            "answers cannot be told apart. Mark them with {% generation %} in the template, "
            'or set "train": false on all but the last.'
        )
    return Span(len(prompt), len(answered.rstrip()))


def _marked_spans(sample: Conversation, marks: list[tuple[int, int]]) -> list[Span]:
    answers = [message for message in sample.messages if message.role == "assistant"]
    if len(marks) == len(answers):
        return [Span(*mark) for mark, answer in zip(marks, answers, strict=True) if answer.supervised]
    if all(answer.supervised for answer in answers):
        return [Span(*mark) for mark in marks]
    raise MftcoderError(
        f'{sample.where}: has "train": false, but the chat template marks {len(marks)} spans for {len(answers)} '
        "answers. Let the template mark each answer once."
    )
