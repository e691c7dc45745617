"""The routers' loss of mixture-of-experts models, against the library's own."""

import pytest
import torch
from tiny import VOCABULARY, random_rows, tiny_llama
from transformers import MixtralConfig, MixtralForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from mftcoder.config.schema import TokenReduction, Training, Uniform
from mftcoder.data.loader import collate
from mftcoder.distributed import Group
from mftcoder.engine.local import LocalEngine
from mftcoder.losses.reductions import build_reduction
from mftcoder.losses.weighting import build
from mftcoder.models.adapter import CausalAdapter, TokenNLL
from mftcoder.tasks import TaskSet
from mftcoder.training.step import train_step

SHAPE = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPE |= {"num_key_value_heads": 2, "intermediate_size": 48, "initializer_range": 0.3}


def mixtral() -> MixtralForCausalLM:
    return MixtralForCausalLM(
        MixtralConfig(**SHAPE, num_local_experts=4, num_experts_per_tok=2, router_aux_loss_coef=0.5)
    )


def qwen3_moe() -> Qwen3MoeForCausalLM:
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "head_dim": 8}
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**SHAPE, **experts, router_aux_loss_coef=0.5))


def take(model: TokenNLL, batches: list) -> tuple:
    """(result, gradient) of one step of a single task."""
    engine = LocalEngine(model, Training(max_grad_norm=0.0))
    grads, plain, tasks = [], engine.step, TaskSet(("only",))

    def step(rate: float):
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        return plain(rate)

    engine.step = step
    reduction = build_reduction(TokenReduction(), tasks)
    options = {"step": 0, "learning_rate": 1e-3, "reduction": reduction, "num_tasks": 1, "group": Group()}
    return train_step(engine, batches, build(Uniform(), tasks), **options), grads[0]


@pytest.mark.parametrize("make", [mixtral, qwen3_moe])
@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize(("coefficient", "counts"), [(None, 0.5), (2.0, 2.0)])
def test_loss_and_gradient_are_those_of_the_library(make, checkpointing, coefficient, counts):
    torch.manual_seed(0)
    model = make().train()
    rows = random_rows(0, [[20], [13]])
    batch = collate([(0, row) for row in rows], isolate_samples=True)
    labels = torch.full_like(batch.input_ids, -100).flatten()
    labels[batch.supervised + 1] = batch.targets
    attended = (batch.segment_ids > 0).long()
    own = model(
        input_ids=batch.input_ids,
        attention_mask=attended,
        labels=labels.reshape(batch.input_ids.shape),
        output_router_logits=True,
        use_cache=False,
    )
    expected_router = counts * own.aux_loss
    plain = own.loss - 0.5 * own.aux_loss
    (plain + expected_router).backward()
    expected = torch.cat([p.grad.flatten() for p in model.parameters()])
    model.zero_grad()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    result, gradient = take(TokenNLL(model, CausalAdapter(), coefficient), [batch])
    assert result.router_loss == pytest.approx(expected_router.item(), rel=1e-5)
    assert result.loss == pytest.approx(plain.item(), rel=1e-5)
    assert (gradient - expected).norm() / expected.norm() < 1e-5


def test_micro_batches_count_by_their_tokens_and_padding_alone_counts_nothing():
    def router_loss(batches: list) -> float:
        torch.manual_seed(0)
        result, gradient = take(TokenNLL(mixtral().train(), CausalAdapter(), None), batches)
        assert torch.isfinite(gradient).all()
        return result.router_loss

    long, short = (collate([(0, row)], isolate_samples=True) for row in random_rows(0, [[20], [5]]))
    nothing = collate([], isolate_samples=True)
    expected = 0.8 * router_loss([long]) + 0.2 * router_loss([short])
    assert router_loss([long, short, nothing]) == pytest.approx(expected, rel=1e-6)


def test_zero_turns_it_off_and_other_models_have_none():
    assert TokenNLL(mixtral(), CausalAdapter(), 0.0).router_loss is None
    assert TokenNLL(tiny_llama(), CausalAdapter(), None).router_loss is None
