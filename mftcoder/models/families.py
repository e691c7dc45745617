"""The table of model families: what is known of each beyond what its class in transformers tells by itself.

A class of the library that is not in the table goes by the generic row; ``models.check`` then finds out, on the very
model, whether its logits and its packed samples are understood. A plugin may add rows.
"""

from collections.abc import Mapping
from dataclasses import replace

from transformers import PretrainedConfig, PreTrainedTokenizerFast

from mftcoder.data import fim
from mftcoder.models.adapter import CausalAdapter, Tokens

CHATML = Tokens("ChatML", roles=("<|im_start|>", "<|im_end|>"))
LLAMA_3 = Tokens("Llama 3", roles=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"))
CODE_LLAMA = Tokens("CodeLlama", infilling=fim.CODE_LLAMA)
DEEPSEEK_CODER = Tokens("DeepSeek-Coder", infilling=fim.DEEPSEEK)
DEEPSEEK = Tokens("DeepSeek-V2, V3", ("<｜User｜>", "<｜Assistant｜>"), fim.DEEPSEEK)
QWEN_CODER = Tokens("Qwen2.5-Coder", CHATML.roles, fim.QWEN_CODER)
MISTRAL = Tokens("Mistral since v3", roles=("[INST]", "[/INST]"))
PHI_3 = Tokens("Phi-3, Phi-4-mini", roles=("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"))
PHI_4 = Tokens("Phi-4", roles=("<|im_start|>", "<|im_sep|>", "<|im_end|>"))
STARCODER = Tokens("StarCoder", infilling=fim.STARCODER)
GEMMA = Tokens("Gemma", roles=("<start_of_turn>", "<end_of_turn>"))
CODE_GEMMA = Tokens("CodeGemma", GEMMA.roles, fim.QWEN_CODER)
GLM_ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
GLM = Tokens("GLM-4", GLM_ROLES, fim.GLM)
CHATGLM = Tokens("ChatGLM3", GLM_ROLES)
BAICHUAN = Tokens("Baichuan 2", roles=("<reserved_106>", "<reserved_107>"))

FUSED = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")

GENERIC = CausalAdapter("any other causal language model that transformers knows")

ADAPTERS: dict[str, CausalAdapter] = {  # model_type of config.json -> its family
    "llama": CausalAdapter(
        "Llama 1, 2, 3, CodeLlama, DeepSeek-LLM, DeepSeek-Coder", tokens=(LLAMA_3, CODE_LLAMA, DEEPSEEK_CODER)
    ),
    "mistral": CausalAdapter("Mistral", tokens=(MISTRAL,)),
    "mixtral": CausalAdapter("Mixtral", tokens=(MISTRAL,), experts=FUSED),
    "qwen2": CausalAdapter("Qwen1.5, Qwen2, Qwen2.5, Qwen2.5-Coder", tokens=(QWEN_CODER, CHATML)),
    "qwen2_moe": CausalAdapter("Qwen1.5-MoE, Qwen2-MoE", tokens=(CHATML,), experts=FUSED),
    "qwen3": CausalAdapter("Qwen3", tokens=(QWEN_CODER, CHATML)),
    "qwen3_moe": CausalAdapter("Qwen3-MoE, Qwen3-Coder", tokens=(QWEN_CODER, CHATML), experts=FUSED),
    "phi": CausalAdapter("Phi-1, Phi-1.5, Phi-2"),
    "phi3": CausalAdapter("Phi-3, Phi-4, Phi-4-mini", tokens=(PHI_3, PHI_4)),
    "phimoe": CausalAdapter("Phi-3.5-MoE", tokens=(PHI_3,), experts=FUSED),
    "gpt_bigcode": CausalAdapter("StarCoder, SantaCoder", tokens=(STARCODER,)),
    "starcoder2": CausalAdapter("StarCoder2", tokens=(STARCODER,)),
    "deepseek_v2": CausalAdapter("DeepSeek-V2, DeepSeek-Coder-V2", tokens=(DEEPSEEK, DEEPSEEK_CODER), experts=FUSED),
    "deepseek_v3": CausalAdapter("DeepSeek-V3, R1", tokens=(DEEPSEEK, DEEPSEEK_CODER), experts=FUSED),
    "gemma": CausalAdapter("Gemma 1, CodeGemma", tokens=(CODE_GEMMA, GEMMA)),
    "gemma2": CausalAdapter("Gemma 2", tokens=(GEMMA,)),
    "gemma3_text": CausalAdapter("Gemma 3, its text part", tokens=(GEMMA,)),
    "gpt_neox": CausalAdapter("GPT-NeoX, Pythia, CodeFuse-13B"),
    "glm": CausalAdapter("GLM-4-9B, CodeGeeX4", tokens=(GLM, CHATGLM)),
    "glm4": CausalAdapter("GLM-4-0414", tokens=(GLM, CHATGLM)),
    "glm4_moe": CausalAdapter("GLM-4.5", tokens=(GLM, CHATGLM), experts=FUSED),
    "opt": CausalAdapter("OPT", isolation="block_mask"),
    "falcon": CausalAdapter("Falcon", isolation="block_mask"),
    "mpt": CausalAdapter("MPT", isolation="block_mask"),
    "bloom": CausalAdapter("BLOOM", isolation="none"),
    "qwen3_next": CausalAdapter(
        "Qwen3-Next",
        tokens=(QWEN_CODER, CHATML),
        isolation="none",
        experts=FUSED,
    ),
    # No class in transformers: the code comes with the model, and runs only with model.trust_remote_code.
    "qwen": CausalAdapter("Qwen (the first)", tokens=(CHATML,), isolation="none", remote=True),
    "baichuan": CausalAdapter("Baichuan 1, 2", tokens=(BAICHUAN,), isolation="none", remote=True),
    "chatglm": CausalAdapter("ChatGLM2, ChatGLM3, CodeGeeX2", tokens=(CHATGLM,), isolation="none", remote=True),
}


def adapter_of(config: PretrainedConfig) -> CausalAdapter:
    """The row for a model's config, or the generic one."""
    text = config.get_text_config()
    adapter = ADAPTERS.get(text.model_type, GENERIC)
    # ALiBi as Falcon has it is made from a mask of its own kind.
    return replace(adapter, isolation="none") if getattr(text, "alibi", False) else adapter


def tokens_of(adapter: CausalAdapter, tokenizer: PreTrainedTokenizerFast) -> Tokens | None:
    """Whose role and infilling tokens ``tokenizer`` has, all of them; a family has tokenizers of several kinds."""
    vocabulary: Mapping[str, int] = tokenizer.get_vocab()
    return next((known for known in adapter.tokens if vocabulary.keys() >= {*known.roles, *known.infilling}), None)
