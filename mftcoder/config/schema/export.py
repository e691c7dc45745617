"""Section ``export``: Hugging Face folders, and pushing them to the hub while training."""

from typing import Annotated, Literal

from pydantic import Field

from mftcoder.config.schema.base import NonEmpty, Section


class Export(Section):
    """How `mftcoder export` writes the model, and whether training pushes it to the hub. Never changes the trajectory.

    The hub's token comes from `HF_TOKEN` or a login of huggingface_hub, never from here.
    """

    max_shard_size: Annotated[str, Field(pattern=r"^[1-9]\d*(KB|MB|GB)$")] = Field(
        "5GB", description="Weights are cut into files of at most this size."
    )
    base_model: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")] | None = Field(
        None,
        description="Hub id of the base model, where `model.path` is a local copy of it: what the model card and an "
        "adapter name.",
    )
    license: NonEmpty | None = Field(
        None,
        description="Licence of the model card, by its hub name, e.g. `apache-2.0`; default: that of the base model's "
        "card, and where that is not known `other`.",
    )
    limitations: NonEmpty | None = Field(
        None, description="What users of the model must know: Markdown for the model card, beside what it says itself."
    )
    push_to: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")] | None = Field(
        None, description="Repository on the hub, `ORG/NAME`, that training pushes to; made if it is not there."
    )
    push_every: Literal["save", "end"] | None = Field(
        None,
        description="When training pushes: after every checkpoint (the newest, if pushes are slower than saves), or "
        "only its best one at the end. A process of its own does it; when it fails, training ends with exit code 1 and "
        "says how to go on.",
    )
    private: bool = Field(True, description="Whether a repository that is made is private.")
    revision: NonEmpty | None = Field(None, description="Branch to push to; made if it is not there. Default: main.")
    adapter: bool = Field(False, description="Training pushes the LoRA adapter alone, not merged into the base model.")
