"""Search strategies behind one ask/tell contract, with no barrier between generations.

A strategy hands out trials whenever it is asked, and hears of results in whatever order they come. One that works in
generations collects the first ``popsize`` results, whichever trials they are of, and learns from them together. With
the same settings, generator and sequence of asks and tells it gives the same trials, bit for bit: so the record's
sequence, replayed, is a resume.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from merge3_plugin.domain import FloatArray
from merge3_plugin.evolve.spaces.variables import Variable


@dataclass(frozen=True, eq=False)
class Trial:
    """A vector to score: ``number`` counts a strategy's trials from 0.

    ``level`` asks for so many further sets of items, as many each as there are anchors: a vector that comes again at a
    higher level is scored on new items, and its value gets surer.
    """

    number: int
    vector: FloatArray
    level: int = 0


@dataclass(frozen=True, eq=False)
class Result:
    """What is known of a vector; ``trial`` is None for one that was not asked (a parent, another run's best).

    ``values`` are to be maximised, one an objective, with their ``variances``; None where the evaluation failed.
    ``violation`` is 0 where every constraint holds, else how far they are broken: then values do not count.
    ``tie_breaker`` decides between equal values. The values rest on ``items`` item evaluations, of which ``cost``
    were paid for this result. A later result of the same trial, on more items, replaces the earlier one.
    """

    trial: int | None
    vector: FloatArray
    values: tuple[float, ...] | None
    variances: tuple[float, ...] = ()
    violation: float = 0.0
    tie_breaker: float = 0.0
    items: int = 0
    cost: int = 0


@dataclass(frozen=True)
class Settings:
    """What a strategy is made with; ``options`` are its own, of which it refuses unknown ones with ConfigError.

    ``budget`` is how many trials the search may ask, ``objectives`` how many values each result has.
    """

    budget: int
    popsize: int | None = None
    sigma0: float = 1 / 6
    objectives: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)


class Optimizer(Protocol):
    """A strategy at work."""

    def ask(self, n: int) -> list[Trial]:
        """The next trials, at most ``n``; fewer, or none, where the strategy has no more until it is told."""
        ...

    def tell(self, results: Sequence[Result]) -> bool:
        """Take results in; whether the strategy has learned, so that its next trials may differ."""
        ...

    def mean(self) -> FloatArray | None:
        """The centre of the distribution, where the strategy has one: under noise often better than the best seen."""
        ...

    def stop(self) -> Mapping[str, Any]:
        """Why it has nothing more to try, or nothing."""
        ...


# Makes a strategy for these variables, to start at this vector.
Factory = Callable[[Sequence[Variable], FloatArray, Settings, np.random.Generator], Optimizer]


def make_optimizer(
    name: str, variables: Sequence[Variable], start: FloatArray, settings: Settings, rng: np.random.Generator
) -> Optimizer:
    """The strategy of this name. Raises ConfigError for an unknown one, or for settings that it refuses."""
    if name == "random":
        from merge3_plugin.evolve.optimizers.random_search import RandomSearch

        return RandomSearch(variables, rng)
    from merge3_plugin.evolve.optimizers.cma_es import CmaEs

    return CmaEs(variables, start, settings, rng)
