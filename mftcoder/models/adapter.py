"""What differs between model families: where the backbone is, how samples are isolated, how logits are made."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mftcoder.data.batch import Batch
from mftcoder.errors import MftcoderError
from mftcoder.losses.chunked_nll import ByTask, LogitTransform, chunked_nll
from mftcoder.models.attention import Choice, by_segments, segment_arguments
from mftcoder.models.neftune import EmbeddingNoise
from mftcoder.models.quantization import whole_size
from mftcoder.models.router import RouterLoss
from mftcoder.models.task_gradients import GainWatch, GradientWatch, HeadWatch


class Head(nn.Module):
    """The output projection as a loss. It holds the model's own parameters, so that ZeRO-3 gathers them for it."""

    def __init__(
        self,
        weight: nn.Parameter,
        bias: nn.Parameter | None,
        transform: LogitTransform,
        *,
        normalized: bool = False,
        new_rows: tuple[nn.Parameter, list[int]] | None = None,
    ) -> None:
        """``new_rows`` [N, H] stand at N places of ``weight`` [V, H]; ``normalized``: its rows count with length 1."""
        super().__init__()
        self.weight, self.bias, self.transform, self.normalized = weight, bias, transform, normalized
        self.chunk_size: int | None = None  # positions at a time; None: what suits the device
        self.rows = new_rows[0] if new_rows else None
        self.places: Tensor
        self.register_buffer("places", torch.tensor(new_rows[1] if new_rows else []).long(), persistent=False)

    def forward(
        self, hidden: Tensor, targets: Tensor, coefficients: Tensor | None, by_task: ByTask | None
    ) -> tuple[Tensor, Tensor]:
        """See ``chunked_nll``."""
        weight: Tensor = self.weight
        if self.rows is not None:
            weight = weight.index_copy(0, self.places, self.rows.to(weight.dtype))
        if self.normalized:
            weight = nn.functional.normalize(weight)
        return chunked_nll(
            hidden,
            weight,
            self.bias,
            targets,
            coefficients=coefficients,
            transform=self.transform,
            chunk_size=self.chunk_size,
            by_task=by_task,
        )


class Tokens(NamedTuple):
    """Special tokens that the tokenizers of a family have."""

    name: str
    roles: tuple[str, ...] = ()  # that mark who speaks, or where a turn ends
    infilling: tuple[str, ...] = ()  # before prefix, suffix and middle


@dataclass(frozen=True)
class CausalAdapter:
    """Any causal language model of transformers whose logits are a linear map of the last hidden state.

    Attributes:
        families: names of the models, for people.
        tokens: which special tokens their tokenizers may have, those with most first.
        isolation: how samples of a row are kept apart. "positions": by ``position_ids`` that restart at each sample,
            with no attention mask and no cache: the library then makes the mask (sdpa, eager, flex); other backends
            are told the segments' borders. "block_mask": by a mask of ours. "none": not at all. ``models.check`` proves
            it.
        experts: ends of the names of a mixture's fused experts.
        remote: transformers has no class for it.
    """

    families: str = "any"
    tokens: tuple[Tokens, ...] = ()
    isolation: Literal["positions", "block_mask", "none"] = "positions"
    experts: tuple[str, ...] = ()
    remote: bool = False

    def backbone(self, model: PreTrainedModel) -> nn.Module:
        """The model without its head."""
        backbone = model.base_model
        if backbone is model:
            raise MftcoderError(f"model.path: {type(model).__name__} is not a causal language model with a backbone.")
        return backbone

    def run_backbone(self, model: PreTrainedModel, batch: Batch, *, with_routers: bool) -> tuple[Tensor, Any]:
        """[B, T, H], the last hidden states segments isolated from each other; and the routers' logits, if asked."""
        ids, positions = batch.input_ids, batch.position_ids
        more: dict[str, Any] = {"attention_mask": None}
        if by_segments(model):  # of one row
            ids, positions = ids.reshape(1, -1), positions.reshape(1, -1)
            more = segment_arguments(model, batch)
        elif self.isolation == "block_mask":
            more = {"attention_mask": block_mask(positions, model.dtype)}
        if with_routers:
            more["output_router_logits"] = True
        output = self.backbone(model)(input_ids=ids, position_ids=positions, use_cache=False, **more)
        hidden = output.last_hidden_state.reshape(*batch.input_ids.shape, -1)
        return hidden, output.router_logits if with_routers else None

    def head(self, model: PreTrainedModel) -> Head:
        """The output projection with everything between it and the softmax."""
        linear = model.get_output_embeddings()
        if linear is None:
            raise MftcoderError(f"model.path: {type(model).__name__} has no output projection, so it has no logits.")
        if hasattr(linear, "base_layer"):
            raise MftcoderError(
                "model.lora.target_modules: adapters on the output projection are not supported; leave it out."
            )
        config = model.config.get_text_config()
        scale = getattr(config, "logit_scale", None) or 1.0 / (getattr(config, "logits_scaling", None) or 1.0)
        transform = LogitTransform(scale, getattr(config, "final_logit_softcapping", None))
        normalized = type(linear).__name__ == "NormHead"  # that of Baichuan 2
        if not hasattr(linear, "token_adapter"):
            return Head(linear.weight, getattr(linear, "bias", None), transform, normalized=normalized)
        trained, linear = linear.token_adapter, linear.token_adapter.base_layer  # peft's, of the rows of new tokens
        rows = trained.trainable_tokens_delta["default"], trained.token_indices["default"]
        return Head(linear.weight, getattr(linear, "bias", None), transform, normalized=normalized, new_rows=rows)

    def gathered_blocks(self, model: nn.Module) -> list[str]:
        """Classes of those modules of ``model`` whose parameters ZeRO-3 must gather all at once.

        They are mixtures whose experts are modules of their own, as in remote code: which of these run, and in which
        order, depends on the data. Fused experts are parameters of one module that always runs.
        """
        blocks = [m for m in model.modules() if isinstance(getattr(m, "experts", None), nn.ModuleList)]
        return sorted({type(block).__name__ for block in blocks})

    def borrowed_parameters(self, model: nn.Module) -> Iterator[tuple[nn.Module, nn.Parameter]]:
        """Modules of ``model`` with the parameters of others that they read, which ZeRO-3 must gather for them too."""
        module: Any
        for module in model.modules():
            if hasattr(module, "trainable_tokens_delta"):  # peft's, around an embedding
                yield module, module.base_layer.weight
                yield from ((module, rows) for rows in module.trainable_tokens_delta.values())

    def expert_parameters(self, model: PreTrainedModel) -> list[str]:
        """Ends of the names of the fused experts of ``model``; those found where the family is not known."""
        if self.experts:
            return list(self.experts)
        found = (name.split(".") for name, p in model.named_parameters() if p.ndim == 3)
        return sorted({".".join(parts[-3:]) for parts in found if parts[-2:-1] == ["experts"]})


