"""A model's answers: to conversations through its chat template, or continuing plain text."""

from collections.abc import Sequence
from typing import Any

import torch

from mftcoder.data.chat import stop_token_ids
from mftcoder.errors import MftcoderError
from mftcoder.training.trained import load_for_use

Conversation = list[dict[str, Any]]


def generate(
    model: str,
    prompts: Sequence[str | Conversation],
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> list[str]:
    """The answer to each of ``prompts``, in their order.

    Args:
        model: a run, a checkpoint, a folder that transformers loads, or a hub id.
        prompts: conversations as lists of messages, or strings, which are continued as they are.
        max_new_tokens: of one answer.
        temperature: 0: always the likeliest token.
        top_p: sample from the likeliest tokens that together have this probability.
        seed: of sampling.
    """
    loaded, tokenizer = load_for_use(model)
    sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p} if temperature > 0 else {"do_sample": False}
    stops = stop_token_ids(tokenizer)
    torch.manual_seed(seed)
    answers = []
    for prompt in prompts:
        if isinstance(prompt, str):
            ids = tokenizer(prompt, return_tensors="pt").input_ids
        elif tokenizer.chat_template:
            ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_tensors="pt", return_dict=False)
        else:
            raise MftcoderError(f"{model}: has no chat template. Add --raw to continue plain text.")
        ids = ids.to(loaded.device)
        with torch.no_grad():
            output = loaded.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=max_new_tokens,
                eos_token_id=stops or None,
                pad_token_id=(stops or [0])[0],
                use_cache=True,
                **sampling,
            )
        answers.append(tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True))
    return answers
