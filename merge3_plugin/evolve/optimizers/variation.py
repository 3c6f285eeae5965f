"""Offspring of vectors of real, whole and categorical coordinates, by pymoo's operators on whole generations at once.

Real coordinates get simulated binary crossover and polynomial mutation (Deb and Agrawal 1995; Deb and Goyal 1996).
Whole ones get the same and are rounded, and where a mutation moved one, it moves by a step at least: rounded to the
nearest, most would be where they were. Choices have no order: they are exchanged by uniform crossover and mutate into
any other choice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from merge3_plugin.domain import FloatArray
from merge3_plugin.evolve.spaces.variables import Kind, Variable

CROSSOVER = 0.9  # share of matings that are crossed at all
MUTATION = 0.9  # share of offspring that may mutate
CROSSED = 0.5  # share of the coordinates that a crossing changes


class Variation:
    """Makes offspring, shape (n, dimension), that are whole numbers and choices where their variables are.

    ``eta`` is polynomial mutation's: the greater, the shorter its steps.
    """

    def __init__(self, variables: Sequence[Variable], rng: np.random.Generator, eta: float) -> None:
        self._rng, self._eta = rng, eta
        kinds = np.array([variable.kind for variable in variables])
        self._whole, self._choice = kinds == Kind.INTEGER, kinds == Kind.CATEGORICAL
        self._ordered = np.flatnonzero(~self._choice)
        self._low, self._high = np.array([variable.spread for variable in variables], dtype=np.float64).T
        self._limits = np.array([(variable.low, variable.high) for variable in variables], dtype=np.float64).T
        self._choices = np.array([len(variable.choices) for variable in variables])[self._choice]
        # About one coordinate of each offspring mutates, as pymoo has it.
        self._rate = min(0.5, 1 / len(variables))

    def mated(self, parents: FloatArray, eta: float) -> FloatArray:
        """Two offspring of each of the pairs of ``parents``, shape (2, pairs, dimension), by crossover of this eta."""
        return self.mutated(self._crossed(parents, eta).reshape(-1, parents.shape[-1]), MUTATION)

    def differed(self, target: FloatArray, parents: FloatArray, rate: float) -> FloatArray:
        """Differential evolution's trial vectors (Storn and Price 1997): one for each row of ``target``.

        ``parents`` are (3, n, dimension): a base, and two whose difference is added to it, by a factor in [0.5, 1)
        drawn for each. Of each trial vector about ``rate`` of the coordinates come from there, one at least. A choice
        has no differences: it is that of any of the three.
        """
        from pymoo.operators.crossover.binx import mut_binomial
        from pymoo.operators.crossover.dex import de_differential, rnd_F
        from pymoo.operators.repair.bounds_repair import repair_random_init

        n, dimension = target.shape
        low, high = self._box(np.concatenate([target[None], parents]))
        donor = de_differential(parents, rnd_F(np.arange(n), random_state=self._rng), jitter=False)
        donor = repair_random_init(donor, parents[0], low, high, random_state=self._rng)
        whose = self._rng.integers(3, size=(n, dimension))
        donor = np.where(self._choice, np.take_along_axis(parents, whose[None], axis=0)[0], donor)
        taken = mut_binomial(n, dimension, rate, at_least_once=True, random_state=self._rng)
        return self._settled(np.where(taken, donor, target))

    def mutated(self, vectors: FloatArray, share: float) -> FloatArray:
        """The vectors, of which ``share`` may have mutated."""
        from pymoo.operators.mutation.pm import mut_pm

        n, columns = len(vectors), self._ordered
        found = vectors.copy()
        if len(columns):
            low, high = self._box(vectors)
            moved = mut_pm(
                vectors[:, columns],
                low[columns],
                high[columns],
                np.full(n, self._eta),
                np.full(n, self._rate),
                False,
                random_state=self._rng,
            )
            step = moved - vectors[:, columns]
            whole = vectors[:, columns] + np.copysign(np.ceil(np.abs(step)), step)
            found[:, columns] = np.where(self._whole[columns], whole, moved)
        if self._choice.any():
            # Another choice than now: so many places further, round the corner.
            further = self._rng.integers(1, np.maximum(self._choices, 2), size=(n, len(self._choices)))
            now = vectors[:, self._choice]
            reset = self._rng.random(now.shape) < self._rate
            found[:, self._choice] = np.where(reset, (now + further) % self._choices, now)
        may = self._rng.random((n, 1)) < share
        return self._settled(np.where(may, found, vectors))

    def _crossed(self, parents: FloatArray, eta: float) -> FloatArray:
        """Two offspring a pair, shape (2, pairs, dimension)."""
        from pymoo.operators.crossover.sbx import cross_sbx

        _, pairs, dimension = parents.shape
        low, high = self._box(parents)
        found = parents.copy()
        if len(columns := self._ordered):
            found[..., columns] = cross_sbx(
                parents[..., columns],
                low[columns],
                high[columns],
                np.full((pairs, 1), eta),
                np.full((pairs, 1), CROSSED),
                np.full((pairs, 1), 0.5),  # as often one child near a parent as the other
                random_state=self._rng,
            )
        exchanged = (self._rng.random((pairs, dimension)) < 0.5) & self._choice
        found = np.where(exchanged, found[::-1], found)
        crossed = self._rng.random((pairs, 1)) < CROSSOVER
        return self._settled(np.where(crossed, found, parents))

    def _box(self, vectors: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The interval of each coordinate: what is searched, widened to hold the vectors that come from elsewhere."""
        flat = vectors.reshape(-1, vectors.shape[-1])
        return np.minimum(self._low, flat.min(axis=0)), np.maximum(self._high, flat.max(axis=0))

    def _settled(self, vectors: FloatArray) -> FloatArray:
        """`Variable.settled` of every coordinate."""
        rounded = np.where(self._whole | self._choice, np.floor(vectors + 0.5), vectors)
        return np.clip(rounded, *self._limits)
