"""Which merges a run searches among; ``merge3.space`` says which kind, and each kind has its own keys."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, FiniteFloat, model_validator

from merge3_plugin.config.base import Strict

LfsMethod = Literal["linear", "task_arithmetic", "ties", "slerp"]


class GenomeSpaceConfig(Strict):
    """mergekit-evolve's space: the parameters of ``genome.merge_method`` by model, layer group and filter.

    Several ``methods`` make the method itself a gene.
    """

    kind: Literal["genome"] = "genome"
    methods: list[str] = Field(default_factory=list, description="search the method among these too")
    knots: int | None = Field(None, ge=2, description="interpolate each parameter over the depth between so many")


class WeightsSpaceConfig(Strict):
    """One linear combination of all of ``genome.models``, such as the checkpoints of a training run (2412.04144)."""

    kind: Literal["weights"]
    transform: Literal["softmax", "normalised"] = Field(
        "softmax",
        description="softmax: a logit for each model; normalised: each model's share of the sum, which may be 0",
    )
    allow_negative: bool = Field(False, description="with normalised: weights of either sign that sum to 1")


class LfsSpaceConfig(Strict):
    """Layer-wise fusion (2502.04030): a method and its parameters for each group of layers, parameters by filter."""

    kind: Literal["lfs"]
    granularity: int = Field(ge=1, description="layers in a group; divides the number of layers")
    filters: list[str] = Field(default_factory=lambda: ["self_attn", "mlp"], description="the rest is a set of its own")
    methods: list[LfsMethod] = Field(default_factory=lambda: list(get_args(LfsMethod)))


class DisSpaceConfig(Strict):
    """Depth-wise integration (2502.04030): which models' layers stand at each position, in which order, how scaled."""

    kind: Literal["dis"]
    repeats: int = Field(1, ge=1, description="copies of a model's layer that a position may hold")
    max_layers: int | None = Field(None, ge=1, description="of the merged model; unset: twice the parents'")
    frozen_first: int = Field(1, ge=0, description="first layers that stay the base's")
    frozen_last: int = Field(1, ge=0, description="last layers that stay the base's")
    scales: tuple[FiniteFloat, FiniteFloat] | None = Field(
        (0.5, 1.5), description="range of the residual scale of a position, within 0.25 to 2; null: none"
    )

    @model_validator(mode="after")
    def _scales(self) -> DisSpaceConfig:
        if self.scales and not 0.25 <= self.scales[0] < self.scales[1] <= 2:
            raise ValueError(f"scales: expected low < high within 0.25 to 2, got {list(self.scales)}")
        return self


class PruneSpaceConfig(Strict):
    """Fewer layers, healed from several models (GPTailor): each layer that stays is a task arithmetic of some."""

    kind: Literal["prune"]
    remove: int = Field(ge=1, description="layers to remove")
    frozen_first: int = Field(1, ge=0, description="first layers that are never removed")
    frozen_last: int = Field(1, ge=0, description="last layers that are never removed")


SpaceConfig = Annotated[
    GenomeSpaceConfig | WeightsSpaceConfig | LfsSpaceConfig | DisSpaceConfig | PruneSpaceConfig,
    Field(discriminator="kind"),
]
