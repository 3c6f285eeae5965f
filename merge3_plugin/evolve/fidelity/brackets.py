"""Successive halving without a barrier, and Hyperband: brackets of it that start on different rungs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from merge3_plugin.evolve.fidelity.strategies import Promotion
from merge3_plugin.evolve.optimizers import Trial
from merge3_plugin.evolve.search import Scored

# Puts entries that did not fail in order, best first; of equals, the earlier first.
Order = Callable[[Sequence[Scored]], Sequence[Scored]]


@dataclass
class _Rung:
    """Who was scored on one rung of one bracket, by batch and trial, and who has gone up from it.

    ``changed`` are the batches whose best share may have a trial that has not gone.
    """

    entries: defaultdict[int, dict[int, Scored]] = field(default_factory=lambda: defaultdict(dict))
    gone: set[int] = field(default_factory=set)
    changed: set[int] = field(default_factory=set)


class Halving:
    """The best ``1 / eta`` of each rung so far go up (ASHA: Li et al., arXiv 1810.05934).

    Nobody waits for a rung to fill. Trials are compared with those of their batch, which answered the same items, so
    that the difference of two estimates is a paired one; ``order`` says who is better. Shares of a batch are whole
    trials: what they leave of the rung's own share, the best of all batches that are still there go up for, or none of
    a small batch would ever get to all anchors. ``starts`` says for each bracket its first rung and how many trials it
    gets for each round of all brackets; a whole batch goes to one, where there are batches.
    """

    def __init__(self, eta: int, starts: Sequence[tuple[int, int]], order: Order) -> None:
        self._eta, self._starts, self._order = eta, starts, order
        self._begun = [0] * len(starts)
        self._bracket_of: dict[int, int] = {}  # by trial
        self._bracket_now = (0, 0)  # batch, bracket
        self._batch_of: dict[int, int] = {}
        self._rungs: defaultdict[tuple[int, int], _Rung] = defaultdict(_Rung)  # by number, then bracket

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
            rung, batch = self._rungs[entry.rung, self._bracket_of[trial]], self._batch_of[trial]
            rung.entries[batch][trial] = entry
            rung.changed.add(batch)

    def promote(self) -> Promotion | None:
        """The best one of the highest rung that is due to go up."""
        below = [key for key in self._rungs if key[0] < 0]
        for number, bracket in sorted(below, key=lambda key: (-key[0], key[1])):
            rung = self._rungs[number, bracket]
            trial = self._due(rung)
            if trial is not None:
                rung.gone.add(trial)
                return Promotion(trial, number + 1)
        return None

    def _due(self, rung: _Rung) -> int | None:
        for batch in sorted(rung.changed):
            entries = rung.entries[batch]
            for trial in self._ordered(entries)[: len(entries) // self._eta]:
                if trial not in rung.gone:
                    return trial
            rung.changed.remove(batch)
        if len(rung.gone) >= sum(map(len, rung.entries.values())) // self._eta:
            return None
        everyone = {trial: entry for entries in rung.entries.values() for trial, entry in entries.items()}
        waiting = {trial: entry for trial, entry in everyone.items() if trial not in rung.gone}
        return next(iter(self._ordered(waiting)), None)

    def _ordered(self, entries: Mapping[int, Scored]) -> list[int]:
        """Those that did not fail, best first."""
        trials = {id(entries[trial]): trial for trial in sorted(entries)}
        known = [entry for trial in trials.values() if (entry := entries[trial]).assessment is not None]
        return [trials[id(entry)] for entry in self._order(known)]

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


def halving(lowest: int, eta: int, order: Order) -> Halving:
    """One bracket, from the lowest rung."""
    return Halving(eta, [(lowest, 1)], order)


def hyperband(lowest: int, eta: int, order: Order) -> Halving:
    """Brackets from every rung: where few items mislead, those that start higher still find what is good."""
    starts = range(lowest, 1)
    return Halving(eta, [(rung, of[0]) for rung, of in zip(starts, brackets(-lowest, eta), strict=True)], order)


def by_rank(entries: Sequence[Scored]) -> list[Scored]:
    """The order of one objective."""
    return sorted(entries, key=lambda entry: entry.rank, reverse=True)
