"""A tiny random model of every family in the table of adapters, with all that makes the family special switched on.

But for noise in training: dropout, and the jitter of routers.
"""

import torch
from tiny import VOCABULARY
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
GPT_2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "n_inner": 48}
GPT_2 |= dict.fromkeys(["resid_pdrop", "embd_pdrop", "attn_pdrop"], 0.0)
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
DEEPSEEK = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
LONG = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [9.0] * 4}
HEADS, WINDOW = {"head_dim": 8}, {"sliding_window": 8}  # narrower than the longest samples of the tests
FAMILIES: dict[str, tuple[str, dict]] = {  # name -> model_type, and how its config differs from SHAPE
    "llama": ("llama", {}),
    "llama-3": ("llama", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0,
                "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}}),
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "mistral": ("mistral", WINDOW),
    "mixtral": ("mixtral", {"num_local_experts": 4}),
    "qwen2": ("qwen2", {}),
    "qwen2-window": ("qwen2", {"use_sliding_window": True, "max_window_layers": 1, **WINDOW}),
    "qwen2-moe": ("qwen2_moe", {"shared_expert_intermediate_size": 24, **EXPERTS}),
    "qwen3": ("qwen3", HEADS),
    "qwen3-moe": ("qwen3_moe", HEADS | EXPERTS),
    "phi": ("phi", {}),
    "phi3": ("phi3", WINDOW),
    "phi3-long": ("phi3", {"original_max_position_embeddings": 10, "rope_parameters": LONG}),
    "phimoe": ("phimoe", {"num_local_experts": 4, "router_jitter_noise": 0.0, "input_jitter_noise": 0.0}),
    "gpt-bigcode": ("gpt_bigcode", GPT_2),
    "starcoder2": ("starcoder2", WINDOW),
    "deepseek-v2": ("deepseek_v2", {**DEEPSEEK, **LATENT, "num_key_value_heads": 4, "q_lora_rank": None}),
    "deepseek-v3": ("deepseek_v3", {**DEEPSEEK, **LATENT, "num_key_value_heads": 4, "n_group": 2}),
    "gemma": ("gemma", HEADS),
    "gemma2": ("gemma2", {"query_pre_attn_scalar": 8, "final_logit_softcapping": 5.0, **HEADS, **WINDOW}),
    "gemma3": ("gemma3_text", {"query_pre_attn_scalar": 8, **HEADS, **WINDOW}),
    "gpt-neox": ("gpt_neox", {}),
    "glm": ("glm", HEADS),
    "glm4": ("glm4", HEADS),
    "glm4-moe": ("glm4_moe", HEADS | DEEPSEEK),
    "opt": ("opt", {"ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.0}),
    "falcon": ("falcon", {}),
    "mpt": ("mpt", {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 128}),
    # By the generic row.
    "cohere2": ("cohere2", {"logit_scale": 0.25, **WINDOW}),
    "granite-moe": ("granitemoe", {"num_local_experts": 4, "num_experts_per_tok": 2, "logits_scaling": 4.0}),
    "gptj": ("gptj", {**GPT_2, "rotary_dim": 4}),
    "olmo2": ("olmo2", {}),
}  # fmt: skip
LEAKING: dict[str, tuple[str, dict]] = {
    "bloom": ("bloom", {"n_layer": 2, "n_head": 4}),
    "falcon-alibi": ("falcon", {"alibi": True}),
    "qwen3-next": ("qwen3_next", {
        **HEADS, **EXPERTS, "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8,
        "linear_value_head_dim": 8, "shared_expert_intermediate_size": 24,
        "layer_types": ["linear_attention", "full_attention"]}),
}  # fmt: skip


def tiny_family(name: str) -> PreTrainedModel:
    """A two-layer model; the same weights at every call."""
    torch.manual_seed(0)
    model_type, changes = (FAMILIES | LEAKING)[name]
    config = AutoConfig.for_model(model_type, **(SHAPE | changes))
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():  # biases too, which begin as 0
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.2)
    model.config.use_cache = False
    return model
