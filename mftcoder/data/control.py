"""Control tokens, and how text that spells one out becomes ordinary tokens.

A tokenizer reads ``<|im_end|>`` as the control token wherever it finds it, also in what a user wrote. Here only what
the chat template itself writes may be one. Before rendering, control tokens in the data are hidden behind characters
for private use; afterwards those of the template get aliases, and the data its own text back::

    data      how do I print <|im_end|>?
    hidden    how do I print ⁅2⁆?
    rendered  <|im_start|>user\\nhow do I print ⁅2⁆?<|im_end|>\\n
    restored  ⟦1⟧user\\nhow do I print <|im_end|>?⟦2⟧\\n

The twin of the tokenizer reads an alias as its control token and a control token's text as any other text. All else is
as in the tokenizer, so a text is cut into words where it always would be.
"""

import json
import re
import secrets
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Encoding, Tokenizer
from transformers import PreTrainedTokenizerFast

_LOOKS_LIKE_CONTROL = re.compile(r"<[|｜].*[|｜]>")  # DeepSeek's have wide bars


class ControlTokens:
    """The control tokens of a tokenizer.

    These are its special tokens, and added tokens spelt ``<|…|>``, which some tokenizers do not declare special (the
    fill-in-the-middle tokens of Qwen2.5-Coder and DeepSeek-Coder). Other added tokens, such as runs of spaces or
    ``<think>``, are ordinary text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        special = set(tokenizer.all_special_ids)
        self._backend = tokenizer.backend_tokenizer
        self._tokens: dict[int, AddedToken] = {
            number: token
            for number, token in tokenizer.added_tokens_decoder.items()
            if token.special or number in special or _LOOKS_LIKE_CONTROL.fullmatch(token.content)
        }
        # Random, so that no text can be made to hold an alias.
        self._nonce = "".join(chr(0xE200 + byte) for byte in secrets.token_bytes(8))
        texts = [token.content for token in self._tokens.values()]
        self._hidden = {text: f"{self._nonce}\ue100{self._letters(i)}\ue101" for i, text in enumerate(texts)}
        self._aliases = {text: f"{self._nonce}\ue102{self._letters(i)}\ue103" for i, text in enumerate(texts)}
        self._found = re.compile(_any_of(texts))
        self._swapped = {**self._aliases, **{hidden: text for text, hidden in self._hidden.items()}}
        self._swap = re.compile(f"{self._nonce}\ue100[^\ue101]*\ue101|{self._found.pattern}")

    @staticmethod
    def _letters(number: int) -> str:
        return "".join(chr(0xE110 + int(digit)) for digit in str(number))

    def are_in(self, value: Any) -> bool:
        """Whether a text in ``value``, text or JSON, spells out a control token."""
        if isinstance(value, str):
            return self._found.search(value) is not None
        if isinstance(value, dict):
            return any(self.are_in(key) or self.are_in(item) for key, item in value.items())
        return isinstance(value, list) and any(self.are_in(item) for item in value)

    def hide(self, value: Any) -> Any:
        """``value``, text or JSON, with all control tokens in its texts hidden."""
        if isinstance(value, str):
            return self._found.sub(lambda match: self._hidden[match[0]], value)
        if isinstance(value, dict):
            return {self.hide(key): self.hide(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.hide(item) for item in value]
        return value

    def restore(self, text: str) -> str:
        """A rendering of hidden values, for the twin. ValueError if the template garbled what was hidden."""
        restored = self._swap.sub(lambda match: self._swapped[match[0]], text)
        beginning = self._nonce[:3]
        if json.dumps(beginning)[1:-1] in text or restored.count(beginning) > len(self._found.findall(text)):
            raise ValueError("it changes text that spells out a control token")
        return restored

    def encode(self, text: str, *, add_special_tokens: bool) -> tuple[NDArray[np.int32], Encoding]:
        """The ids [L] of a restored text in the tokenizer's own numbers, and the twin's encoding of it.

        ValueError if the tokenizer can write a control token's text only as that token.
        """
        twin, true_ids, is_control = self._twin
        encoding = twin.encode(text, add_special_tokens=False)
        if is_control[encoding.ids].any():
            raise ValueError("the tokenizer knows that text only as the token")
        if add_special_tokens:
            encoding = twin.post_process(encoding)
        return true_ids[encoding.ids], encoding

    @cached_property
    def _twin(self) -> tuple[Tokenizer, NDArray[np.int32], NDArray[np.bool_]]:
        """The twin, the tokenizer's id of each of its ids, and which of them it must never give."""
        contents = json.loads(self._backend.to_str())
        for token in contents["added_tokens"]:
            token["special"] |= token["id"] in self._tokens
        twin = Tokenizer.from_str(json.dumps(contents))
        twin.no_truncation()
        twin.no_padding()
        twin.encode_special_tokens = True  # special tokens are encoded like other text; aliases are not special
        flags = ("single_word", "lstrip", "rstrip", "normalized")
        twin.add_tokens(
            [
                AddedToken(
                    self._aliases[token.content], special=False, **{flag: getattr(token, flag) for flag in flags}
                )
                for token in self._tokens.values()
            ]
        )
        true_ids = np.arange(max(twin.get_vocab(with_added_tokens=True).values()) + 1, dtype=np.int32)
        is_control = np.zeros(len(true_ids), np.bool_)
        for number, token in self._tokens.items():
            true_ids[twin.token_to_id(self._aliases[token.content])] = number
            is_control[number] = token.content != getattr(
                twin.model, "unk_token", None
            )  # which stands for other text too
        return twin, true_ids, is_control


_KNOWN: WeakKeyDictionary[PreTrainedTokenizerFast, ControlTokens] = WeakKeyDictionary()  # no tokenizer lives longer


def control_tokens(tokenizer: PreTrainedTokenizerFast) -> ControlTokens:
    """The control tokens of ``tokenizer``."""
    if tokenizer not in _KNOWN:
        _KNOWN[tokenizer] = ControlTokens(tokenizer)
    return _KNOWN[tokenizer]


def _any_of(texts: list[str]) -> str:
    """A pattern that finds the longest of ``texts``; as a tree, as some tokenizers have hundreds that begin alike."""
    if not any(texts):
        return "" if texts else "(?!)"
    branches = {
        first: [text[1:] for text in texts if text[:1] == first] for first in dict.fromkeys(t[:1] for t in texts)
    }
    longest_first = sorted(branches, reverse=True)  # the end of a text, "", comes last
    return (
        "(?:" + "|".join(re.escape(first) + _any_of(branches[first]) if first else "" for first in longest_first) + ")"
    )
