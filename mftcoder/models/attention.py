"""Which attention computes packed rows; torch's variable-length kernel is brought in as one more of the library's.

Samples of a row must not see each other, and a model's sliding windows, soft-capping and dropout must be computed, not
dropped. So a backend is taken only if it does all that this model asks of it:

    varlen               torch's own FlashAttention over segments, no package needed; on a CPU sdpa for each segment
    flash_attention_3/2  the flash-attn packages, over segments
    flex_attention       compiled for the mask at hand, by blocks
    sdpa, eager          a mask [T, T] per row
"""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import varlen
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

from mftcoder.data.batch import Batch
from mftcoder.errors import MftcoderError

VARLEN = "mftcoder_varlen"  # the library's name for ours
NAMES = {"varlen": VARLEN}  # our name -> the library's, where they differ
ON_GPU = ("varlen", "flash_attention_3", "flash_attention_2", "flex_attention", "sdpa", "eager")  # the first that fits
ON_CPU = ("varlen", "sdpa", "eager")
WITHOUT_MASK = ("varlen", "flash_attention_3", "flash_attention_2", "flex_attention")
LARGEST_HEAD = 256  # of FlashAttention
SMALLEST_HEAD = 16  # of flex attention


@dataclass(frozen=True)
class Choice:
    """The attention of a run and why it is that one."""

    backend: str
    reason: str

    def __str__(self) -> str:
        return f"{self.backend} ({self.reason})"


@dataclass(frozen=True)
class Needs:
    """What a model asks of its attention."""

    family: str
    head_sizes: tuple[int, int]  # of queries and keys, and of values
    dropout: float
    soft_cap: bool
    sinks: bool
    masks: bool  # attends by a pattern other than causal and sliding, or by a mask of ours
    dtype: torch.dtype
    capability: tuple[int, int] | None  # of the GPU; None: there is none
    supports: dict[str, bool]  # by backend, what the library says of the family

    @classmethod
    def of(cls, model: PreTrainedModel, device: torch.device, *, masked: bool = False) -> "Needs":
        """Those of ``model`` in its dtype, on ``device``. ``masked``: its samples are kept apart by a mask of ours."""
        config = model.config.get_text_config()
        kinds = set(getattr(config, "layer_types", None) or [])
        return cls(
            family=type(model).__name__,
            head_sizes=_head_sizes(config),
            dropout=max(getattr(config, name, None) or 0.0 for name in ("attention_dropout", "attn_pdrop")),
            soft_cap=bool(getattr(config, "attn_logit_softcapping", None)),
            sinks=any(name.endswith(".sinks") for name, _ in model.named_parameters()),
            masks=bool(
                masked
                or kinds - {"full_attention", "sliding_attention"}
                or getattr(config, "attention_chunk_size", None)
            ),
            dtype=model.dtype,
            capability=torch.cuda.get_device_capability(device) if device.type == "cuda" else None,
            supports={
                "varlen": model._supports_attention_backend,
                "flash_attention_2": model._supports_flash_attn,
                "flash_attention_3": model._supports_flash_attn,
                "flex_attention": model._supports_flex_attn,
                "sdpa": model._supports_sdpa,
                "eager": True,
            },
        )


def choose(requested: str, needs: Needs) -> Choice:
    """The attention for "auto", or the ``requested`` one; MftcoderError if that does not compute what is needed."""
    if requested != "auto":
        problem = next(unfit(requested, needs), None)
        if problem:
            raise MftcoderError(f'model.attention: "{requested}" does not fit {needs.family}: {problem}. Use "auto".')
        return Choice(requested, "as asked for")
    passed_over: list[str] = [] if needs.capability else ["no GPU"]
    for backend in ON_GPU if needs.capability else ON_CPU:
        problem = next(unfit(backend, needs), None)
        if problem is None:
            return Choice(backend, "; ".join(passed_over) or "it fits")
        passed_over.append(f"not {backend}: {problem}")
    raise MftcoderError(f"model.attention: none fits {needs.family}: {'; '.join(passed_over)}.")