class TokenNLL(nn.Module):
    """A causal language model as the engine sees it: a batch in, per-token NLL out.

    The head lives inside ``forward``, and only supervised positions reach it.
    """

    def __init__(
        self, model: PreTrainedModel, adapter: CausalAdapter, router_loss_coefficient: float | None = 0.0
    ) -> None:
        super().__init__()
        self.model = model  # or a PeftModel around one
        self.adapter = adapter
        self.attention: Choice | None = None  # None: what the library prefers
        self.head = adapter.head(self.causal)
        self.gradient_watch: GradientWatch | None = None
        self.embedding_noise: EmbeddingNoise | None = None
        self.router_loss = RouterLoss.of(self.causal.config, router_loss_coefficient)

    @property
    def causal(self) -> PreTrainedModel:
        """The causal language model, whatever wraps it."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    def watch_gradients(self, num_tasks: int, shared: Literal["final_norm", "lm_head"]) -> None:
        """From now on collect each task's gradient at ``shared`` parameters, in ``gradient_watch``."""
        if shared == "lm_head":
            self.gradient_watch = HeadWatch(self.head.weight, num_tasks)
        else:
            self.gradient_watch = GainWatch(self.adapter.backbone(self.causal), num_tasks)

    def disturb_embeddings(self, alpha: float) -> None:
        """From now on train with NEFTune's noise of strength ``alpha``."""
        self.embedding_noise = EmbeddingNoise(self.causal.get_input_embeddings(), alpha)

    def forward(self, batch: Batch, coefficients: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(nll [S], loss []) as in ``chunked_nll``, over the batch's supervised positions; and the routers' loss [].

        The last is 0 without routers, and in evaluation.
        """
        with_routers = self.router_loss is not None and self.training
        if self.embedding_noise is not None:
            self.embedding_noise.follow(batch.segment_ids if self.training else None)
        hidden, router_logits = self.adapter.run_backbone(self.causal, batch, with_routers=with_routers)
        selected = hidden.flatten(0, 1).index_select(0, batch.supervised)
        by_task = self.gradient_watch.follow(selected, batch) if self.gradient_watch is not None else None
        nll, loss = self.head(selected, batch.targets, coefficients, by_task)
        routers = loss.new_zeros(())
        if with_routers and self.router_loss is not None:
            routers = self.router_loss(router_logits, batch.segment_ids > 0)
        return nll, loss, routers


def block_mask(positions: Tensor, dtype: torch.dtype) -> Tensor:
    """[B, 1, T, T]: 0 where a token sees another, of its own sample and not after it; else the least number."""
    samples = (positions == 0).cumsum(1)
    seen = (samples[:, :, None] == samples[:, None, :]).tril()
    return torch.zeros(seen.shape, dtype=dtype, device=positions.device).masked_fill_(~seen, torch.finfo(dtype).min)[
        :, None
    ]


def layers_of(backbone: nn.Module) -> nn.ModuleList | None:
    """The stack of transformer layers, if ``backbone`` has one."""
    stacks = [child for child in backbone.children() if isinstance(child, nn.ModuleList)]
    return max(stacks, key=len, default=None)


def num_parameters(model: nn.Module) -> tuple[int, int]:
    """(all, trainable) parameters; ones that ZeRO-3 has partitioned or that are packed in 4 bits count whole."""
    sizes = [(whole_size(p), p.requires_grad) for p in model.parameters()]
    return sum(n for n, _ in sizes), sum(n for n, trainable in sizes if trainable)


def make_batch(input_ids: Tensor, position_ids: Tensor) -> Batch:
    """A batch in which every position but a row's last predicts the next token; for checks and evaluation."""
    num_rows, width = input_ids.shape
    supervised = torch.arange(num_rows * width).reshape(num_rows, width)[:, :-1].reshape(-1).to(input_ids.device)
    return Batch(
        input_ids=input_ids,
        segment_ids=torch.ones_like(input_ids),
        position_ids=position_ids,
        task_ids=torch.zeros(num_rows, dtype=torch.int64, device=input_ids.device),
        supervised=supervised,
        targets=input_ids[:, 1:].reshape(-1),
        sample_ids=supervised // width,
        sample_keys=torch.arange(num_rows, device=input_ids.device),
    )
