"""Random search: the baseline that any strategy has to beat at equal cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from merge3_plugin.domain import FloatArray


class RandomSearch:
    """Ask/tell that learns nothing: every candidate is a fresh ``draw`` from the whole space."""

    def __init__(
        self, draw: Callable[[np.random.Generator], FloatArray], popsize: int, rng: np.random.Generator
    ) -> None:
        self._draw, self._popsize, self._rng = draw, popsize, rng

    def ask(self) -> list[FloatArray]:
        """The next ``popsize`` vectors."""
        return [self._draw(self._rng) for _ in range(self._popsize)]

    def tell(self, vectors: Sequence[FloatArray], costs: Sequence[float | None]) -> bool:
        """Whether any candidate could be scored."""
        return any(cost is not None for cost in costs)

    def mean(self) -> None:
        """None: the centre of the space is no finding of the search."""

    def stop(self) -> dict[str, float]:
        """Nothing: it never converges."""
        return {}
