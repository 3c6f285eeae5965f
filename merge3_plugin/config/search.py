"""How a run searches: strategy, budgets, fidelity, constraints."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, FiniteFloat, model_validator

from merge3_plugin.config.base import ModelName, Strict


def _listed(value: Any) -> Any:
    """One name is a list of one."""
    return [] if value is None else [value] if isinstance(value, str) else value


class SearchConfig(Strict):
    """How the search goes; the flags of the same meaning win."""

    optimizer: str = Field(
        "cma-es", description="cma-es, lq-cma-es, ga, de, nsga2, nsga3, tpe, gp, random, grid, or a plug-in's"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="of this optimizer")
    max_fevals: int = Field(100, ge=1, description="candidates of the search: never passed")
    max_items: int | None = Field(None, ge=1, description="item evaluations of the search: never passed")
    max_tokens: int | None = Field(None, ge=1, description="tokens that the search's forward passes read: never passed")
    timeout: float | None = Field(None, gt=0, description="seconds after which the search ends and is confirmed")
    patience: int | None = Field(None, ge=1, description="candidates in a row without a better one that end the search")
    stop_at_noise: bool = Field(False, description="end the search when no improvement is detectable at its noise")
    max_failures: int = Field(20, ge=1, description="candidates in a row that fail before the search gives up")
    popsize: int | None = Field(None, ge=4, description="candidates in a generation; unset: as the optimizer has it")
    sigma0: FiniteFloat = Field(1 / 6, gt=0, description="first step size, as a share of each gene's interval")
    scalarisation: Literal["sum", "parego", "random"] = Field(
        "sum", description="how a strategy for one objective sees several tasks; nsga2 and nsga3 see each task"
    )
    warm_start: Annotated[list[str], BeforeValidator(_listed)] = Field(
        default_factory=list,
        description="scored first: the best of other runs, by their folders, and mergekit recipes, by their files",
    )


class FidelityConfig(Strict):
    """On how many of its anchors a candidate is scored.

    ``fixed``: on all. ``racing``: on nested subsets, until its paired interval against the incumbent excludes a win.
    ``halving`` and ``hyperband``: the best ``1 / eta`` at each number of anchors go on to ``eta`` times as many.
    """

    strategy: Literal["fixed", "racing", "halving", "hyperband"] = "fixed"
    fewest: int | None = Field(None, ge=1, description="anchors of a task at the first step; unset: anchors / eta^2")
    eta: int = Field(3, ge=2, description="by how much the number of anchors grows from step to step")
    fresh: bool = Field(True, description="each generation has anchors of its own; a search fits one small set of them")


class ConstraintConfig(Strict):
    """A floor under the accuracy of one task: ``at_least``, or ``fall`` below the accuracy of the parent ``below``."""

    task: str
    at_least: float | None = Field(None, ge=0, le=1, description="a share: 0.4 is 40 points")
    below: ModelName | None = Field(None, description="a parent; unset: the base model, else the best parent there")
    fall: float | None = Field(None, ge=0, lt=1, description="by how much at most, as a share: 0.01 is a point")

    @model_validator(mode="after")
    def _one(self) -> ConstraintConfig:
        if (self.at_least is None) == (self.fall is None):
            raise ValueError(f"constraints: expected at_least or fall for {self.task!r}, got both or neither")
        if self.below is not None and self.fall is None:
            raise ValueError(f"constraints: below says what {self.task!r} may fall below; write fall with it")
        return self
