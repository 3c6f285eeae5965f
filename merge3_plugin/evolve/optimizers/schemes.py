"""What makes a population a genetic algorithm, NSGA-II or NSGA-III, or differential evolution."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from merge3_plugin.domain import FloatArray
from merge3_plugin.evolve.optimizers import Result
from merge3_plugin.evolve.optimizers.evolution import Member, Offspring
from merge3_plugin.evolve.optimizers.generations import costs
from merge3_plugin.evolve.optimizers.variation import Variation


class Verdict(NamedTuple):
    """Places of the survivors, and a number for each of them: less where it is better."""

    kept: list[int]
    order: FloatArray


# The verdict over results that did not fail, of which so many are to survive.
Judge = Callable[[Sequence[Result], int], Verdict]


def by_cost(results: Sequence[Result], size: int) -> Verdict:
    """The best of one objective."""
    cost = np.array(costs(results))
    kept = np.argsort(cost, kind="stable")[:size]
    return Verdict(kept.tolist(), cost[kept])


class Fronts:
    """The best of several objectives, by pymoo's ``survival``, of which each verdict makes one.

    Broken constraints rank behind all that hold. Of equals in all objectives, the one of lower tie-breaker is taken for
    dominated.
    """

    def __init__(self, objectives: int, survival: Callable[[], Any], rng: np.random.Generator) -> None:
        from pymoo.core.problem import Problem

        self._survival, self._rng = survival, rng
        self._problem = Problem(n_var=1, n_obj=objectives, n_ieq_constr=1)  # constrained: violations count

    def __call__(self, results: Sequence[Result], size: int) -> Verdict:
        from pymoo.core.population import Population

        with warnings.catch_warnings():  # pymoo silences warnings, its own and the process's
            warnings.simplefilter("ignore")
            violation = np.array([result.violation for result in results])
            found = Population.new(F=_losses(results), CV=violation[:, None], place=np.arange(len(results)))
            kept = self._survival().do(self._problem, found, n_survive=size, random_state=self._rng)
        # The members of a front whose neighbours are far are better. Reference directions need no such help.
        keys = [
            (m.CV[0], 0, 0.0) if m.CV[0] > 0 else (0.0, m.get("rank"), -(m.data.get("crowding") or 0.0)) for m in kept
        ]
        order = np.unique(np.array(keys, dtype=np.float64), axis=0, return_inverse=True)[1].ravel()
        return Verdict(kept.get("place").tolist(), order.astype(np.float64))


def _losses(results: Sequence[Result]) -> FloatArray:
    """What is minimised, shape (results, objectives)."""
    losses = -np.array([result.values for result in results], dtype=np.float64)
    by_values = sorted(range(len(results)), key=lambda i: (results[i].values, results[i].tie_breaker), reverse=True)
    for better, worse in pairwise(by_values):
        a, b = results[better], results[worse]
        if a.values == b.values:
            losses[worse] = losses[better]
            if a.tie_breaker > b.tie_breaker:
                losses[worse] = np.nextafter(losses[better], math.inf)
    return losses


class Genetic:
    """Offspring of parents that won binary tournaments; the best of them all survive."""

    def __init__(self, variation: Variation, eta: float, judge: Judge, popsize: int, rng: np.random.Generator) -> None:
        from pymoo.operators.selection.tournament import TournamentSelection

        self._variation, self._eta, self._judge, self._rng = variation, eta, judge, rng
        self._pairs = math.ceil(popsize / 2)
        self._tournaments = TournamentSelection(_winners)

    def breed(self, members: Sequence[Member]) -> Iterable[Offspring]:
        vectors = np.array([member.result.vector for member in members])
        parents = self._tournaments.do(
            None, vectors, self._pairs, 2, to_pop=False, random_state=self._rng, order=self.order(members)
        )
        return map(Offspring, self._variation.mated(vectors[parents.T], self._eta))

    def survivors(self, members: Sequence[Member], newcomers: Sequence[Member], size: int) -> list[Member]:
        everyone = [*members, *newcomers]
        return [everyone[i] for i in self._judge([m.result for m in everyone], size).kept]

    def order(self, members: Sequence[Member]) -> FloatArray:
        verdict = self._judge([member.result for member in members], len(members))
        order = np.empty(len(members))
        order[verdict.kept] = verdict.order
        return order


def _winners(_: FloatArray, rivals: Any, order: FloatArray, **_unused: Any) -> Any:
    """Of each row of two indices, drawn in random order, the better; the first of equals. Shape (tournaments, 1)."""
    a, b = rivals.T
    return np.where(order[a] <= order[b], a, b)[:, None]


class Differential:
    """One trial vector for each member; it takes that member's place where it is no worse.

    The scaled difference of two members is added to a random third, or to the best where ``best``.
    """

    def __init__(
        self, variation: Variation, best: bool, crossover: float, mutation: float, rng: np.random.Generator
    ) -> None:
        self._variation, self._best, self._rng = variation, best, rng
        self._crossover, self._mutation = crossover, mutation

    def breed(self, members: Sequence[Member]) -> Iterable[Offspring]:
        from pymoo.operators.selection.rnd import fast_fill_random

        n = len(members)
        vectors = np.array([member.result.vector for member in members])
        chosen = np.zeros((n, 3), dtype=int)
        fast_fill_random(chosen, n, Xp=np.arange(n)[:, None], random_state=self._rng)
        if self._best:
            chosen[:, 0] = np.argmin(self.order(members))
        found = self._variation.differed(vectors, vectors[chosen.T], self._crossover)
        found = self._variation.mutated(found, self._mutation)
        return [Offspring(found[place], place) for place in self._rng.permutation(n)]

    def survivors(self, members: Sequence[Member], newcomers: Sequence[Member], size: int) -> list[Member]:
        found = list(members)
        for newcomer in newcomers:
            if len(found) < size:
                found.append(newcomer)
                continue
            # One that was made for no place (a first draw that came late, a known point) competes with the worst.
            place = int(np.argmax(self.order(found))) if newcomer.place is None else newcomer.place
            old, new = costs([found[place].result, newcomer.result])
            if new <= old:
                found[place] = newcomer
        return found

    def order(self, members: Sequence[Member]) -> FloatArray:
        return np.array(costs([member.result for member in members]))
