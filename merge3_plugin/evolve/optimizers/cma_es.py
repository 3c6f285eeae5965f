"""CMA-ES (Hansen, arXiv 1604.00772) over any variables, in generations without a barrier."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from merge3_plugin.config.base import Strict
from merge3_plugin.domain import FloatArray
from merge3_plugin.evolve.optimizers import Result, Settings, Trial
from merge3_plugin.evolve.optimizers.distribution import Distribution
from merge3_plugin.evolve.optimizers.generations import Generations, costs
from merge3_plugin.evolve.optimizers.noise import NoiseGauge, grows
from merge3_plugin.evolve.optimizers.relaxed import Relaxed
from merge3_plugin.evolve.optimizers.restarts import Restarts, Run
from merge3_plugin.evolve.spaces.variables import Variable, draw

# Above so many coordinates the full matrix is not learned within any budget that merging can pay, and its update costs.
_SEPARABLE = 100


class CmaOptions(Strict):
    """``search.options`` of cma-es.

    ``covariance``: full, or its diagonal alone (``separable``: Ros and Hansen, PPSN 2008); auto: full up to 100
    coordinates. ``restarts``: what follows a run that has converged. ``noise``: ``grow`` the population while ranks are
    noise, or ``none``; auto: grow unless search.popsize says how many.
    """

    covariance: Literal["auto", "full", "separable"] = "auto"
    restarts: Literal["none", "ipop", "bipop"] = "none"
    noise: Literal["auto", "grow", "none"] = "auto"


class CmaEs:
    """A normal distribution that moves to where the better half of each generation lies.

    Raises ConfigError for unknown options and for a budget below one generation.
    """

    def __init__(
        self, variables: Sequence[Variable], start: FloatArray, settings: Settings, rng: np.random.Generator
    ) -> None:
        options = settings.read(CmaOptions)
        self._variables, self._settings, self._rng = variables, settings, rng
        self._relaxed = Relaxed(variables)
        self._separable = options.covariance == "separable"
        if options.covariance == "auto":
            self._separable = self._relaxed.size > _SEPARABLE
        self._distribution = self._begun(self._relaxed.start(start), None)
        popsize = self._distribution.popsize
        settings.check_budget(popsize)
        self._grow = grows(options.noise, settings)
        self._gauge = NoiseGauge(popsize, settings.budget)
        self._restarts = None if options.restarts == "none" else Restarts(options.restarts, popsize, rng)
        self._finished: list[tuple[float, FloatArray]] = []  # typical cost and centre of each run
        self._typical = np.inf
        self._asked = self._first = self._newest = 0  # trials; the first of this run, and of this distribution
        self._batch = 0  # how many generations were learned from
        self._points: dict[int, FloatArray] = {}
        self._ready: list[FloatArray] = []
        self._generations = Generations()

    def ask(self, n: int) -> list[Trial]:
        """Draws of the distribution of now, as many as are asked for."""
        trials = []
        for _ in range(n):
            self._ready = self._ready or self._distribution.draw(self._distribution.popsize)
            point = self._ready.pop(0)
            self._points[self._asked] = point
            trials.append(Trial(self._asked, self._relaxed.vector(point), batch=self._batch))
            self._asked += 1
        return trials

    def tell(self, results: Sequence[Result]) -> bool:
        """Learn from each generation that is complete. One of failures alone teaches nothing.

        Results of no trial are learned from beside the first generation that comes after them.
        """
        self._generations.add([r for r in results if r.trial is None or r.trial >= self._first])
        learned = False
        while (generation := self._generations.take(self._distribution.popsize)) is not None:
            if generation:  # cma would accept failures alone in silence and drift on noise
                self._learn(generation)
                learned = True
        return learned

    def mean(self) -> FloatArray:
        """The centre of the distribution; after restarts, that of the run whose candidates were best at its end."""
        _, centre = min([*self._finished, (self._typical, self._distribution.centre)], key=lambda run: run[0])
        return self._relaxed.vector(centre)

    def stop(self) -> dict[str, Any]:
        """Why it has converged (cma's own criteria) and is not to begin again, or an empty dict."""
        if self._restarts is not None:
            return {}
        reasons = self._distribution.stop()
        return reasons | {"restarts": len(self._finished)} if reasons and self._finished else reasons

    def _learn(self, generation: Sequence[Result]) -> None:
        points = [
            self._relaxed.point(result.vector) if result.trial is None else self._points.pop(result.trial)
            for result in generation
        ]
        strange = [i for i, result in enumerate(generation) if result.trial is None or result.trial < self._newest]
        paid = costs(generation)
        self._distribution.learn(points, paid, strange)
        self._typical = statistics.median(paid)
        self._newest, self._ready = self._asked, []
        self._batch += 1
        drawn = [result for result in generation if result.trial is not None]
        if self._grow:
            self._distribution.grow(self._gauge.popsize(drawn))
        if self._restarts is not None and self._distribution.stop():
            self._restart(self._restarts)

    def _restart(self, restarts: Restarts) -> None:
        """Begin anew from a random place, if a generation of the next run fits into the budget."""
        run = restarts.next(self._asked - self._first)
        if self._asked + run.popsize > self._settings.budget:
            self._restarts = None
            return
        self._finished.append((self._typical, self._distribution.centre))
        self._distribution = self._begun(self._relaxed.start(draw(self._variables, self._rng)), run)
        self._gauge = NoiseGauge(run.popsize, self._settings.budget - self._asked)
        self._typical = np.inf
        self._first = self._newest = self._asked
        self._points, self._generations = {}, Generations()

    def _begun(self, centre: FloatArray, run: Run | None) -> Distribution:
        run = run or Run(self._settings.popsize or 0)
        return Distribution(
            self._relaxed,
            centre,
            self._settings.sigma0 * run.step,
            self._rng,
            popsize=run.popsize or None,
            separable=self._separable,
            most=run.most / max(run.popsize, 1),
        )
