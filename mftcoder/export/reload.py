"""Run in a fresh process: what plain transformers (and peft, for an adapter) makes of an exported folder.

python -m mftcoder.export.reload REQUEST.json ANSWERS

Nothing of this program is imported here but what ``python -m`` needs: the folder must speak for itself.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig


def load(request: dict[str, Any]) -> Any:
    """The model of the folder, or its adapter on its base model, in ``dtype``."""
    dtype, trust, base = getattr(torch, request["dtype"]), request["trust_remote_code"], request["base"]
    if base is None:
        return AutoModelForCausalLM.from_pretrained(request["folder"], dtype=dtype, trust_remote_code=trust)
    from peft import PeftModel

    quantization = base["quantization"]
    model = AutoModelForCausalLM.from_pretrained(
        base["path"],
        revision=base["revision"],
        dtype=dtype,
        trust_remote_code=trust,
        quantization_config=BitsAndBytesConfig(**quantization, bnb_4bit_compute_dtype=dtype) if quantization else None,
    )
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):  # bitsandbytes' kernel there fails on narrow layers
            module.support_avx512bf16_for_cpu = False
    if model.get_input_embeddings().weight.shape[0] != request["num_embeddings"]:  # new tokens
        model.resize_token_embeddings(request["num_embeddings"], mean_resizing=False)
    return PeftModel.from_pretrained(model, request["folder"], autocast_adapter_dtype=False)


@torch.no_grad()
def answers(model: Any, samples: list[list[int]], positions: list[list[int]]) -> dict[str, torch.Tensor]:
    """``nll.i`` [L - 1] of every token but the first of sample i, and ``logits.i`` [P, V] at its positions."""
    found = {}
    for number, (ids, places) in enumerate(zip(samples, positions, strict=True)):
        logits = model(input_ids=torch.tensor([ids])).logits[0].float()
        targets = torch.tensor(ids[1:])
        found[f"nll.{number}"] = torch.nn.functional.cross_entropy(logits[:-1], targets, reduction="none")
        found[f"logits.{number}"] = logits[places].contiguous()
    return found


def main(request_file: Path, out: Path) -> None:
    """Write ``answers.safetensors`` and ``rendered.json`` into ``out``."""
    request = json.loads(request_file.read_text())
    tokenizer = AutoTokenizer.from_pretrained(request["folder"], trust_remote_code=request["trust_remote_code"])
    rendered = [
        tokenizer.apply_chat_template(one["messages"], tools=one["tools"], return_dict=False)
        for one in request["conversations"]
    ]
    texts = [tokenizer.decode(ids) for ids in request["samples"]]
    (out / "rendered.json").write_text(json.dumps({"conversations": rendered, "texts": texts}))
    model = load(request).eval()
    save_file(answers(model, request["samples"], request["positions"]), out / "answers.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
