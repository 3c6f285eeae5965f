"""Successive halving without a barrier, and Hyperband: brackets of it that start on different rungs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from merge3_plugin.evolve.fidelity.strategies import Promotion
from merge3_plugin.evolve.optimizers import Trial
from merge3_plugin.evolve.search import Scored


@dataclass
class _Standing:
    """Who was scored on one rung of one bracket and batch, by rank, and who has gone up from it."""

    ranks: dict[int, tuple[float, ...]] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)


class Halving:
    """The best ``1 / eta`` of each rung so far go up (ASHA: Li et al., arXiv 1810.05934).

    Nobody waits for a rung to fill. Trials are compared with those of their batch, which answered the same items, so
    that the difference of two estimates is a paired one. ``starts`` says for each bracket its first rung and how many
    trials it gets for each round of all brackets; a whole batch goes to one, where there are batches.
    """

    def __init__(self, eta: int, starts: Sequence[tuple[int, int]]) -> None:
        self._eta, self._starts = eta, starts
        self._begun = [0] * len(starts)
        self._bracket_of: dict[int, int] = {}  # by trial
        self._bracket_now = (0, 0)  # batch, bracket
        self._batch_of: dict[int, int] = {}
        self._standings: defaultdict[tuple[int, int, int], _Standing] = defaultdict(_Standing)

    def start(self, trial: Trial, batch: int) -> int:
        before, bracket = self._bracket_now
        if batch == 0 or batch != before:
            bracket = max(range(len(self._starts)), key=lambda b: (self._lack(b), -b))
        self._bracket_now = (batch, bracket)
        self._begun[bracket] += 1
        self._bracket_of[trial.number], self._batch_of[trial.number] = bracket, batch
        return self._starts[bracket][0]

    def hear(self, trial: int, entry: Scored, incumbent: Scored | None) -> None:
        if trial in self._bracket_of:  # one that was asked for more than all anchors is in no bracket
            rank = (-math.inf,) if entry.assessment is None else entry.assessment.rank
            self._standing(trial, entry.rung).ranks[trial] = rank

    def promote(self) -> Promotion | None:
        """The best one of the highest rung that is due to go up; of equals, the earlier trial."""
        below = [key for key in self._standings if key[2] < 0]
        for key in sorted(below, key=lambda key: (-key[2], key)):
            standing = self._standings[key]
            due = sorted(standing.ranks, key=lambda trial: (standing.ranks[trial], -trial), reverse=True)
            for trial in due[: len(due) // self._eta]:
                if trial not in standing.gone and standing.ranks[trial] > (-math.inf,):
                    standing.gone.add(trial)
                    return Promotion(trial, key[2] + 1)
        return None

    def _standing(self, trial: int, rung: int) -> _Standing:
        return self._standings[self._bracket_of[trial], self._batch_of[trial], rung]

    def _lack(self, bracket: int) -> float:
        """By how many trials the bracket is behind its share, had it one more."""
        everyone = sum(size for _, size in self._starts)
        return self._starts[bracket][1] / everyone * (sum(self._begun) + 1) - self._begun[bracket]


def brackets(n_rungs: int, eta: int) -> list[list[int]]:
    """Hyperband's table (Li et al., JMLR 18, 2018): how many trials each bracket has on each of its rungs.

    The first bracket starts on the lowest of ``n_rungs`` below all anchors, the last on all anchors.
    """
    table = []
    for start in range(n_rungs, -1, -1):
        size = math.ceil(eta**start * (n_rungs + 1) / (start + 1))
        table.append([math.floor(size * eta**-i + 1e-9) for i in range(start + 1)])
    return table


def halving(lowest: int, eta: int) -> Halving:
    """One bracket, from the lowest rung."""
    return Halving(eta, [(lowest, 1)])


def hyperband(lowest: int, eta: int) -> Halving:
    """Brackets from every rung: where few items mislead, those that start higher still find what is good."""
    starts = range(lowest, 1)
    return Halving(eta, [(rung, of[0]) for rung, of in zip(starts, brackets(-lowest, eta), strict=True)])
