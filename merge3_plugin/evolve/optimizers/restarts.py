"""How a run of CMA-ES begins after one that has converged: IPOP and BIPOP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Run:
    """The population of a run, its first step as a share of the first run's, and its evaluations at most."""

    popsize: int
    step: float = 1.0
    most: float = np.inf


class Restarts:
    """The runs after a first one of ``popsize``.

    ``ipop`` doubles the population from run to run (Auger and Hansen, CEC 2005). ``bipop`` interlaces such runs with
    small ones of a random small population and step, whichever kind has spent less; a small run may spend half of what
    the large ones have (Hansen, GECCO workshop BBOB 2009).
    """

    def __init__(self, kind: Literal["ipop", "bipop"], popsize: int, rng: np.random.Generator) -> None:
        self._kind, self._first, self._large, self._rng = kind, popsize, popsize, rng
        self._spent = {"small": 0, "large": 0}
        # The first run is a large one, whose budget counts as that of a small one.
        self._regime = "small"

    def next(self, spent: int) -> Run:
        """The run after one that took ``spent`` evaluations."""
        self._spent[self._regime] += spent
        if self._kind == "ipop" or self._spent["small"] >= self._spent["large"]:
            self._regime = "large"
            self._large *= 2
            return Run(self._large)
        self._regime = "small"
        smaller, step = self._rng.random(2)
        popsize = int(self._first * (0.5 * self._large / self._first) ** (smaller**2))
        return Run(popsize, 10 ** (-2 * float(step)), self._spent["large"] / 2)
