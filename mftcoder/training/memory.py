"""How much memory a step takes on each GPU, before anything is allocated.

Weights, gradients and optimizer follow from the model's shapes and ZeRO's partitioning; activations and logits come
from a forward and backward pass on fake tensors (``models.footprint``). What CUDA takes for itself, and what its
allocator loses to fragmentation, is not in it. ``tools/bench_memory.py`` holds it against what steps really take.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mftcoder.config.deepspeed import resolve, zero_stage
from mftcoder.config.schema import Config, Lora, Model, Quantization
from mftcoder.models.adapter import TokenNLL
from mftcoder.models.footprint import Footprint, footprint
from mftcoder.models.load import meta_token_nll
from mftcoder.models.model_config import load_config

GIB = 2**30
FLOAT32 = 4  # bytes
MOMENTS = {32: 2 * FLOAT32, 8: 2 + 2 * FLOAT32 / 256}  # bytes of Adam's per trained parameter, by their bits
UPDATE = 2 * FLOAT32  # what AdamW needs for a moment, per trained parameter
COMPILED = 0.7  # of the activations, what compiled layers keep: 0.66 and 0.72 on an H100 (tools/README.md)
BITS_PER_WEIGHT = {False: 4.5, True: 4.127}  # NF4 with its scales, without and with double quantization


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes on one rank when a step takes the most."""

    parameters: int
    trainable: int
    moment: str
    parts: dict[str, int]  # weights, gradients, optimizer, activations, logits, buffers
    host: int  # beside them in the host's memory: what is offloaded

    @property
    def total(self) -> int:
        """All parts together."""
        return sum(self.parts.values())

    def describe(self) -> str:
        """One line of GiB by part."""
        parts = ", ".join(f"{name} {size / GIB:,.2f}" for name, size in self.parts.items())
        host = f"; {self.host / GIB:,.2f} GiB of the host's memory" if self.host else ""
        return f"{self.total / GIB:,.2f} GiB on each GPU, in the {self.moment} ({parts}){host}"


