"""The search strategy: anything with ``ask``, ``tell``, ``mean`` and ``stop``, made for the variables of a space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from merge3_plugin.config.base import Strict
from merge3_plugin.domain import FloatArray
from merge3_plugin.evolve.optimizers import Result, Settings, Trial
from merge3_plugin.evolve.spaces.variables import Variable


class StepSearch:
    """A (1+1) evolution strategy: a normal step from the best so far, longer after a success, shorter after none.

    The step size follows the one-fifth rule (Rechenberg, 1973): it is steady when one step in five succeeds.
    """

    def __init__(
        self, variables: Sequence[Variable], start: FloatArray, settings: Settings, rng: np.random.Generator
    ) -> None:
        settings.read(Strict)  # a strategy without options: any is an error that names it
        self._variables, self._rng = variables, rng
        self._best, self._value = start, -np.inf
        self._step, self._asked = settings.sigma0, 0

    def ask(self, n: int) -> list[Trial]:
        trials = []
        for _ in range(n):
            stepped = self._best + self._step * self._rng.standard_normal(len(self._best))
            vector = np.array([v.settled(x) for v, x in zip(self._variables, stepped, strict=True)])
            trials.append(Trial(self._asked, vector))
            self._asked += 1
        return trials

    def tell(self, results: Sequence[Result]) -> bool:
        for result in results:
            value = -np.inf if result.values is None or result.violation > 0 else result.values[0]
            if value > self._value:
                self._best, self._value = result.vector, value
                self._step *= 1.5
            else:
                self._step *= 1.5**-0.25
        return True

    def mean(self) -> None:
        return None

    def stop(self) -> Mapping[str, Any]:
        return {"step": self._step} if self._step < 1e-9 else {}
