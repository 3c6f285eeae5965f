"""Variables as coordinates of R^n, in which a normal distribution can move, and back."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from merge3_plugin.domain import FloatArray
from merge3_plugin.errors import ConfigError
from merge3_plugin.evolve.spaces.variables import Kind, Variable


def quiet_cma() -> Any:
    """The package ``cma``. Importing it without matplotlib warns of plots that nobody asked for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import cma
        import cma.fitness_models
        import cma.transformations
    return cma


class Relaxed:
    """Points of R^n, one for every vector, and a vector for every point: so no point is outside any limit.

    - A real variable is one coordinate, mapped smoothly into its limits, infinite ones included, by ``cma``'s piecewise
      linear and quadratic transformation: near a limit it is no longer the identity, and limits are reached.
    - An integer variable is one coordinate, rounded.
    - A categorical variable of K choices is K coordinates, of which the greatest says what is chosen: an order among
      choices, which the codes 0 to K - 1 would make, is none. The same transformation takes them into [0, 1], so that
      none leads by more than 1 and others can catch up.

    A variable that has one value only has no coordinate. Raises ConfigError where there is none that has more.
    """

    def __init__(self, variables: Sequence[Variable]) -> None:
        self._fixed = np.array([variable.low for variable in variables], dtype=np.float64)
        self._variables = variables
        self.integers: list[int] = []  # coordinates of integer variables
        self._plain: list[tuple[int, int]] = []  # variable, coordinate
        self._choices: list[tuple[int, slice]] = []  # variable, its coordinates
        boxes: list[tuple[float | None, float | None]] = []
        widths: list[float] = []
        for number, variable in enumerate(variables):
            if variable.low == variable.high:
                continue
            if variable.kind is Kind.CATEGORICAL:
                k = len(variable.choices)
                self._choices.append((number, slice(len(boxes), len(boxes) + k)))
                boxes += [(0.0, 1.0)] * k
                widths += [2.0] * k  # so that the first step of 1/6 makes one standard deviation of _LEAD
                continue
            self._plain.append((number, len(boxes)))
            if variable.kind is Kind.INTEGER:
                self.integers.append(len(boxes))
                boxes.append((None, None))
            else:
                boxes.append((_finite(variable.low), _finite(variable.high)))
            low, high = variable.spread
            widths.append(high - low)
        if not boxes:
            raise ConfigError("search space: expected a gene that can vary, got none; widen its bounds")
        if len(boxes) == 1:  # cma fails in one dimension: a second one that no vector depends on
            boxes.append((None, None))
            widths.append(1.0)
        self.size = len(boxes)
        self.widths = np.array(widths)
        self._box = quiet_cma().transformations.BoxConstraintsLinQuadTransformation(boxes)
        self._choosing = np.zeros(self.size, dtype=bool)  # the coordinates of choices
        for _, coordinates in self._choices:
            self._choosing[coordinates] = True
        self._lowest, self._highest = self._limits()

    def vector(self, point: FloatArray) -> FloatArray:
        """The vector of a point of shape (size,), inside all limits."""
        boxed = self._box(self.drawn(point))
        vector = self._fixed.copy()
        for number, coordinate in self._plain:
            vector[number] = self._variables[number].settled(float(boxed[coordinate]))
        for number, coordinates in self._choices:
            vector[number] = np.argmax(boxed[coordinates])
        return vector

    def point(self, vector: FloatArray) -> FloatArray:
        """A point of this vector: of a choice, 1 for it and 0 for the others. What is outside limits is settled."""
        return self._at(vector, others=0.0, chosen=1.0)

    def start(self, vector: FloatArray) -> FloatArray:
        """A point of this vector where a search can begin: of a choice, it leads the others by little."""
        return self._at(vector, others=(1 - _LEAD) / 2, chosen=(1 + _LEAD) / 2)

    def drawn(self, point: FloatArray) -> FloatArray:
        """The point to learn from, of the same vector: of numbers, the nearest inside their limits.

        The transformation goes on periodically beyond, so an optimum has images there: a wide distribution, which sees
        two of them, settles between, on a limit (under noise, at many times the distance from the optimum).
        """
        return np.where(self._choosing, point, self.inside(point))

    def inside(self, point: FloatArray) -> FloatArray:
        """The nearest point where the map to vectors is one to one, but for rounding and choosing."""
        return np.clip(point, self._lowest, self._highest)

    def least_deviations(self) -> FloatArray:
        """The least standard deviations, shape (size,), with which no choice is ever out of reach; 0 where none is set.

        With the chosen coordinate at 1 and the others at 0, all choices together change in as many draws as integers
        would under the bound of Marty et al. (LB+IC-CMA-ES, PPSN 2024), as ``cma`` sets it.
        """
        least = np.zeros(self.size)
        n = len(self._choices)
        for _, coordinates in self._choices:
            others = coordinates.stop - coordinates.start - 1
            quantile = NormalDist().inv_cdf(2 / (2 + self.size + n) / others)
            least[coordinates] = min(_LEAD, 1 / (math.sqrt(2) * -quantile)) if quantile < 0 else _LEAD
        return least

    def greatest_deviations(self) -> FloatArray:
        """The standard deviations, shape (size,), beyond which a draw is from all over the limits; infinite without."""
        greatest = np.full(self.size, np.inf)
        for number, coordinate in self._plain:
            greatest[coordinate] = (self._variables[number].high - self._variables[number].low) / 3
        greatest[self.integers] += 1 / 3  # half a step beyond each limit
        greatest[self._choosing] = 1 / 3
        return greatest

    def _limits(self) -> tuple[FloatArray, FloatArray]:
        """The lowest and the highest coordinates inside the limits."""
        self._box.initialize()
        lowest, highest = self._box._lb - self._box._al, self._box._ub + self._box._au
        for number, coordinate in self._plain:
            if self._variables[number].kind is Kind.INTEGER:
                lowest[coordinate] = self._variables[number].low - 0.5
                highest[coordinate] = self._variables[number].high + 0.5
        return lowest, highest

    def _at(self, vector: FloatArray, *, others: float, chosen: float) -> FloatArray:
        point = np.zeros(self.size)
        for number, coordinate in self._plain:
            point[coordinate] = self._variables[number].settled(vector[number])
        for number, coordinates in self._choices:
            point[coordinates] = others
            point[coordinates.start + int(self._variables[number].settled(vector[number]))] = chosen
        found: FloatArray = np.asarray(self._box.inverse(point), dtype=np.float64)
        return found


# How far the choice of a start leads the others: a standard deviation of the first generation at a step of 1/6.
_LEAD = 1 / 3


def _finite(limit: float) -> float | None:
    return limit if math.isfinite(limit) else None
