"""Random search: the baseline that any strategy has to beat at equal cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from merge3_plugin.config.base import Strict
from merge3_plugin.domain import FloatArray
from merge3_plugin.evolve.optimizers import Result, Settings, Trial
from merge3_plugin.evolve.spaces.variables import Variable, draw


class RandomSearch:
    """Every trial is a fresh draw from the whole space; results teach nothing."""

    def __init__(
        self, variables: Sequence[Variable], start: FloatArray, settings: Settings, rng: np.random.Generator
    ) -> None:
        settings.read(Strict)  # it has no options
        self._variables, self._rng = variables, rng
        self._asked = 0

    def ask(self, n: int) -> list[Trial]:
        """``n`` trials."""
        first = self._asked
        self._asked += n
        return [Trial(number, draw(self._variables, self._rng)) for number in range(first, self._asked)]

    def tell(self, results: Sequence[Result]) -> bool:
        """True: there is no generation to wait for."""
        return True

    def mean(self) -> None:
        """None: the centre of the space is no finding of the search."""

    def stop(self) -> dict[str, float]:
        """Nothing: it never ends."""
        return {}