def unfit(backend: str, needs: Needs) -> Iterator[str]:
    """Why ``backend`` would not compute what is needed."""
    if not needs.supports[backend]:
        yield "the model's code does not support it"
    if backend != "eager" and needs.sinks and backend != "flex_attention":
        yield "it has no attention sinks"
    if backend in ("varlen", "sdpa") and needs.soft_cap:
        yield "it has no soft-capping"
    if backend in ("varlen", "flex_attention") and needs.dropout:
        yield f"it has no dropout, and the model's is {needs.dropout:g}"
    if backend == "flex_attention":
        if needs.masks:
            yield "the model has layers that need a mask"
        if needs.capability is None:
            yield "it trains on a GPU only"
        if min(needs.head_sizes) < SMALLEST_HEAD:
            yield f"heads of {min(needs.head_sizes)} are smaller than {SMALLEST_HEAD}"
    elif backend not in ("sdpa", "eager"):
        yield from _unfit_by_segments(backend, needs)


def _unfit_by_segments(backend: str, needs: Needs) -> Iterator[str]:
    if needs.masks:
        yield "the model has layers that need a mask"
    if backend == "varlen":
        if needs.capability is None:
            return  # one call per segment
        if "window_size" not in inspect.signature(varlen.varlen_attn).parameters:
            yield "it came with torch 2.11"
    elif not {"flash_attention_2": is_flash_attn_2_available, "flash_attention_3": is_flash_attn_3_available}[
        backend
    ]():
        yield "its package is not installed, or there is no GPU"
    least = (9, 0) if backend == "flash_attention_3" else (8, 0)
    if needs.capability is None or needs.capability < least:
        yield f"it needs a GPU of compute capability {least[0]}.{least[1]}"
    if needs.dtype not in (torch.bfloat16, torch.float16):
        yield f"it has no {str(needs.dtype).removeprefix('torch.')}"
    if max(needs.head_sizes) > LARGEST_HEAD:
        yield f"heads of {max(needs.head_sizes)} are larger than {LARGEST_HEAD}"


def set_attention(model: PreTrainedModel, requested: str, *, masked: bool = False) -> Choice:
    """Choose the attention with which ``model`` trains on this process's device, and set it.

    ``masked``: its samples are kept apart by a mask of ours, which some backends do not take.
    """
    choice = choose(requested, Needs.of(model, _device(), masked=masked))
    try:
        model.set_attn_implementation(NAMES.get(choice.backend, choice.backend))
    except (ValueError, ImportError) as error:
        raise MftcoderError(f'model.attention: "{choice.backend}": {error}') from error
    return choice


def set_general_attention(model: PreTrainedModel) -> None:
    """Set an attention that computes what ``model`` needs with any mask and cache, on any device."""
    needs = Needs.of(model, torch.device("cpu"))
    if needs.supports["sdpa"] or needs.supports["varlen"]:  # else it is of remote code, with an attention of its own
        model.set_attn_implementation("eager" if next(unfit("sdpa", needs), None) else "sdpa")


def likely(model: PreTrainedModel, requested: str, *, gpu: bool) -> str:
    """The backend with which ``model`` would train on a current GPU, or on a CPU, if what is ``requested`` runs."""
    if requested != "auto":
        return requested
    return choose("auto", replace(Needs.of(model, torch.device("cpu")), capability=(8, 0) if gpu else None)).backend


def _device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def by_segments(model: PreTrainedModel) -> bool:
    """Whether the model's attention wants all rows as one, with the borders of its segments."""
    implementation = model.config._attn_implementation or ""
    return implementation == VARLEN or "flash" in implementation


