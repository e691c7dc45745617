"""Which attention packed rows get, and that by segments it is what the library computes with a mask."""

from dataclasses import replace

import pytest
import torch
from models.test_token_nll import alone
from tiny import VOCABULARY, random_rows, tiny_llama
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from mftcoder.config.schema import Model, Training
from mftcoder.data.loader import collate
from mftcoder.data.shards import Row
from mftcoder.errors import MftcoderError
from mftcoder.models.adapter import CausalAdapter, TokenNLL, make_batch
from mftcoder.models.attention import ON_GPU, VARLEN, Choice, Needs, choose, set_attention
from mftcoder.models.load import load_causal, load_token_nll

LENGTHS = [[9, 5, 12], [3, 17], [26]]
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": None,
}
WINDOW, HEADS = {"sliding_window": 5}, {"head_dim": 16}
LATENT = {"kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 12, "num_key_value_heads": 4}
# Every token goes to every expert, as rounding would send it to others.
EXPERTS = {"n_routed_experts": 4, "num_experts_per_tok": 4, "moe_intermediate_size": 48, "first_k_dense_replace": 1}
FAMILIES: dict[str, dict] = {  # model_type -> how its config differs from SHAPE
    "llama": {},
    "qwen2": {},
    "qwen3": HEADS,
    "mistral": WINDOW,
    "gemma2": {**WINDOW, **HEADS, "query_pre_attn_scalar": 16},
    "gemma3_text": {**WINDOW, **HEADS, "query_pre_attn_scalar": 16},
    "phi3": WINDOW,
    "gpt_neox": {},
    "starcoder2": WINDOW,
    "gpt_bigcode": {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
    "deepseek_v2": {**LATENT, **EXPERTS, "q_lora_rank": 48, "n_group": 1, "topk_group": 1, "n_shared_experts": 1},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 4},
}


def tiny_model(family: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Of two layers, with attention that differs from plain causal attention where the family's does."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **(SHAPE | FAMILIES[family])), dtype=dtype)
    model.config.use_cache = False
    return model


def nll_and_gradient(model: TokenNLL, rows: list[Row], device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """Float32, of all rows in one batch."""
    model.zero_grad()
    nll = model(collate([(0, row) for row in rows], isolate_samples=True).to(device))[0]
    (nll * torch.linspace(0.5, 1.5, len(nll), device=device)).sum().backward()
    return nll.detach(), torch.cat([p.grad.float().flatten() for p in model.parameters() if p.grad is not None])


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "gemma2"])
def test_by_segments_packed_rows_are_as_the_library_has_the_samples_alone(family):
    model = tiny_model(family)
    ours, rows = TokenNLL(model, CausalAdapter()), random_rows(0, LENGTHS)
    model.set_attn_implementation("eager")
    expected = nll_and_gradient(ours, alone(rows))
    assert set_attention(model, "varlen").backend == "varlen"
    assert model.config._attn_implementation == VARLEN
    packed = nll_and_gradient(ours, rows)
    assert relative(packed[0], expected[0]) < 1e-5
    assert relative(packed[1], expected[1]) < 1e-5


def test_by_segments_without_isolation_a_row_is_one_context():
    rows, model = random_rows(0, LENGTHS), tiny_llama()
    ours = TokenNLL(model, CausalAdapter())
    batch = collate([(0, row) for row in rows], isolate_samples=False)
    model.set_attn_implementation("eager")
    expected = ours(batch)[0]
    set_attention(model, "varlen")
    torch.testing.assert_close(ours(batch)[0], expected, rtol=1e-4, atol=1e-4)


def test_a_batch_finds_its_borders_itself():
    batch = collate([(0, row) for row in random_rows(0, LENGTHS)], isolate_samples=True, length=30)
    assert batch.borders.tolist() == [0, 9, 14, 26, 30, 33, 50, 60, 86, 90]  # padding is a segment
    assert batch.longest == 26
    again = make_batch(batch.input_ids, batch.position_ids).segment_borders
    assert again[0].tolist() == batch.borders.tolist()
    assert again[1] == 26


def test_checkpointing_with_accumulation_uses_each_batch_s_own_borders():
    model = tiny_llama()
    ours, rows = TokenNLL(model, CausalAdapter()).train(), random_rows(0, LENGTHS)
    set_attention(model, "varlen")
    expected = nll_and_gradient(ours, rows)[1]
    model.gradient_checkpointing_enable({"use_reentrant": False})
    ours.zero_grad()
    losses = [ours(collate([(0, row)], isolate_samples=True))[0] for row in rows]
    (torch.cat(losses) * torch.linspace(0.5, 1.5, sum(map(len, losses)))).sum().backward()
    assert relative(torch.cat([p.grad.flatten() for p in ours.parameters()]), expected) < 1e-5


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_generation_with_padding_is_as_the_library_has_it(family):
    model = tiny_model(family).eval()
    model.config.use_cache = True
    ids = torch.randint(2, VOCABULARY, (2, 11), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    options = {"attention_mask": mask, "max_new_tokens": 9, "do_sample": False, "pad_token_id": 0}
    model.set_attn_implementation("eager")
    expected = model.generate(ids, **options)
    set_attention(model, "varlen")
    assert torch.equal(model.generate(ids, **options), expected)


def needs(family: str = "llama", **changes: object) -> Needs:
    """Of a tiny model, as if on an H100 in bfloat16."""
    found = Needs.of(tiny_model(family), torch.device("cpu"))
    return replace(found, **{"capability": (9, 0), "dtype": torch.bfloat16, **changes})


class TestChoice:
    def test_on_a_cpu_it_is_varlen(self):
        assert choose("auto", needs(capability=None)) == Choice("varlen", "no GPU")

    def test_on_a_cpu_what_needs_a_mask_has_sdpa(self):
        masked = choose("auto", needs(capability=None, masks=True))
        assert masked == Choice("sdpa", "no GPU; not varlen: the model has layers that need a mask")

    def test_on_a_gpu_it_is_varlen(self):
        assert choose("auto", needs()) == Choice("varlen", "it fits")

    @pytest.mark.parametrize(
        ("what", "expected"),
        [
            ({"dtype": torch.float32}, "flex_attention"),
            ({"capability": (7, 5)}, "flex_attention"),
            ({"head_sizes": (320, 320)}, "flex_attention"),
            ({"soft_cap": True}, "flex_attention"),
            ({"sinks": True}, "flex_attention"),
            ({"dropout": 0.1}, "sdpa"),
            ({"masks": True}, "sdpa"),
            ({"dtype": torch.float32, "head_sizes": (24, 8)}, "sdpa"),
            ({"soft_cap": True, "dropout": 0.1}, "eager"),
        ],
    )
    def test_what_a_backend_does_not_compute_passes_on_to_one_that_does(self, what, expected):
        choice = choose("auto", needs(**what))
        assert choice.backend == expected
        assert choice.reason.startswith("not varlen: ")
        assert choice.reason.count("; not ") == ON_GPU.index(expected) - 1

    def test_soft_capping_is_never_left_to_sdpa(self):
        assert choose("auto", replace(needs("gemma2"), capability=None)).backend == "eager"
        assert choose("auto", needs("gemma2")).backend == "flex_attention"

    def test_a_family_says_what_it_supports(self):
        assert choose("auto", needs("gpt_bigcode", dtype=torch.float32)).backend == "sdpa"

    def test_of_latent_attention_queries_and_values_differ(self):
        assert needs("deepseek_v2").head_sizes == (24, 12)

    @pytest.mark.parametrize(
        ("backend", "what", "reason"),
        [
            ("varlen", {"soft_cap": True}, "no soft-capping"),
            ("varlen", {"dtype": torch.float32}, "no float32"),
            ("varlen", {"dropout": 0.1}, "no dropout, and the model's is 0.1"),
            ("flash_attention_2", {}, "package is not installed"),
            ("flash_attention_3", {"capability": (8, 0)}, "package is not installed"),
            ("flex_attention", {"capability": None}, "on a GPU only"),
            ("sdpa", {"soft_cap": True}, "no soft-capping"),
        ],
    )
    def test_a_forced_one_that_does_not_fit_is_refused(self, backend, what, reason):
        with pytest.raises(MftcoderError, match=f'model.attention: "{backend}" does not fit .*{reason}'):
            choose(backend, needs(**what))


def test_a_model_to_train_has_the_attention_of_its_settings_and_one_to_use_has_not(base_model):
    settings = Model(path=str(base_model), dtype="float32", attention="varlen")
    trained = load_token_nll(settings, Training(), seed=0)
    assert trained.attention == Choice("varlen", "as asked for")
    assert trained.causal.config._attn_implementation == VARLEN
    assert load_causal(settings).config._attn_implementation == "sdpa"


def test_a_family_that_does_not_pass_borders_on_is_told_of():
    model = tiny_llama()
    set_attention(model, "varlen")
    forward = model.model.layers[0].self_attn.forward
    model.model.layers[0].self_attn.forward = lambda **options: forward(
        **{key: value for key, value in options.items() if key != "cu_seq_lens_q"}
    )
    with pytest.raises(MftcoderError, match="not told of the samples' borders"):
        TokenNLL(model, CausalAdapter())(collate([(0, random_rows(0, [[9]])[0])], isolate_samples=True))
