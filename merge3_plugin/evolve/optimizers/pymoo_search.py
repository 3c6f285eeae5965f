"""Genetic algorithms and differential evolution of the package ``pymoo``, without its barrier between generations.

pymoo's variation, tournaments, non-dominated sorting, crowding and reference directions work here on a population that
breeds and learns whenever it is asked and told (`Evolution`). Its own loop waits for a whole generation, and believes
for good what it was told once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field

from merge3_plugin.config.base import Strict
from merge3_plugin.domain import FloatArray
from merge3_plugin.errors import ConfigError
from merge3_plugin.evolve.optimizers import Settings
from merge3_plugin.evolve.optimizers.evolution import Evolution
from merge3_plugin.evolve.optimizers.extras import require
from merge3_plugin.evolve.optimizers.schemes import Differential, Fronts, Genetic, Judge, by_cost
from merge3_plugin.evolve.optimizers.variation import Variation
from merge3_plugin.evolve.spaces.variables import Variable

# A search of merges has tens to hundreds of candidates. 16 make 6 generations of the default budget of 100; with more,
# most of the budget is spent before anything is learned. A front has to be held by members, so it gets more: 24 hold
# the directions of 3 objectives (21), 4 (20), 5 (15) and 6 (21).
POPSIZE, FRONT_POPSIZE = 16, 24
# In more dimensions than these, crowding distance no longer tells what is spread out (Deb and Jain 2014).
NSGA2_OBJECTIVES = 3


class Options(Strict):
    """What every population can be told."""

    reevaluate: float = Field(0.25, ge=0, le=0.5, description="survivors asked again for each new candidate; 0: none")
    eta_mutation: float = Field(20.0, gt=0, description="polynomial mutation: greater stays nearer to the parent")


class GeneticOptions(Options):
    """Of ``ga`` and ``nsga2``."""

    eta_crossover: float = Field(15.0, gt=0, description="simulated binary crossover: greater is nearer to a parent")


class ReferenceOptions(GeneticOptions):
    """Of ``nsga3``."""

    partitions: int | None = Field(
        None, ge=1, description="of each objective, for reference directions; unset: as many as popsize can hold"
    )


class DifferentialOptions(Options):
    """Of ``de``."""

    variant: Literal["best", "rand"] = Field("best", description="the member that differences are added to")
    crossover: float = Field(0.9, gt=0, le=1, description="share of the coordinates that come from there")
    mutation: float = Field(0.1, ge=0, le=1, description="share of the trial vectors that mutate besides")


def make_ga(
    variables: Sequence[Variable], start: FloatArray, settings: Settings, rng: np.random.Generator
) -> Evolution:
    """A genetic algorithm: binary tournaments, and the best of parents and offspring survive."""
    options = settings.read(GeneticOptions)
    popsize = _popsize("ga", settings, POPSIZE)
    return _genetic(variables, start, popsize, options, by_cost, rng)


def make_nsga2(
    variables: Sequence[Variable], start: FloatArray, settings: Settings, rng: np.random.Generator
) -> Evolution:
    """NSGA-II (Deb et al., IEEE Trans. Evol. Comp. 6, 2002): survival by front, then by crowding distance."""
    options = settings.read(GeneticOptions)
    if settings.objectives > NSGA2_OBJECTIVES:
        raise ConfigError(
            f"search.optimizer: nsga2 keeps {NSGA2_OBJECTIVES} objectives apart at most, got {settings.objectives}; "
            "use nsga3"
        )
    popsize = _popsize("nsga2", settings, FRONT_POPSIZE)
    from pymoo.operators.survival.rank_and_crowding import RankAndCrowding

    return _genetic(variables, start, popsize, options, Fronts(settings.objectives, RankAndCrowding, rng), rng)


def make_nsga3(
    variables: Sequence[Variable], start: FloatArray, settings: Settings, rng: np.random.Generator
) -> Evolution:
    """NSGA-III (Deb and Jain, IEEE Trans. Evol. Comp. 18, 2014): survival by front, then by reference direction.

    The directions are Das and Dennis' (SIAM J. Optim. 8, 1998): all multiples of 1 / partitions that sum to 1.
    """
    options = settings.read(ReferenceOptions)
    popsize = _popsize("nsga3", settings, FRONT_POPSIZE)
    partitions = _partitions(settings.objectives, popsize, options.partitions)
    from pymoo.algorithms.moo.nsga3 import ReferenceDirectionSurvival
    from pymoo.util.ref_dirs import get_reference_directions

    directions = get_reference_directions("das-dennis", settings.objectives, n_partitions=partitions)

    def survival() -> Any:
        # Anew each time: it keeps the best that it ever saw of each objective, and luck would stay there for good.
        return ReferenceDirectionSurvival(directions)

    return _genetic(variables, start, popsize, options, Fronts(settings.objectives, survival, rng), rng)


def make_de(
    variables: Sequence[Variable], start: FloatArray, settings: Settings, rng: np.random.Generator
) -> Evolution:
    """Differential evolution (Storn and Price, J. Glob. Optim. 11, 1997)."""
    options = settings.read(DifferentialOptions)
    popsize = _popsize("de", settings, POPSIZE)
    variation = Variation(variables, rng, options.eta_mutation)
    scheme = Differential(variation, options.variant == "best", options.crossover, options.mutation, rng)
    return Evolution(variables, start, scheme, popsize, options.reevaluate, rng)


def _genetic(
    variables: Sequence[Variable],
    start: FloatArray,
    popsize: int,
    options: GeneticOptions,
    judge: Judge,
    rng: np.random.Generator,
) -> Evolution:
    scheme = Genetic(Variation(variables, rng, options.eta_mutation), options.eta_crossover, judge, popsize, rng)
    return Evolution(variables, start, scheme, popsize, options.reevaluate, rng)


def _popsize(name: str, settings: Settings, default: int) -> int:
    """The size of a population, once it is known that there can be one. Raises ConfigError."""
    popsize = settings.popsize or default
    if popsize < 4:
        raise ConfigError(f"search.popsize: {name} breeds from 4 candidates or more, got {popsize}")
    settings.check_budget(popsize)
    require("pymoo", name)
    return popsize


def _partitions(objectives: int, popsize: int, asked: int | None) -> int:
    """Into how many parts each objective is divided, so that a population can hold a member for each direction."""

    def directions(partitions: int) -> int:
        return math.comb(partitions + objectives - 1, objectives - 1)

    if asked is not None:
        if directions(asked) > popsize:
            raise ConfigError(
                f"search.options: {asked} partitions make {directions(asked)} reference directions, of which popsize "
                f"{popsize} cannot hold all; raise search.popsize, or lower partitions"
            )
        return asked
    # One objective has one direction; the least is a direction along each objective.
    return max((p for p in range(1, popsize + 1) if directions(p) <= popsize), default=1)