def segment_arguments(model: PreTrainedModel, batch: Batch) -> dict[str, Any]:
    """What the forward pass of such a model is told of the segments of ``batch``, once for all layers."""
    borders, longest = batch.segment_borders
    # Four dimensions tell the library that no mask is to be made; looking for borders would make the GPU wait.
    mask = borders.new_empty((0, 0, 0, 0)) if model.config._attn_implementation == VARLEN else None
    return {
        "attention_mask": mask,
        "cu_seq_lens_q": borders,
        "cu_seq_lens_k": borders,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def varlen_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Causal attention within segments, in the library's form: query [1, H, T, D] to [1, T, H, D].

    Without borders (in generation, say) it is sdpa with the mask that the library made.
    """
    if cu_seq_lens_q is None:
        if attention_mask is not None and not attention_mask.numel():
            raise MftcoderError(
                f'model.attention: "varlen": {type(module).__name__} is not told of the samples\' borders.'
            )
        options = {"scaling": scaling, "dropout": dropout, "is_causal": others.get("is_causal")}
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    if dropout or softcap is not None or s_aux is not None:
        raise MftcoderError('model.attention: "varlen" has no dropout, soft-capping or sinks. Use "auto".')
    assert max_length_q is not None
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    window = -1 if sliding_window is None or sliding_window >= max_length_q else sliding_window - 1
    if not query.is_cuda:
        return _segment_by_segment(query, key, value, cu_seq_lens_q, scale, window), None
    query, key, value = (state.transpose(1, 2).flatten(0, 1) for state in (query, key, value))  # [T, H, D]
    return _on_gpu(query, key, value, cu_seq_lens_q, max_length_q, scale, window)[None], None


def _on_gpu(
    query: Tensor, key: Tensor, value: Tensor, borders: Tensor, longest: int, scale: float, window: int
) -> Tensor:
    """[T, H, D] each; ``window`` is how many tokens before itself a token sees, -1: all."""
    size = value.shape[-1]
    query, key, value = _padded(query, key, value)
    more: dict[str, Any] = {"enable_gqa": True} if _TAKES_ENABLE_GQA and query.shape[1] != key.shape[1] else {}
    out = varlen.varlen_attn(
        query, key, value, borders, borders, longest, longest, scale=scale, window_size=(window, 0), **more
    )
    assert isinstance(out, Tensor)
    return out[..., :size]


_TAKES_ENABLE_GQA = "enable_gqa" in inspect.signature(varlen.varlen_attn).parameters  # since torch 2.12


def _padded(*states: Tensor) -> tuple[Tensor, ...]:
    """All of one size of head, a multiple of 8, by zeros, which change no score."""
    size = max(state.shape[-1] for state in states)
    size += -size % 8
    return tuple(
        state if state.shape[-1] == size else nn.functional.pad(state, (0, size - state.shape[-1])) for state in states
    )


@torch.compiler.disable  # it would be compiled for these lengths
def _segment_by_segment(
    query: Tensor, key: Tensor, value: Tensor, borders: Tensor, scale: float, window: int
) -> Tensor:
    """The same on a CPU, where torch has no such kernel; from [1, H, T, D] to [1, T, H, D]."""
    lengths = borders.diff().tolist()
    parts = []
    for q, k, v in zip(*(state.split(lengths, 2) for state in (query, key, value)), strict=True):
        length, mask = q.shape[2], None
        if -1 < window < length - 1:
            mask = torch.ones(length, length, dtype=torch.bool).tril().triu(-window)
        part = nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=True
        )
        parts.append(part.transpose(1, 2))
    return torch.cat(parts, 1)


def _head_sizes(config: PretrainedConfig) -> tuple[int, int]:
    """Of a multi-head latent attention queries and values differ."""
    latent = (getattr(config, "qk_nope_head_dim", None) or 0) + (getattr(config, "qk_rope_head_dim", None) or 0)
    if latent:
        return latent, config.v_head_dim
    sizes = [getattr(config, name, None) or 0 for name in ("head_dim", "global_head_dim")]
    size = max(sizes) or config.hidden_size // config.num_attention_heads
    return size, size


_REGISTER: tuple[tuple[Any, Callable], ...] = (
    (AttentionInterface, varlen_attention),
    (AttentionMaskInterface, sdpa_mask),
)
for _interface, _function in _REGISTER:
    _interface.register(VARLEN, _function)
