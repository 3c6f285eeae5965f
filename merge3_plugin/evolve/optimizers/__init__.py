"""Search strategies behind one ask/tell contract, with no barrier between generations.

A strategy hands out trials whenever it is asked, and hears of results in whatever order they come. One that works in
generations collects the first ``popsize`` results, whichever trials they are of, and learns from them together. With
the same settings, generator and sequence of asks and tells it gives the same trials, bit for bit: so the record's
sequence, replayed, is a resume.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
from pydantic import ValidationError

from merge3_plugin.config.base import Strict, complaint
from merge3_plugin.domain import FloatArray
from merge3_plugin.errors import ConfigError, nearest
from merge3_plugin.evolve.spaces.variables import Variable
from merge3_plugin.plugins import plugin_host

T = TypeVar("T", bound=Strict)


@dataclass(frozen=True, eq=False)
class Trial:
    """A vector to score: ``number`` counts a strategy's trials from 0.

    ``level`` asks for so many further sets of items, as many each as there are anchors: a vector that comes again at a
    higher level is scored on new items, and its value gets surer.

    Trials of one ``batch`` (a generation, as a rule) are scored on the same anchors, so that they can be told apart;
    the next batch gets anchors of its own. One set of few anchors for a whole search is fitted, like any other small
    sample; sets that change are not. A strategy that compares all its trials with each other stays in batch 0.
    """

    number: int
    vector: FloatArray
    level: int = 0
    batch: int = 0


@dataclass(frozen=True, eq=False)
class Result:
    """What is known of a vector; ``trial`` is None for one that was not asked (a parent, another run's best).

    ``values`` are to be maximised, one an objective, with their ``variances``; None where the evaluation failed.
    ``disagreements`` are by value half the difference between what two halves of the items say. Within a batch they
    vary as the values' errors do beside each other, which may be much less than each by itself: items are shared.
    ``violation`` is 0 where every constraint holds, else how far they are broken: then values do not count.
    ``tie_breaker`` decides between equal values. The values rest on ``items`` item evaluations, of which ``cost``
    were paid for this result. A later result of the same trial, on more items, replaces the earlier one.
    """

    trial: int | None
    vector: FloatArray
    values: tuple[float, ...] | None
    variances: tuple[float, ...] = ()
    disagreements: tuple[float, ...] = ()
    violation: float = 0.0
    tie_breaker: float = 0.0
    items: int = 0
    cost: int = 0


@dataclass(frozen=True)
class Settings:
    """What a strategy is made with; ``options`` are its own, of which it refuses unknown ones with ConfigError.

    ``budget`` is how many trials the search may ask, by the ``limit`` of the config that is named so, less the
    ``known`` vectors that are scored before them; ``objectives`` how many values each result has.
    """

    budget: int
    popsize: int | None = None
    sigma0: float = 1 / 6
    objectives: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    limit: str = "search.max_fevals"
    known: int = 0

    def read(self, options: type[T]) -> T:
        """``options`` as this model of them. Raises ConfigError that names what is unknown or wrong."""
        try:
            return options.model_validate(dict(self.options))
        except ValidationError as error:
            raise ConfigError(f"search.options: {complaint(error)}") from None

    def check_budget(self, popsize: int) -> None:
        """Raise ConfigError where the budget ends before the first generation of ``popsize`` trials does."""
        if self.budget < popsize:
            raise ConfigError(
                f"{self.limit}: expected at least one generation of {popsize} candidates, got {self.budget}; "
                "raise it, or lower search.popsize"
            )


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
    """The strategy of this name. Raises ConfigError for an unknown one, or for settings that it refuses.

    Cheap, and of the same outcome with any generator: call it before a model is loaded to hear of a mistake.
    """
    known = plugin_host().optimizers()
    if name not in known:
        raise ConfigError(f"search.optimizer: expected a strategy, got {name!r}{nearest(name, known)}")
    if settings.objectives > 1 and not known[name].several_objectives:
        able = sorted(other for other, entry in known.items() if entry.several_objectives)
        raise ConfigError(
            f"search.optimizer: expected a strategy for {settings.objectives} objectives ({', '.join(able)}), "
            f"got {name}; or let search.scalarisation make one objective of them"
        )
    optimizer: Optimizer = known[name].factory(variables, start, settings, rng)
    return optimizer
