"""Parameters of optuna's kinds as points of a cube, where a Gaussian process measures distances."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from merge3_plugin.domain import FloatArray


class Cube:
    """A column from 0 to 1 for each real, then for each whole number; then one for each choice of each choice.

    Columns of choices are 0 but for the one chosen, at a height that keeps any two of them one apart. ``reals`` counts
    the columns of reals, ``discrete`` has the columns of each of the others; ``owner`` (columns,) is the parameter that
    a column belongs to.
    """

    def __init__(self, distributions: Sequence[BaseDistribution]) -> None:
        kinds = (FloatDistribution, IntDistribution, CategoricalDistribution)
        reals, wholes, choices = ([i for i, d in enumerate(distributions) if isinstance(d, kind)] for kind in kinds)
        numbers = [distributions[i] for i in reals + wholes]
        self._numbers, self._choices, self.reals = reals + wholes, choices, len(reals)
        self._low = np.array([d.low for d in numbers], dtype=float)
        self._high = np.array([d.high for d in numbers], dtype=float)
        self._span = self._high - self._low
        widths = [len(distributions[i].choices) for i in choices]
        self._edges = np.cumsum([len(numbers), *widths])
        self.discrete = [slice(column, column + 1) for column in range(self.reals, len(numbers))]
        self.discrete += [slice(first, end) for first, end in pairwise(self._edges)]
        self.owner = np.array(self._numbers + np.repeat(choices, widths).tolist(), dtype=np.intp)

    def points(self, coordinates: FloatArray) -> FloatArray:
        """Of parameters by optuna's numbers for them (k, parameters): their points (k, columns)."""
        chosen = [
            np.eye(last - first)[coordinates[:, i].astype(int)] * np.sqrt(0.5)
            for i, (first, last) in zip(self._choices, pairwise(self._edges), strict=True)
        ]
        span = np.where(self._span > 0, self._span, 1.0)
        return np.hstack([(coordinates[:, self._numbers] - self._low) / span, *chosen])

    def coordinates(self, point: FloatArray) -> FloatArray:
        """Of one point (columns,), the nearest parameters there, by optuna's numbers for them."""
        found = np.empty(len(self._numbers) + len(self._choices))
        numbers = self._low + self._span * point[: len(self._numbers)]
        numbers[self.reals :] = np.round(numbers[self.reals :])
        found[self._numbers] = np.clip(numbers, self._low, self._high)  # not above by rounding
        found[self._choices] = [np.argmax(point[first:last]) for first, last in pairwise(self._edges)]
        return found

    def draws(self, rng: np.random.Generator, n: int) -> FloatArray:
        """Points at random, (n, columns)."""
        numbers, widths = rng.random((n, len(self._numbers))), np.diff(self._edges)
        counts = self._span[self.reals :] + 1
        numbers[:, self.reals :] = np.floor(numbers[:, self.reals :] * counts) / np.maximum(counts - 1, 1)
        coordinates = np.empty((n, len(self._numbers) + len(self._choices)))
        coordinates[:, self._numbers] = self._low + numbers * self._span
        coordinates[:, self._choices] = rng.integers(widths, size=(n, len(widths)))
        return self.points(coordinates)

    def neighbours(self, point: FloatArray, columns: slice) -> FloatArray:
        """Points (k, columns) with another of these choices, or with this whole number a power of two away."""
        if columns.start < len(self._numbers):
            last = int(self._span[columns.start])
            here, steps = round(point[columns.start] * last), 2 ** np.arange(last.bit_length())
            there = np.concatenate([here - steps, here + steps])
            there = there[(there >= 0) & (there <= last)]
            found = np.repeat(point[None], len(there), axis=0)
            found[:, columns.start] = there / max(last, 1)
            return found
        others = columns.start + np.flatnonzero(point[columns] == 0)
        found = np.repeat(point[None], len(others), axis=0)
        found[:, columns] = 0
        found[np.arange(len(others)), others] = np.sqrt(0.5)
        return found
