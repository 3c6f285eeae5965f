"""Search strategies behind one ask/tell contract; costs are minimised, and only their ranks matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from merge3_plugin.config import SearchConfig
from merge3_plugin.domain import FloatArray

if TYPE_CHECKING:
    from merge3_plugin.evolve.space import SearchSpace


class Optimizer(Protocol):
    """Same generator state and same tells: same asks, bit for bit. So a replay of the record is a resume."""

    def ask(self) -> list[FloatArray]:
        """The next generation of vectors; asking again without a tell draws afresh."""
        ...

    def tell(self, vectors: Sequence[FloatArray], costs: Sequence[float | None]) -> bool:
        """Learn from a generation and from vectors scored beside it; False where there was nothing to learn from."""
        ...

    def mean(self) -> FloatArray | None:
        """The centre of the distribution, where the strategy has one."""
        ...

    def stop(self) -> Mapping[str, Any]:
        """Why it has converged, or nothing."""
        ...


def make_optimizer(settings: SearchConfig, space: SearchSpace, x0: FloatArray, rng: np.random.Generator) -> Optimizer:
    """The strategy that the config names, started at ``x0``."""
    if settings.optimizer == "random":
        from merge3_plugin.evolve.optimizers.random_search import RandomSearch

        return RandomSearch(space.random, settings.popsize or 10, rng)
    from merge3_plugin.evolve.optimizers.cma_es import CmaEs

    return CmaEs(x0, settings.sigma0, popsize=settings.popsize, rng=rng)
