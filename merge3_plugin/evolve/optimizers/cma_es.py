"""CMA-ES (Hansen, arXiv 1604.00772) through the package ``cma``, cut off from every global state."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from merge3_plugin.domain import FloatArray
from merge3_plugin.evolve.optimizers import Result, Settings, Trial
from merge3_plugin.evolve.optimizers.generations import Generations, costs
from merge3_plugin.evolve.spaces.variables import Variable


class CmaEs:
    """A normal distribution that moves to where the better half of each generation lies."""

    def __init__(
        self, variables: Sequence[Variable], start: FloatArray, settings: Settings, rng: np.random.Generator
    ) -> None:
        options: dict[str, Any] = {
            # cma would seed, and so reset, numpy's global generator, and take 0 for "the clock".
            "seed": float("nan"),
            "randn": lambda *shape: rng.standard_normal(shape),
            "verbose": -9,
            "verb_log": 0,
            "signals_filename": "",
        }
        if settings.popsize is not None:
            options["popsize"] = settings.popsize
        with warnings.catch_warnings():
            # Importing cma without matplotlib warns of plots that nobody asked for.
            warnings.simplefilter("ignore")
            import cma

            self._es = cma.CMAEvolutionStrategy(np.array(start, dtype=np.float64), settings.sigma0, options)
        self._generations = Generations()
        self._ready: list[FloatArray] = []
        self._asked = 0

    def ask(self, n: int) -> list[Trial]:
        """Draws of the distribution of now."""
        trials = []
        for _ in range(n):
            self._ready = self._ready or [np.array(x, dtype=np.float64) for x in self._es.ask()]
            trials.append(Trial(self._asked, self._ready.pop(0)))
            self._asked += 1
        return trials

    def tell(self, results: Sequence[Result]) -> bool:
        """Learn from each generation that is complete. One of failures alone teaches nothing."""
        self._generations.add(results)
        learned = False
        while (generation := self._generations.take(int(self._es.popsize))) is not None:
            if not generation:  # cma would accept it in silence and drift on noise
                continue
            with warnings.catch_warnings():
                # It warns of a generation larger than popsize, which the vectors scored beside it are meant to make.
                warnings.simplefilter("ignore")
                self._es.tell([np.array(r.vector, dtype=np.float64) for r in generation], costs(generation))
            learned, self._ready = True, []
        return learned

    def mean(self) -> FloatArray:
        """The centre of the distribution."""
        return np.array(self._es.result.xfavorite, dtype=np.float64)

    def stop(self) -> dict[str, Any]:
        """Why it has converged (cma's own criteria), or an empty dict."""
        return {str(k): v for k, v in self._es.stop().items()}
