"""The tokenizer of an exported folder: as transformers writes it, and what other programs want beside that."""

import shutil
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import cached_file

from mftcoder.config.load import read_json
from mftcoder.config.schema import Model
from mftcoder.data.inputs import vocabulary_hash
from mftcoder.errors import MftcoderError
from mftcoder.training.checkpoint import write_json

SENTENCEPIECE = "tokenizer.model"
_ADDED = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, base: Model, folder: Path) -> None:
    """MftcoderError unless what was written encodes as ``tokenizer``, that of ``base`` and its new tokens, does."""
    if hasattr(tokenizer, "legacy"):  # left out by save_pretrained, though it decides how Llama's splits words
        tokenizer.init_kwargs["legacy"] = tokenizer.legacy
    tokenizer.save_pretrained(folder)
    _add_sentencepiece(tokenizer, base, folder)
    if vocabulary_hash(AutoTokenizer.from_pretrained(folder)) != vocabulary_hash(tokenizer):
        raise MftcoderError(
            f"{folder}: transformers reads another tokenizer back than it was given; nothing is exported."
        )


def _add_sentencepiece(tokenizer: PreTrainedTokenizerFast, base: Model, folder: Path) -> None:
    """The base model's own vocabulary, if it has one: only there are the scores by which llama.cpp splits words.

    Its converter then takes added tokens from where transformers 4 kept them.
    """
    source = cached_file(
        base.path,
        SENTENCEPIECE,
        revision=base.revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if source is None:
        return
    shutil.copyfile(source, folder / SENTENCEPIECE)
    settings = folder / "tokenizer_config.json"
    added = {
        str(number): {key: getattr(token, key) for key in _ADDED}
        for number, token in tokenizer.added_tokens_decoder.items()
    }
    write_json(settings, read_json(settings) | {"added_tokens_decoder": added})
