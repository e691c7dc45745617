"""The load-balancing loss of mixture-of-experts models (Switch Transformer, Fedus et al., 2022, Eq. 4-6).

It is of a micro-batch as a whole and does not add up over micro-batches as NLL does, so it alone depends on how a step
is cut. Each micro-batch counts by its share of the step's tokens.
"""

from dataclasses import dataclass

from torch import Tensor
from transformers import PretrainedConfig
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func


@dataclass(frozen=True)
class RouterLoss:
    """How much the loss counts, and the sizes it needs."""

    coefficient: float
    num_experts: int
    experts_per_token: int

    @classmethod
    def of(cls, config: PretrainedConfig, coefficient: float | None) -> "RouterLoss | None":
        """That of a model with routers, or None. Without a ``coefficient`` it is the model's own."""
        config = config.get_text_config()
        own = getattr(config, "router_aux_loss_coef", None)
        num_experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None)
        coefficient = own if coefficient is None else coefficient
        if own is None or not num_experts or not coefficient:
            return None
        return cls(coefficient, num_experts, config.num_experts_per_tok)

    def __call__(self, router_logits: tuple[Tensor, ...], attended: Tensor) -> Tensor:
        """[] the loss, times its coefficient; ``attended`` [B, T] is False at padding."""
        attended = attended | ~attended.any()  # of nothing but padding the loss is not defined; it then counts 0
        loss = load_balancing_loss_func(router_logits, self.num_experts, self.experts_per_token, attended)
        return self.coefficient * loss
