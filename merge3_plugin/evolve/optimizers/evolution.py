"""A population that breeds at any time and is renewed by each generation of results, whichever trials they are of.

The best survivors are asked again on further items, and what is heard of them then replaces what was thought of them:
among many noisy values the best are the lucky ones, and a population that never looks twice is ruled by them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from merge3_plugin.domain import FloatArray
from merge3_plugin.evolve.optimizers import Result, Trial
from merge3_plugin.evolve.optimizers.generations import Generations
from merge3_plugin.evolve.spaces.variables import Kind, Variable, active, draw

# How often a vector that was asked before is bred, or drawn, before there is none left to try.
TRIES = 64


@dataclass(eq=False)
class Member:
    """A vector with the surest result of it; ``place`` is that in the population which it competes for, if it is one.

    ``level`` counts the further sets of items that were asked for; while ``asked``, the last of them is not heard of.
    """

    result: Result
    place: int | None = None
    level: int = 0
    asked: bool = False
    settled: bool = False

    @property
    def unsure(self) -> bool:
        """Whether asking again may tell more."""
        return not self.asked and not self.settled and any(variance > 0 for variance in self.result.variances)


class Offspring(NamedTuple):
    vector: FloatArray
    place: int | None = None


class Scheme(Protocol):
    """What makes a population this or that algorithm."""

    def breed(self, members: Sequence[Member]) -> Iterable[Offspring]:
        """A generation's offspring of a population that is not empty."""
        ...

    def survivors(self, members: Sequence[Member], newcomers: Sequence[Member], size: int) -> list[Member]:
        """At most ``size`` of both."""
        ...

    def order(self, members: Sequence[Member]) -> FloatArray:
        """A number for each, less where it is better; equal where neither is."""
        ...


class Evolution:
    """A strategy by populations of ``popsize``, under a scheme, that asks ``share`` of a population again each time."""

    def __init__(
        self,
        variables: Sequence[Variable],
        start: FloatArray,
        scheme: Scheme,
        popsize: int,
        share: float,
        rng: np.random.Generator,
    ) -> None:
        self._variables, self._start, self._scheme, self._rng = variables, start, scheme, rng
        self._popsize, self._again = popsize, math.ceil(share * popsize)
        self._choice = np.array([variable.kind is Kind.CATEGORICAL for variable in variables])
        self._conditional = any(variable.when is not None for variable in variables)
        self._generations = Generations()
        self._members: list[Member] = []
        self._of: dict[int, Member] = {}  # by trial, of those in the population
        self._places: dict[int, int | None] = {}  # of trials that are not in a generation yet
        self._twice: list[Member] = []
        self._ready: list[Offspring] | None = None
        self._seen: set[bytes] = set()
        self._asked = 0
        self._exhausted = False

    def ask(self, n: int) -> list[Trial]:
        """Survivors that are to be asked again, then the first population, then offspring of the population of now."""
        trials: list[Trial] = []
        while len(trials) < n:
            if self._twice:
                member = self._twice.pop(0)
                member.asked, member.level = True, member.level + 1
                self._of[self._asked] = member
                trials.append(Trial(self._asked, member.result.vector, member.level))
            elif (child := self._next()) is not None:
                self._places[self._asked] = child.place
                trials.append(Trial(self._asked, child.vector))
            else:
                break
            self._asked += 1
        return trials

    def tell(self, results: Sequence[Result]) -> bool:
        """Renew the population by each generation that is complete, and what is known of those that are in it."""
        new, learned = [], False
        for result in results:
            if result.trial is None:
                self._seen.add(self._key(result.vector))
                member = next((m for m in self._members if np.array_equal(m.result.vector, result.vector)), None)
            else:
                member = self._of.get(result.trial)
            if member is None:
                new.append(result)
            else:
                learned |= _revised(member, result)
        self._generations.add(new)
        while (generation := self._generations.take(self._popsize)) is not None:
            if generation:
                self._renew(generation)
                learned = True
        if learned:
            self._ready = []
        return learned

    def mean(self) -> FloatArray | None:
        """The population's centroid: of a noisy objective it is better than the best member as a rule.

        None while there is no population, among choices, which have none, and for several objectives, whose population
        is spread over a front.
        """
        if not self._members or self._choice.any() or len(self._members[0].result.values or ()) != 1:
            return None
        return self._settled(np.mean([member.result.vector for member in self._members], axis=0))

    def stop(self) -> dict[str, Any]:
        """That all there is was asked, where a space is that small."""
        return {"exhausted": self._asked} if self._exhausted else {}

    def _renew(self, generation: Sequence[Result]) -> None:
        newcomers = []
        for result in generation:
            place = None if result.trial is None else self._places.pop(result.trial, None)
            if result.values is not None:
                member = Member(result, place)
                newcomers.append(member)
                if result.trial is not None:
                    self._of[result.trial] = member
        self._members = self._scheme.survivors(self._members, newcomers, self._popsize)
        living = set(map(id, self._members))
        self._of = {number: member for number, member in self._of.items() if id(member) in living}
        order = self._scheme.order(self._members)
        better = [self._members[i] for i in np.argsort(order, kind="stable")[: math.ceil(len(order) / 2)]]
        # Of the better half those first that are the least sure.
        self._twice = sorted((m for m in better if m.unsure), key=lambda m: m.level)[: self._again]

    def _next(self) -> Offspring | None:
        """A vector that was never asked, or None where `TRIES` bring none."""
        if self._ready is None:
            self._ready = [Offspring(vector) for vector in self._first()]
        for attempt in range(2 * TRIES):
            if not self._ready and self._members and attempt < TRIES:
                self._ready = list(self._scheme.breed(self._members))
            child = self._ready.pop(0) if self._ready else Offspring(draw(self._variables, self._rng))
            if (key := self._key(child.vector)) not in self._seen:
                self._seen.add(key)
                return child
        self._exhausted = True
        return None

    def _first(self) -> list[FloatArray]:
        """The start, and draws from the whole space on the way from there: of many coordinates a draw is far from all.

        They are at every distance: of the way of each coordinate, and of the choices, each takes a share of its own.
        """
        others = self._popsize - 1
        shares = self._rng.permutation((np.arange(others) + self._rng.random(others)) / others)
        return [self._start, *(self._towards(draw(self._variables, self._rng), share) for share in shares)]

    def _towards(self, vector: FloatArray, share: float) -> FloatArray:
        between = self._start + share * (vector - self._start)
        chosen = np.where(self._rng.random(len(vector)) < share, vector, self._start)
        return self._settled(np.where(self._choice, chosen, between))

    def _settled(self, vector: FloatArray) -> FloatArray:
        return np.array([v.settled(x) for v, x in zip(self._variables, vector, strict=True)])

    def _key(self, vector: FloatArray) -> bytes:
        """The same for vectors of the same recipe."""
        if self._conditional:
            vector = np.where(active(self._variables, vector), vector, self._start)
        return (vector + 0.0).tobytes()  # -0.0 is 0.0


def _revised(member: Member, result: Result) -> bool:
    """Believe a later result of a member instead of the earlier one, unless it rests on less; whether it was."""
    member.asked = False
    earlier = member.result
    if result.values is None or result.items < earlier.items:
        # A merge that could be scored before fails for no reason of its own.
        member.settled |= result.values is None
        return False
    member.settled = 0 < result.items == earlier.items and result.trial != earlier.trial  # there are no more items
    member.result = result
    return True
