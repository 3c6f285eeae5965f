"""Which merges a run searches among; ``merge3.space`` says which kind, and each kind has its own keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, FiniteFloat, model_validator

from merge3_plugin.config.base import Strict

LfsMethod = Literal["linear", "task_arithmetic", "ties", "slerp"]


class KnotsConfig(Strict):
    """How many values over the depth a parameter has for the tensors of a filter (None: for all others)."""

    value: int = Field(ge=1)
    filter: str | None = None


def _by_filter(value: Any) -> Any:
    """A number for all tensors, or mergekit's form of what differs by filter."""
    if value is None or isinstance(value, list):
        return value
    return [value if isinstance(value, Mapping) else {"value": value}]


class GenomeSpaceConfig(Strict):
    """mergekit-evolve's space: the parameters of ``genome.merge_method`` by model, layer group and filter.

    Several ``methods`` make the method itself a gene.
    """

    kind: Literal["genome"] = "genome"
    methods: list[str] = Field(default_factory=list, description="search the method among these too")
    knots: Annotated[list[KnotsConfig] | None, BeforeValidator(_by_filter)] = Field(
        None,
        description="interpolate each parameter over the depth between so many values: a number, or, as mergekit "
        "writes a parameter, [{filter: self_attn, value: 5}, {value: 1}] with filters of genome.filters",
    )

    @model_validator(mode="after")
    def _knots(self) -> GenomeSpaceConfig:
        filters = [None] if self.knots is None else [entry.filter for entry in self.knots]
        if len(set(filters)) < len(filters) or filters[-1:] != [None]:
            raise ValueError(
                "knots: expected each filter once and last a number for all other tensors, such as {value: 1}, got "
                f"{', '.join(filter_ or 'all others' for filter_ in filters) or 'none'}"
            )
        return self


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
