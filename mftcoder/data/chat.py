"""From records to token ids and the mask of supervised tokens.

Everything is rendered by the tokenizer's chat template, the one that generation and export use too: the ids of a sample
are those of ``tokenizer.apply_chat_template``, but for control tokens that the data spell out (``control.py``).
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Encoding
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedTokenizerFast

from mftcoder.config.schema import MarkersChat, Model, TemplateChat
from mftcoder.data.control import control_tokens
from mftcoder.data.fitting import Encoded
from mftcoder.data.records import Conversation, Message, Text
from mftcoder.data.rendering import OWN_TEMPLATE, Rendered, Renderer
from mftcoder.errors import MftcoderError
from mftcoder.json_values import check_values

CONTROL_AS_TEXT = "spell out control tokens, which became ordinary text"


def load_tokenizer(model: Model, chat: TemplateChat | MarkersChat) -> PreTrainedTokenizerFast:
    """The model's tokenizer with its new tokens and the chat template that the run trains on.

    Raises MftcoderError if there is no tokenizer, no fast one, or the template's file cannot be read.
    """
    tokenizer = _stored_tokenizer(model)
    tokenizer.add_tokens(
        [AddedToken(token, special=True, normalized=False) for token in model.new_tokens], special_tokens=True
    )
    if isinstance(chat, MarkersChat):
        tokenizer.chat_template = markers_template(chat)
    elif chat.file is not None:
        try:
            tokenizer.chat_template = Path(chat.file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise MftcoderError(f"data.chat.file: {chat.file} cannot be read: {error}.") from error
    return tokenizer


def new_token_pieces(model: Model) -> dict[int, list[int]]:
    """The ids of those of ``model.new_tokens`` that are new, each with the ids that its text had before.

    Raises MftcoderError as ``load_tokenizer`` does.
    """
    stored, tokenizer = _stored_tokenizer(model), load_tokenizer(model, TemplateChat())
    known, backend = stored.get_vocab(), stored.backend_tokenizer
    return {
        tokenizer.convert_tokens_to_ids(token): backend.encode(token, add_special_tokens=False).ids
        for token in model.new_tokens
        if token not in known
    }


def _stored_tokenizer(model: Model) -> PreTrainedTokenizerFast:
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
    return tokenizer


def check_vocabulary(
    tokenizer: PreTrainedTokenizerFast, model: PretrainedConfig, new_tokens: Sequence[str] = ()
) -> None:
    """MftcoderError if the tokenizer can give an id, other than padding, for which the model has no embedding.

    ``new_tokens`` get one before training.
    """
    padding, size = tokenizer.pad_token_id, model.get_text_config().vocab_size
    vocabulary = tokenizer.get_vocab()
    highest = max(vocabulary[token] for token in vocabulary.keys() - {*new_tokens} if vocabulary[token] != padding)
    if highest >= size:
        raise MftcoderError(
            f"model.path: the tokenizer's token {json.dumps(tokenizer.convert_ids_to_tokens(highest))} has the id "
            f"{highest}, but the model embeds only ids below {size}. Resize the model's embedding, or remove tokens."
        )


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


def encode(
    samples: Sequence[Conversation | Text],
    tokenizer: PreTrainedTokenizerFast,
    *,
    parse_control: bool = False,
    noted: Counter[str] | None = None,
) -> list[Encoded]:
    """Ids and masks of ``samples``, in their order. Truncates nothing.

    A control token that the data spell out becomes ordinary text, or with ``parse_control`` that token. ``noted``
    gains the number of samples with such text.

    Raises MftcoderError, naming the sample's place, if the template refuses a conversation, if a supervised span cannot
    be found, is empty or covers something else, and if an answer ends without an end-of-turn token.
    """
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    noted = Counter() if noted is None else noted
    conversations = [sample for sample in samples if isinstance(sample, Conversation)]
    texts = [sample for sample in samples if isinstance(sample, Text)]
    encoded_conversations = iter(_encode_conversations(conversations, tokenizer, parse_control, noted))
    encoded_texts = iter(_encode_texts(texts, tokenizer, parse_control, noted))
    return [next(encoded_conversations if isinstance(s, Conversation) else encoded_texts) for s in samples]


def encode_prompt(sample: Conversation, tokenizer: PreTrainedTokenizerFast) -> NDArray[np.int32]:
    """The ids [L] of a conversation up to where the model's answer begins. Raises as ``encode`` does."""
    rendered = Renderer(tokenizer).prompt(sample)
    ((ids, _),) = tokenize([sample.where], [rendered.text], [rendered.restored], tokenizer)
    return ids


