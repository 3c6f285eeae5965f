"""Grid search: every combination of a few values of each gene, the plainest baseline there is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from merge3_plugin.config.base import Strict
from merge3_plugin.domain import FloatArray
from merge3_plugin.errors import ConfigError
from merge3_plugin.evolve.optimizers import Result, Settings, Trial
from merge3_plugin.evolve.spaces.variables import Kind, Variable


class GridSearch:
    """A full factorial design over the spreads, as fine as known vectors leave of the budget, in random order.

    Real genes get as many levels as each other, both ends among them; integers as many, or all they have if those are
    fewer; choices all they have. In random order, so that a search that is broken off has seen no corner alone.
    Raises ConfigError where that does not pay for two values each, and for any option.
    """

    def __init__(
        self, variables: Sequence[Variable], start: FloatArray, settings: Settings, rng: np.random.Generator
    ) -> None:
        settings.read(Strict)  # it has no options
        needed, left = _size(variables, 2), settings.budget - settings.known
        if needed > left:
            beside = f" of {settings.budget}, less {settings.known} known merges" if settings.known else ""
            raise ConfigError(
                f"search.optimizer: grid needs {needed:.6g} candidates for two values each of {len(variables)} genes, "
                f"got {left}{beside}; raise search.max_fevals, fix some genes, or choose random"
            )
        levels = 2
        while needed < _size(variables, levels + 1) <= left:
            levels, needed = levels + 1, _size(variables, levels + 1)
        self._axes = [_values(variable, levels) for variable in variables]
        self._order = rng.permutation(needed)
        self._asked = 0

    def ask(self, n: int) -> list[Trial]:
        """The next ``n`` combinations, fewer where fewer are left."""
        first = self._asked
        self._asked = min(first + n, len(self._order))
        return [Trial(number, self._point(int(self._order[number]))) for number in range(first, self._asked)]

    def tell(self, results: Sequence[Result]) -> bool:
        """True: there is no generation to wait for."""
        return True

    def mean(self) -> None:
        """None: the centre of the grid is no finding of the search."""

    def stop(self) -> dict[str, Any]:
        """How many combinations there were, once all are asked."""
        return {"grid": len(self._order)} if self._asked == len(self._order) else {}

    def _point(self, number: int) -> FloatArray:
        vector = np.empty(len(self._axes))
        for place, axis in enumerate(self._axes):
            number, level = divmod(number, len(axis))
            vector[place] = axis[level]
        return vector


def _count(variable: Variable, levels: int) -> int:
    low, high = variable.spread
    if variable.kind is Kind.CATEGORICAL:
        return len(variable.choices)
    if variable.kind is Kind.INTEGER:
        return min(levels, int(high - low) + 1)
    return levels if low < high else 1


def _size(variables: Sequence[Variable], levels: int) -> int:
    return math.prod(_count(variable, levels) for variable in variables)


def _values(variable: Variable, levels: int) -> FloatArray:
    """Evenly spaced values, both ends among them; the only one where there is one."""
    if variable.kind is Kind.CATEGORICAL:
        return np.arange(len(variable.choices), dtype=np.float64)
    values = np.linspace(*variable.spread, _count(variable, levels))
    return np.array([variable.settled(value) for value in values])