def plan(config: Config, world_size: int, *, gpu: bool = True) -> MemoryPlan:
    """The most that a step of ``config`` takes on one of ``world_size`` ranks, every position supervised.

    ``gpu``: each has a current GPU; else they are on CPUs.

    MftcoderError if there is no such model, or if its DeepSpeed settings contradict the config.
    """
    settings = settings_of(config, world_size)
    training = config.training
    model = meta_token_nll(config.model, training, gpu=gpu)
    sizes = Sizes.of(model, config.model)
    accumulates = training.gradient_accumulation_steps > 1
    moving = footprint(
        model,
        num_rows=training.per_device_train_batch_size,
        length=-(-config.data.sequence_length // training.sequence_parallel_size),
        gradients_stay=zero_stage(settings) < 2 and not accumulates,
    )
    if training.torch_compile and not training.activation_checkpointing:
        moving = moving._replace(activations=int(COMPILED * moving.activations))
    return combine(sizes, moving, settings, world_size, optim=training.optim, accumulates=accumulates)


def settings_of(config: Config, world_size: int) -> dict[str, Any]:
    """The resolved DeepSpeed settings of ``config`` on ``world_size`` ranks; raises what ``plan`` does."""
    return resolve(config, world_size=world_size, hidden_size=load_config(config.model).get_text_config().hidden_size)


def smaller_plans(config: Config, world_size: int) -> Iterator[tuple[str, MemoryPlan]]:
    """What single changes of ``config`` would save: the change in words, and the plan after it."""
    training, model = config.training, config.model
    if not training.activation_checkpointing:
        checkpointing = {"activation_checkpointing": True}
        yield "training.activation_checkpointing = true", plan(_changed(config, training=checkpointing), world_size)
    if training.per_device_train_batch_size > 1:
        rows = training.per_device_train_batch_size * training.gradient_accumulation_steps
        one = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": rows}
        words = f"training.per_device_train_batch_size = 1 and gradient_accumulation_steps = {rows}"
        yield words, plan(_changed(config, training=one), world_size)
    if world_size > 1:
        for stage in (2, 3):
            zero = {"zero_optimization": {"stage": stage, "reduce_bucket_size": "auto"}}
            yield f"ZeRO stage {stage}", plan(config.model_copy(update={"deepspeed": zero}), world_size)
    lora = model.lora or Lora()
    if model.lora is None:
        yield "model.lora", plan(_changed(config, model={"lora": lora}), world_size)
    if model.quantization is None:
        both = {"lora": lora, "quantization": Quantization()}
        yield "model.lora and model.quantization", plan(_changed(config, model=both), world_size)


def _changed(config: Config, **sections: dict[str, Any]) -> Config:
    update = {name: getattr(config, name).model_copy(update=changes) for name, changes in sections.items()}
    return config.model_copy(update=update)


@dataclass(frozen=True)
class Sizes:
    """What a model holds, whole."""

    parameters: int
    trainable: int
    weight_bytes: int
    unpacked: int  # bytes of the largest 4-bit weight while it is used; 0 without any
    itemsize: int  # bytes of a trained parameter

    @classmethod
    def of(cls, model: TokenNLL, settings: Model) -> "Sizes":
        """The sizes of ``model``, which is on the meta device and not quantized, as ``settings`` will have it."""
        every = list(model.parameters())
        packed = list(_linear_weights(model)) if settings.quantization else []
        bits = BITS_PER_WEIGHT[bool(settings.quantization and settings.quantization.double_quantization)]
        num_packed, whole = sum(p.numel() for p in packed), sum(p.numel() * p.itemsize for p in packed)
        trained = [p for p in every if p.requires_grad]
        return cls(
            parameters=sum(p.numel() for p in every),
            trainable=sum(p.numel() for p in trained),
            weight_bytes=sum(p.numel() * p.itemsize for p in every) - whole + int(num_packed * bits / 8),
            unpacked=max((p.numel() * p.itemsize for p in packed), default=0),
            itemsize=max(p.itemsize for p in trained),
        )


def combine(
    sizes: Sizes,
    moving: Footprint,
    settings: Mapping[str, Any],
    world_size: int,
    *,
    optim: str = "adamw_torch_fused",
    accumulates: bool,
) -> MemoryPlan:
    """The larger of a step's two heights: in forward and backward pass, and in the optimizer's update.

    In ``moving`` gradients stay if the ZeRO stage is below 2 and nothing is accumulated.
    """
    stage, zero = zero_stage(dict(settings)), settings.get("zero_optimization", {})
    itemsize, share = sizes.itemsize, -(-sizes.trainable // (world_size if stage else 1))
    master = FLOAT32 * share if stage > 0 or itemsize < FLOAT32 else 0  # a float32 copy of what is trained
    weights = sizes.weight_bytes // (world_size if stage == 3 else 1)
    optimizer = int(share * MOMENTS[8 if "8bit" in optim else 32]) + master
    owned = itemsize * (share if stage else sizes.trainable)  # gradients once they are reduced
    # For the update, DeepSpeed makes one tensor of them and then makes it float32; stage 3 a part at a time.
    part = min(share, int(zero.get("sub_group_size", 1e9))) if stage == 3 else share
    copies = part * ((itemsize if stage else 0) + (FLOAT32 if itemsize < FLOAT32 else 0))
    if stage == 3:
        held = owned
    elif accumulates:
        held = owned if stage == 2 else itemsize * sizes.trainable
    else:
        held = 0
    bucket = int(zero.get("reduce_bucket_size", 5e8)) * itemsize if stage else 0
    offloads_weights, offloads_optimizer = (
        zero.get(f"offload_{what}", {}).get("device", "none") != "none" for what in ("param", "optimizer")
    )
    gathered = 0
    if stage == 3 and (world_size > 1 or offloads_weights):
        live = min(sizes.parameters, int(zero.get("stage3_max_live_parameters", 1e9)))
        gathered = live * sizes.weight_bytes // sizes.parameters
    host = 0
    if offloads_optimizer:  # with the gradients that the update there reads
        host, optimizer, owned, copies = optimizer + master + owned, 0, 0, 0
        held = 0 if stage >= 2 else held
    if offloads_weights:
        host, weights = host + weights, 0
    two_buckets = stage == 2 and zero.get("overlap_comm")
    heights = {
        "forward and backward pass": {
            "weights": weights,
            "gradients": held + moving.gradients,
            "optimizer": optimizer,
            "activations": moving.activations,
            "logits": moving.logits,
            "buffers": gathered + bucket * (2 if two_buckets else 1) + sizes.unpacked,
        },
        "optimizer's update": {
            "weights": weights,
            "gradients": owned + copies,
            "optimizer": optimizer,
            "buffers": (bucket if stage == 3 else 0) + (2 * FLOAT32 * share if optim == "adamw_torch" else 0),
        },
    }
    moment = max(heights, key=lambda name: sum(heights[name].values()))
    return MemoryPlan(sizes.parameters, sizes.trainable, moment, heights[moment], host)


def _linear_weights(model: TokenNLL) -> Iterator[Tensor]:
    """What quantization takes: the frozen weights of linear layers, but not the head's."""
    for module in model.causal.modules():
        if isinstance(module, nn.Linear) and not module.weight.requires_grad and module.weight is not model.head.weight:
            yield module.weight
