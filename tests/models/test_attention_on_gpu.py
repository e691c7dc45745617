"""On a GPU: every attention that ``auto`` may choose, on packed rows, against float32 on the samples alone."""

import copy

import pytest
import torch
from models.test_attention import FAMILIES, nll_and_gradient, relative, tiny_model
from models.test_token_nll import alone
from tiny import random_rows

from mftcoder.config.schema import Training
from mftcoder.data.loader import collate
from mftcoder.data.shards import Row
from mftcoder.engine.local import LocalEngine
from mftcoder.errors import MftcoderError
from mftcoder.models.adapter import CausalAdapter, TokenNLL
from mftcoder.models.attention import Needs, choose, set_attention
from mftcoder.models.check import check_model
from mftcoder.models.load import compile_layers

pytestmark = pytest.mark.cuda
LENGTHS = [[90, 5, 161], [3, 17, 200], [256]]
BACKENDS = ("varlen", "flex_attention", "sdpa", "eager")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def prepared(family: str, backend: str, dtype: torch.dtype) -> tuple[TokenNLL, TokenNLL]:
    """A model with ``backend``, and the same one in float32 with eager attention."""
    reference = tiny_model(family, torch.bfloat16 if dtype == torch.bfloat16 else torch.float16).float().cuda()
    model = copy.deepcopy(reference).to(dtype)
    reference.set_attn_implementation("eager")
    try:
        set_attention(model, backend)
    except MftcoderError as error:
        pytest.skip(str(error))
    return tuple(TokenNLL(each, CausalAdapter()).train() for each in (model, reference))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_rows_are_as_the_samples_alone_in_float32(family, backend, dtype):
    if dtype == torch.float16 and backend != "varlen":
        pytest.skip("as in bfloat16")
    ours, reference = prepared(family, backend, dtype)
    check(ours, reference, random_rows(0, LENGTHS))


def check(ours: TokenNLL, reference: TokenNLL, rows: list[Row]) -> None:
    """Packed, ``ours`` must be as near to ``reference`` as eager attention in its precision is on the samples alone."""
    plain = TokenNLL(copy.deepcopy(reference.causal).to(ours.causal.dtype), CausalAdapter()).train()
    expected, found, usual = (
        nll_and_gradient(model, part, "cuda")
        for model, part in ((reference, alone(rows)), (ours, rows), (plain, alone(rows)))
    )
    for of_reference, of_ours, of_plain in zip(expected, found, usual, strict=True):
        assert relative(of_ours, of_reference) < max(1.5 * relative(of_plain, of_reference), 5e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_changed_sample_changes_nothing_in_its_neighbours(family, backend):
    ours, _ = prepared(family, backend, torch.bfloat16)
    (row,) = random_rows(0, [[90, 70, 96]])
    before = ours.eval()(collate([(0, row)], isolate_samples=True).to("cuda"))[0]
    row.input_ids[90:160] = row.input_ids[90:160][::-1]
    batch = collate([(0, row)], isolate_samples=True).to("cuda")
    after = ours(batch)[0]
    others = (batch.supervised < 89) | (batch.supervised >= 160)
    assert torch.equal(before[others], after[others])
    assert not torch.equal(before, after)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_first_choice_passes_the_proof_before_training(family, dtype):
    model = tiny_model(family, dtype).cuda()
    set_attention(model, "auto")
    ours = TokenNLL(model, CausalAdapter()).eval()
    check_model(ours, lambda batch: ours(batch)[0], device=torch.device("cuda"), isolate_samples=True)


def test_the_first_choice_of_a_llama_in_bfloat16_is_varlen():
    model = tiny_model("llama", torch.bfloat16).cuda()
    assert choose("auto", Needs.of(model, torch.device("cuda", 0))).backend == "varlen"


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3"])
def test_a_micro_batch_never_makes_the_gpu_wait(family):
    ours, _ = prepared(family, "varlen", torch.bfloat16)
    engine = LocalEngine(ours, Training(), "cuda")
    batches = [collate([(0, row)], isolate_samples=True) for row in random_rows(0, LENGTHS)]
    coefficients = [torch.full((len(batch.targets),), 1e-3, device="cuda") for batch in batches]
    for strict in (False, True):  # libraries load at first use
        torch.cuda.set_sync_debug_mode("error" if strict else "default")
        try:
            for batch, factors in zip(batches, coefficients, strict=True):
                engine.backward(engine(batch, factors)[1], last=False)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("backend", ["varlen", "sdpa"])
def test_compiled_layers_compute_the_same(backend):
    ours, reference = prepared("llama", backend, torch.bfloat16)
    compile_layers(ours.causal.model)
    for seed in range(3):  # other borders
        check(ours, reference, random_rows(seed, LENGTHS[seed:] + LENGTHS[:seed]))


@pytest.mark.parametrize("backend", ["varlen", "flex_attention"])
def test_checkpointed_layers_compute_the_same(backend):
    ours, _ = prepared("mistral", backend, torch.bfloat16)
    rows = random_rows(0, LENGTHS)
    expected = nll_and_gradient(ours, rows, "cuda")
    ours.causal.gradient_checkpointing_enable({"use_reentrant": False})
    found = nll_and_gradient(ours, rows, "cuda")
    assert relative(found[0], expected[0]) < 1e-6
    assert relative(found[1], expected[1]) < 1e-2  # the order of sums differs from run to run
