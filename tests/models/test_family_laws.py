"""Every family: packed samples against the samples alone, our NLL against the library's logits, the table's facts."""

from functools import partial
from pathlib import Path

import pytest
import torch
from models.test_token_nll import alone
from tiny import random_rows
from tiny_families import FAMILIES, LEAKING, tiny_family

from mftcoder.config.load import parse
from mftcoder.data.loader import collate
from mftcoder.errors import MftcoderError
from mftcoder.models.adapter import TokenNLL
from mftcoder.models.attention import set_attention
from mftcoder.models.check import check_model
from mftcoder.models.describe import markdown
from mftcoder.models.families import ADAPTERS, GENERIC, adapter_of
from mftcoder.models.model_config import check_isolation
from mftcoder.models.sample_rope import choose_by_sample

LENGTHS = [[9, 5, 12], [3, 17], [26]]
pack = partial(collate, isolate_samples=True)


def token_nll(name: str, attention: str = "auto", *, checkpointing: bool = False, double: bool = True) -> TokenNLL:
    model = tiny_family(name)
    try:
        set_attention(model, attention, masked=adapter_of(model.config).isolation == "block_mask")
    except MftcoderError as error:
        pytest.skip(str(error))
    if double and not GENERIC.expert_parameters(model):  # those are multiplied in float32 at most
        model = model.double()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    ours = TokenNLL(model, adapter_of(model.config))
    choose_by_sample(ours.adapter.backbone(model))
    return ours


def nll_and_gradient(model: TokenNLL, batches: list) -> tuple[torch.Tensor, torch.Tensor]:
    model.zero_grad()
    nll = torch.cat([model(batch)[0] for batch in batches])
    (nll * torch.linspace(0.5, 1.5, len(nll), dtype=nll.dtype)).sum().backward()
    return nll.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def check_isolated(model: TokenNLL, *, together: bool) -> None:
    """Packed rows, all in one batch or one by one, against every sample in a batch of its own."""
    rows = random_rows(0, LENGTHS)
    batches = [[(0, row) for row in rows]] if together else [[(0, row)] for row in rows]
    packed = nll_and_gradient(model, [pack(batch) for batch in batches])
    separate = nll_and_gradient(model, [pack([(0, row)]) for row in alone(rows)])
    # Norms and softmax are float32 in many classes, whatever the dtype.
    torch.testing.assert_close(packed[0], separate[0], rtol=2e-5, atol=2e-5)
    assert (packed[1] - separate[1]).norm() / separate[1].norm() < 2e-5


@pytest.mark.parametrize("name", FAMILIES)
def test_packed_rows_give_the_nll_and_gradients_of_the_samples_alone(name):
    check_isolated(token_nll(name).train(), together=True)


@pytest.mark.long
@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("attention", ["varlen", "sdpa", "eager"])
@pytest.mark.parametrize("name", FAMILIES)
def test_so_they_do_in_every_way_of_running(name, attention, training, checkpointing, together):
    check_isolated(token_nll(name, attention, checkpointing=checkpointing).train(training), together=together)


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_a_changed_token_changes_only_its_own_sample_and_only_what_follows(name):
    model = token_nll(name).eval()
    (row,) = random_rows(1, [[9, 6, 11]])
    row.supervised[:] = True
    row.supervised[[0, 9, 15]] = False
    before = model(pack([(0, row)]))[0]
    row.input_ids[11] = (row.input_ids[11] + 1) % 300
    changes = (model(pack([(0, row)]))[0] - before).abs()
    own = slice(8 + 1, 8 + 5)  # of the second sample, from where its third token is the target
    assert changes[own].min() > 1e-6
    changes[own] = 0
    assert changes.max() < 1e-6


@pytest.mark.parametrize("name", FAMILIES)
def test_the_loss_is_that_of_the_librarys_own_logits(name):
    ours = token_nll(name, double=False).eval()
    check_model(ours, lambda batch: ours(batch)[0], device=torch.device("cpu"), isolate_samples=True)


@pytest.mark.parametrize("name", LEAKING)
def test_a_family_that_leaks_is_refused_and_does_leak(name):
    config = tiny_family(name).config
    settings = {"output_dir": "x", "model": {"path": "x"}, "data": {"tasks": [{"name": "a", "path": "x"}]}}
    with pytest.raises(MftcoderError, match=r"packed samples of .* see each other"):
        check_isolation(parse(settings), config)
    settings["data"]["packing"] = {"mode": "pad"}
    check_isolation(parse(settings), config)
    ours = TokenNLL(tiny_family(name), GENERIC).eval()
    with pytest.raises(MftcoderError, match="see each other"):
        check_model(ours, lambda batch: ours(batch)[0], device=torch.device("cpu"), isolate_samples=True)


def test_the_table_in_configs_is_fresh():
    page = Path(__file__).parents[2] / "configs/models.md"
    assert markdown() in page.read_text(encoding="utf-8"), "run: make generated"


def test_every_row_of_the_table_is_tested():
    tested = {model_type for model_type, _ in (FAMILIES | LEAKING).values()}
    assert {name for name, adapter in ADAPTERS.items() if not adapter.remote} <= tested


@pytest.mark.parametrize("name", FAMILIES)
def test_the_table_names_the_experts(name):
    model = tiny_family(name)
    adapter = adapter_of(model.config)
    three_dimensional = {n for n, p in model.named_parameters() if p.ndim == 3}
    named = adapter.expert_parameters(model)
    assert {n for n in three_dimensional if any(n.endswith(f".{end}") for end in named)} == three_dimensional
    assert sorted(GENERIC.expert_parameters(model)) == sorted(named)