def tokenize(
    places: Sequence[str],
    texts: Sequence[str],
    restored: Sequence[bool],
    tokenizer: PreTrainedTokenizerFast,
    *,
    add_special_tokens: bool = False,
) -> list[tuple[NDArray[np.int32], Encoding]]:
    """The ids of ``texts``, those ``restored`` as control.py has it; errors name the text's place."""
    plain = [text for text, is_restored in zip(texts, restored, strict=True) if not is_restored]
    try:
        encodings = iter(tokenizer.backend_tokenizer.encode_batch(plain, add_special_tokens=add_special_tokens))
    except TypeError:  # what tokenizers say of a text that is no UTF-8
        for where, text in zip(places, texts, strict=True):
            check_values(text, f"{where}: the chat template's text")  # data have been checked: the template wrote it
        raise
    tokenized = []
    for where, text, is_restored in zip(places, texts, restored, strict=True):
        if is_restored:
            try:
                tokenized.append(control_tokens(tokenizer).encode(text, add_special_tokens=add_special_tokens))
            except ValueError as error:
                raise MftcoderError(f"{where}: spells out a control token, but {error}. Take it out.") from error
        else:
            encoding = next(encodings)
            tokenized.append((np.array(encoding.ids, np.int32), encoding))
    return tokenized


def _encode_texts(
    samples: list[Text], tokenizer: PreTrainedTokenizerFast, parse_control: bool, noted: Counter[str]
) -> list[Encoded]:
    eos = tokenizer.eos_token_id
    if samples and eos is None:
        raise MftcoderError(
            f"{samples[0].where}: plain text ends with eos, but the tokenizer has no eos token. Set one."
        )
    control = control_tokens(tokenizer)
    # What ends a text already is taken as that token, which would follow in any case.
    texts = [sample.text if parse_control else sample.text.removesuffix(tokenizer.eos_token) for sample in samples]
    spelt = [not parse_control and control.are_in(text) for text in texts]
    noted[CONTROL_AS_TEXT] += sum(spelt)
    tokenized = tokenize([sample.where for sample in samples], texts, spelt, tokenizer, add_special_tokens=True)
    encoded = []
    for ids, _ in tokenized:
        ended = ids if (ids[-1:] == eos).any() else np.append(ids, np.int32(eos))
        encoded.append(Encoded(ended, np.arange(len(ended)) > 0, np.zeros(0, np.int32)))
    return encoded


def _encode_conversations(
    samples: list[Conversation], tokenizer: PreTrainedTokenizerFast, parse_control: bool, noted: Counter[str]
) -> list[Encoded]:
    render = Renderer(tokenizer, parse_control=parse_control)
    rendered = [render(sample) for sample in samples]
    restored = [one.restored for one in rendered]
    noted[CONTROL_AS_TEXT] += sum(restored)
    tokenized = tokenize([s.where for s in samples], [one.text for one in rendered], restored, tokenizer)
    end_tokens = {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}
    encoded = []
    for sample, one, (ids, encoding) in zip(samples, rendered, tokenized, strict=True):
        places = {place for span in one.answers for place in span}.union(place for place in one.borders if place >= 0)
        token_at = {place: token_from(encoding, place, one.text) for place in places}
        supervised = np.zeros(len(ids), np.bool_)
        for start, end in one.answers:
            supervised[token_at[start] : token_at[end]] = True
        supervised[:1] = False
        _check_mask(sample, one, ids, supervised, end_tokens)
        encoded.append(Encoded(ids, supervised, _token_borders(encoding, one, token_at)))
    return encoded


def token_from(encoding: Encoding, character: int, text: str) -> int:
    """The first token that starts at or after ``character`` of ``text``."""
    covering = (encoding.char_to_token(place) for place in range(character, len(text)))
    token = next((number for number in covering if number is not None), len(encoding))
    if token < len(encoding) and _start(encoding, token) < character:
        return token + 1
    while token and _start(encoding, token - 1) >= character:
        token -= 1
    return token


def _start(encoding: Encoding, token: int) -> int:
    """Byte-level tokenizers leave a token's leading spaces out of its offsets; they lie after the token before."""
    start, _ = encoding.token_to_chars(token) or (0, 0)
    _, end_before = (encoding.token_to_chars(token - 1) if token else None) or (0, 0)
    return min(start, end_before)


def _token_borders(encoding: Encoding, rendered: Rendered, token_at: Mapping[int, int]) -> NDArray[np.int32]:
    """The borders in tokens: those at which a token starts, as only there the parts are tokenized as on their own."""
    head, *ends = (
        -1
        if place < 0 or (token_at[place] < len(encoding) and _start(encoding, token_at[place]) != place)
        else token_at[place]
        for place in rendered.borders
    )
    return np.array([head, *(end for end in ends if end >= 0)], np.int32)


def _check_mask(
    sample: Conversation,
    rendered: Rendered,
    ids: NDArray[np.int32],
    supervised: NDArray[np.bool_],
    end_tokens: set[int],
) -> None:
    answers = [message for message in sample.messages if message.role == "assistant"]
    if not any(answer.supervised for answer in answers):
        return
    if not supervised.any():
        raise MftcoderError(
            f"{sample.where}: the chat template leaves no token of the answers supervised. {OWN_TEMPLATE}"
        )
    if answers[-1].supervised and int(ids[np.flatnonzero(supervised)[-1]]) not in end_tokens:
        span = rendered.answers[-1]
        tail = json.dumps(rendered.text[span.start : span.end][-20:], ensure_ascii=False)
        raise MftcoderError(
            f"{sample.where}: the chat template ends an answer with {tail} and no special token, so the model would "
            f"not learn to stop. Let the template write eos_token after answers. {OWN_TEMPLATE}"
        )
