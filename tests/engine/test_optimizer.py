"""Parameter groups and schedules, against peft, transformers and values by hand."""

import warnings

import pytest
import torch
from peft.optimizers import create_loraplus_optimizer
from tiny import tiny_llama
from transformers import get_wsd_schedule

from mftcoder.config.schema import LearningRate, Lora, Training
from mftcoder.engine.optimizer import build_optimizer, learning_rate, parameter_groups, set_learning_rate
from mftcoder.errors import MftcoderError
from mftcoder.models.adapter import CausalAdapter, TokenNLL
from mftcoder.models.lora import add_lora


def rates(optimizer: torch.optim.Optimizer, model: torch.nn.Module, key: str = "lr") -> dict[str, float]:
    """Name of each trained parameter to a value of its group."""
    by_id = {id(parameter): group[key] for group in optimizer.param_groups for parameter in group["params"]}
    return {name: by_id[id(parameter)] for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_lora_plus_as_documented_is_that_of_peft():
    model = TokenNLL(add_lora(tiny_llama(), Lora(rank=4)), CausalAdapter())
    (described,) = [f for name, f in Training.model_fields.items() if name == "learning_rates"]
    assert '{"pattern": "lora_B", "multiplier": 16}' in described.description
    training = Training(learning_rate=1e-4, learning_rates=[LearningRate(pattern="lora_B", multiplier=16)])
    ours = build_optimizer(model, training)
    set_learning_rate(ours, 1e-4)
    theirs = create_loraplus_optimizer(model, torch.optim.AdamW, lr=1e-4, loraplus_lr_ratio=16)
    assert rates(ours, model) == pytest.approx(rates(theirs, model))


def test_the_first_pattern_counts_and_the_schedule_scales_all():
    patterns = [("layers\\.0\\.", 0.5), ("mlp", 0.1)]
    training = Training(learning_rates=[LearningRate(pattern=p, multiplier=m) for p, m in patterns])
    model = TokenNLL(tiny_llama(), CausalAdapter())
    optimizer = build_optimizer(model, training)
    set_learning_rate(optimizer, 2.0)
    found = rates(optimizer, model)
    assert found["model.model.layers.0.mlp.up_proj.weight"] == 1.0
    assert found["model.model.layers.1.mlp.up_proj.weight"] == 0.2
    assert found["model.model.layers.1.self_attn.q_proj.weight"] == 2.0


def test_only_matrices_decay():
    model = TokenNLL(tiny_llama(attention_bias=True), CausalAdapter())
    found = rates(build_optimizer(model, Training(weight_decay=0.1)), model, "weight_decay")
    assert {name for name, decay in found.items() if decay == 0} == {
        name for name in found if "norm" in name or name.endswith("bias")
    }
    assert set(found.values()) == {0.0, 0.1}


def test_a_pattern_that_matches_nothing_trained_is_an_error():
    training = Training(learning_rates=[LearningRate(pattern="embed_tokens", multiplier=2)])
    parameter_groups(TokenNLL(tiny_llama(), CausalAdapter()), training)
    with pytest.raises(MftcoderError, match=r'learning_rates\.0\.pattern: "embed_tokens" matches no trained parameter'):
        parameter_groups(TokenNLL(add_lora(tiny_llama(), Lora(rank=4)), CausalAdapter()), training)


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused", "paged_adamw_32bit"])
def test_every_kind_takes_the_steps_of_adamw_as_published(optim):
    training = Training(optim=optim, learning_rate=0.1, weight_decay=0.5, adam_beta1=0.8, adam_beta2=0.9)
    model = torch.nn.Linear(80, 64, bias=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of bitsandbytes: no paged memory without a GPU
        optimizer = build_optimizer(model, training)
    weight = model.weight.detach().double()
    first, second = torch.zeros_like(weight), torch.zeros_like(weight)
    for step in range(1, 4):
        gradient = torch.randn(64, 80, generator=torch.Generator().manual_seed(step))
        model.weight.grad = gradient.clone()
        set_learning_rate(optimizer, 0.1 / step)
        optimizer.step()
        first, second = 0.8 * first + 0.2 * gradient, 0.9 * second + 0.1 * gradient**2
        update = first / (1 - 0.8**step) / ((second / (1 - 0.9**step)).sqrt() + 1e-8)
        weight -= 0.1 / step * (update + 0.5 * weight)
    torch.testing.assert_close(model.weight.detach().double(), weight, rtol=1e-4, atol=1e-5)


def schedule(total: int = 100, **changes: object) -> list[float]:
    training = Training(learning_rate=1.0, **changes)
    return [learning_rate(step, total, training) for step in range(total)]


def test_warm_up_is_linear_and_ends_below_the_peak():
    assert schedule(10, warmup_steps=4, lr_scheduler_type="constant") == pytest.approx([0.2, 0.4, 0.6, 0.8] + [1.0] * 6)
    assert schedule(10, warmup_steps=0.4, lr_scheduler_type="constant")[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


@pytest.mark.parametrize(
    ("shape", "expected"),  # after 0, 1/4, 1/2 and 3/4 of the steps, from 1 to 0.2
    [
        ("linear", [1.0, 0.8, 0.6, 0.4]),
        ("cosine", [1.0, 0.2 + 0.8 * (2 + 2**0.5) / 4, 0.6, 0.2 + 0.8 * (2 - 2**0.5) / 4]),
    ],
)
def test_decay_to_the_floor_by_hand(shape, expected):
    assert schedule(lr_scheduler_type=shape, min_learning_rate=0.2)[::25] == pytest.approx(expected)


@pytest.mark.parametrize("decay_steps", [20, 0.2])
def test_warmup_stable_decay_by_hand(decay_steps):
    found = schedule(
        lr_scheduler_type="warmup_stable_decay", warmup_steps=9, decay_steps=decay_steps, min_learning_rate=0.5
    )
    assert found[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert found[9:81] == [1.0] * 72
    assert found[85] == pytest.approx(0.75)  # a quarter of the decay: 1 - sqrt(1/4) = 1/2 of the way from 0.5 to 1
    assert found[99] == pytest.approx(0.5 + 0.5 * (1 - (19 / 20) ** 0.5))


@pytest.mark.parametrize("shape", ["1-sqrt", "linear", "cosine"])
def test_warmup_stable_decay_is_that_of_transformers(shape):
    weight = torch.nn.Parameter(torch.zeros(1))
    theirs = get_wsd_schedule(
        torch.optim.SGD([weight], lr=1.0), 0, 30, num_training_steps=100, decay_type=shape, min_lr_ratio=0.1
    ).lr_lambdas[0]
    found = schedule(lr_scheduler_type="warmup_stable_decay", decay_steps=30, decay_type=shape, min_learning_rate=0.1)
    assert found == pytest.approx([theirs(step) for step in range(100)])


def test_a_decay_longer_than_what_warm_up_leaves_begins_after_it():
    found = schedule(10, lr_scheduler_type="warmup_stable_decay", warmup_steps=4, decay_steps=20, decay_type="linear")
    assert found[4:] == pytest.approx([1 - i / 6 for i in range(6)])
