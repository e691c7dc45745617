"""Embeddings of tokens that a model does not know yet (``model.new_tokens``)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel


@torch.no_grad()
def embed_new_tokens(model: PreTrainedModel, pieces: Mapping[int, Sequence[int]]) -> None:
    """Give each new id, at input and output, the mean of the embeddings of the tokens that its text was cut into.

    Matrices that have no row for it grow; tied matrices stay tied. Under ZeRO-3 every rank must take part.

    Args:
        model: the base model.
        pieces: new id -> the ids of its text by the tokenizer as it was.
    """
    size = model.config.vocab_size
    if max(pieces) >= size:
        # And no further: a row without a token would have a share of every softmax.
        model.resize_token_embeddings(max(pieces) + 1, mean_resizing=False)
    output = model.get_output_embeddings()
    weights = {id(p): p for p in (model.get_input_embeddings().weight, output.weight, getattr(output, "bias", None))}
    for parameter in weights.values():
        if parameter is None or parameter.is_meta:
            continue
        with whole([parameter]):
            values = parameter.data
            values[size:] = values[:size].float().mean(0).to(values.dtype)
            for number, of in pieces.items():
                known = values[[piece for piece in of if piece < size]] if of else values[:size]
                values[number] = known.float().mean(0).to(values.dtype)


@contextmanager
def whole(parameters: Sequence[Any]) -> Iterator[None]:
    """Inside, parameters that ZeRO-3 has partitioned are whole; every rank changes them in the same way."""
    parts = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
    if parts:
        parts[0].all_gather(param_list=parts)
    try:
        yield
    finally:
        if parts:
            parts[0].partition(param_list=parts, has_been_updated=True)


def trained_rows(model: PreTrainedModel, pieces: Mapping[int, Sequence[int]]) -> dict[str, list[int]]:
    """What peft is to train of ``model`` beside adapters: name of a matrix -> the rows of new tokens."""
    names = {id(module): name for name, module in model.named_modules()}
    matrices = [model.get_input_embeddings()]
    if not model.config.tie_word_embeddings:
        matrices.append(model.get_output_embeddings())
    return {names[id(matrix)]: sorted(pieces) for matrix in matrices}
