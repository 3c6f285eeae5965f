"""How much of the spread of values is noise, and the population that it asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from merge3_plugin.evolve.optimizers import Result, Settings

# Weight of the newest generation in the running means.
_NEWEST = 0.3
# At least so many generations are to fit into the budget, however strong the noise.
_GENERATIONS = 12


def grows(noise: Literal["auto", "grow", "none"], settings: Settings) -> bool:
    """Whether the option ``noise`` lets the population grow: auto does unless search.popsize says how many it is."""
    return noise == "grow" or (noise == "auto" and settings.popsize is None)


class NoiseGauge:
    """Grows a population of ``popsize`` until it tells as much as one of that size would without noise.

    The share of the spread that is no noise, r = 1 - variance of the disagreements / variance of the values, is how
    much a candidate's value says of it, so ``popsize / r`` candidates say what ``popsize`` would. Under recombination a
    larger population is worth more than as many repeated evaluations of the same candidates (Arnold and Beyer, IEEE TEC
    10, 2006; Hellwig and Beyer, PPSN 2016); ``benchmarks/noise.py`` compares them.
    """

    def __init__(self, popsize: int, budget: int) -> None:
        self._popsize, self._most = popsize, max(popsize, budget // _GENERATIONS)
        self._noise = self._spread = 0.0

    def popsize(self, generation: Sequence[Result]) -> int:
        """The size of the next generation, after the results of one; of those that say how noisy they are."""
        known = [
            (result.values[0], result.disagreements[0])
            for result in generation
            if result.values and result.disagreements and result.violation <= 0
        ]
        if len(known) >= 2:
            spread, noise = np.array(known).var(axis=0, ddof=1).tolist()
            self._noise += _NEWEST * (noise - self._noise)
            self._spread += _NEWEST * (spread - self._spread)
        if self._noise <= 0:
            return self._popsize
        signal = max(self._spread - self._noise, 0.0)
        return round(min(self._most, self._popsize * self._spread / signal)) if signal > 0 else self._most
