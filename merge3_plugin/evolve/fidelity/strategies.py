"""Strategies of fidelity: on which rung a trial starts, and which trials go up a rung."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

from merge3_plugin.estimate.paired import PairedDifference
from merge3_plugin.evolve.optimizers import Trial
from merge3_plugin.evolve.search import Scored

# Of the candidates that would beat the incumbent on all anchors, so many at most are given up before.
MISSED = 0.1

# First less second at this confidence; None where one of them failed.
Difference = Callable[[Scored, Scored, float], PairedDifference | None]


class Promotion(NamedTuple):
    """A trial that is to be scored on this rung, a higher one than before."""

    trial: int
    rung: int


class Fidelity(Protocol):
    """Decides how far each trial goes. What it hears of is complete or of a rung below all anchors."""

    def start(self, trial: Trial, batch: int) -> int:
        """The rung on which a new trial is scored first."""
        ...

    def hear(self, trial: int, entry: Scored, incumbent: Scored | None) -> None:
        """A trial was scored, or what is known of it was estimated anew; the ``incumbent`` is the best complete one."""
        ...

    def promote(self) -> Promotion | None:
        """The next trial that is worth more items, each rung of it once; None while there is none."""
        ...


class Fixed:
    """Every trial on all anchors."""

    def start(self, trial: Trial, batch: int) -> int:
        return 0

    def hear(self, trial: int, entry: Scored, incumbent: Scored | None) -> None:
        pass

    def promote(self) -> Promotion | None:
        return None


class Racing:
    """Each trial goes up until its paired interval against the incumbent, on the same items, excludes a win.

    A win is to be ahead on all anchors: of that, the ``share`` that is known leaves less in the dark than of all items,
    so the interval is narrower by sqrt(1 - share), as of a sample from a finite population. Intervals are one-sided and
    hold jointly over the looks that a trial is given below all anchors (Bonferroni): of those who would win at most
    `MISSED` are given up. Nothing is given up for an incumbent that breaks constraints. Racing goes back to Maron and
    Moore (NIPS 6, 1993); one incumbent to beat is SMAC's intensification.
    """

    def __init__(self, lowest: int, difference: Difference, share: Callable[[Scored], float]) -> None:
        self._lowest, self._difference, self._share = lowest, difference, share
        self._confidence = 1.0 - 2.0 * MISSED / max(-lowest, 1)
        self._waiting: deque[Promotion] = deque()
        self._looked: set[tuple[int, int]] = set()

    def start(self, trial: Trial, batch: int) -> int:
        return self._lowest

    def hear(self, trial: int, entry: Scored, incumbent: Scored | None) -> None:
        look = (trial, entry.rung)
        if entry.complete or entry.assessment is None or look in self._looked:
            return
        self._looked.add(look)
        if not self._loses(entry, incumbent):
            self._waiting.append(Promotion(trial, entry.rung + 1))

    def promote(self) -> Promotion | None:
        return self._waiting.popleft() if self._waiting else None

    def _loses(self, entry: Scored, incumbent: Scored | None) -> bool:
        if incumbent is None or incumbent.assessment is None or incumbent.assessment.violation > 0:
            return False
        found = self._difference(entry, incumbent, self._confidence)
        if found is None:
            return False
        reach = (found.interval[1] - found.difference) * math.sqrt(1.0 - self._share(entry))
        return found.difference + reach < 0
