"""lq-CMA-ES (Hansen, GECCO 2019): a model of the values says whom of a generation it is worth evaluating."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from merge3_plugin.config.base import Strict
from merge3_plugin.domain import FloatArray
from merge3_plugin.evolve.optimizers import Result, Settings, Trial
from merge3_plugin.evolve.optimizers.distribution import Distribution
from merge3_plugin.evolve.optimizers.generations import costs
from merge3_plugin.evolve.optimizers.noise import NoiseGauge, grows
from merge3_plugin.evolve.optimizers.relaxed import Relaxed, quiet_cma
from merge3_plugin.evolve.spaces.variables import Variable

# The model is believed once it ranks the latest evaluations as they came out: Kendall's tau.
_TRUSTED = 0.85


class LqOptions(Strict):
    """``search.options`` of lq-cma-es, with the meaning that they have for cma-es."""

    covariance: Literal["full", "separable"] = "full"
    noise: Literal["auto", "grow", "none"] = "auto"


@dataclass(frozen=True, eq=False)
class _Member:
    """One of a generation: ``point`` as it was drawn, and ``settled``, the same for all points of its vector."""

    point: FloatArray
    settled: FloatArray
    vector: FloatArray
    trial: int | None = None
    result: Result | None = None


class LqCmaEs:
    """CMA-ES that evaluates of each generation whom a linear to quadratic regression on all results thinks best.

    As soon as the regression ranks the evaluated ones rightly it ranks the others, which are never asked; where it does
    not, under noise above all, everyone is evaluated, and only the evaluations count: then it is CMA-ES. Its optimum is
    a candidate of the next generation. Regression and rules are those of ``cma.fitness_models``.
    Raises ConfigError for unknown options and for a budget below one generation.
    """

    def __init__(
        self, variables: Sequence[Variable], start: FloatArray, settings: Settings, rng: np.random.Generator
    ) -> None:
        options = settings.read(LqOptions)
        self._relaxed = Relaxed(variables)
        self._distribution = Distribution(
            self._relaxed,
            self._relaxed.start(start),
            settings.sigma0,
            rng,
            popsize=settings.popsize,
            separable=options.covariance == "separable",
        )
        settings.check_budget(self._distribution.popsize)
        self._gauge = (
            NoiseGauge(self._distribution.popsize, settings.budget) if grows(options.noise, settings) else None
        )
        self._model = quiet_cma().fitness_models.LQModel()
        self._members: list[_Member] = []
        self._beside: list[_Member] = []
        self._wanted = 0  # evaluations after which the model is judged
        self._asked = 0

    def ask(self, n: int) -> list[Trial]:
        """Whom the model thinks best among those of the generation that were not asked, then further draws."""
        trials = []
        for _ in range(n):
            place = self._next()
            self._members[place] = member = replace(self._members[place], trial=self._asked)
            trials.append(Trial(self._asked, member.vector))
            self._asked += 1
        return trials

    def tell(self, results: Sequence[Result]) -> bool:
        """Teach the model, and learn from the generation once the model is right about it, or all of it is known.

        A result that comes after its generation is over teaches the model alone. Results of no trial are learned from
        beside the next generation. One of failures alone teaches nothing.
        """
        learned = False
        for result in results:
            settled = self._relaxed.point(result.vector)
            if result.values is not None and result.violation <= 0:
                self._add(settled, -result.values[0])
            if result.trial is None:
                self._beside.append(_Member(settled, settled, result.vector, None, result))
                continue
            for place, member in enumerate(self._members):
                if member.trial == result.trial:
                    self._members[place] = replace(member, result=result)
                    learned = self._judge() or learned
        return learned

    def mean(self) -> FloatArray:
        """The centre of the distribution."""
        return self._relaxed.vector(self._distribution.centre)

    def stop(self) -> dict[str, Any]:
        """Why it has converged (cma's own criteria), or an empty dict."""
        return self._distribution.stop()

    def _next(self) -> int:
        """The place of whom to ask next."""
        model = self._model
        if not self._members:
            size = self._distribution.popsize
            self._members = [self._drawn(point) for point in self._distribution.draw(size)]
            model.settings.max_absolute_size = size
            self._wanted = int(1 + max(0.02 * size, 3 / model.settings.truncation_ratio - model.size))
        waiting = [place for place, member in enumerate(self._members) if member.trial is None]
        if not waiting:
            self._members.append(self._drawn(self._distribution.draw(1)[0]))
            return len(self._members) - 1
        if model.size < 2:
            return waiting[0]
        return min(waiting, key=lambda place: model.eval(self._members[place].settled))

    def _drawn(self, point: FloatArray) -> _Member:
        vector = self._relaxed.vector(point)
        return _Member(point, self._relaxed.point(vector), vector)

    def _add(self, settled: FloatArray, cost: float) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a point that is there already: a second, better value is meant
            self._model.add_data_row(settled, cost, force=True)

    def _judge(self) -> bool:
        """Whether the generation is over: enough of it is known, and the model right about that, or all is known."""
        model = self._model
        told, everyone = sum(member.result is not None for member in self._members), len(self._members)
        while told >= self._wanted or told == everyone:
            model.sort(told)
            tau = model.kendall(int(max(15, min(1.2 * told, 0.75 * everyone))))
            if tau >= _TRUSTED or told == everyone:
                model.sort(told)
                model.adapt_max_relative_size(tau)
                return self._learn()
            self._wanted += math.ceil(self._wanted / 2)
        return False

    def _learn(self) -> bool:
        members = [*self._members, *self._beside]
        results = [member.result for member in members if member.result is not None]
        if all(result.values is None for result in results):
            self._members = []
            return False
        paid = costs(results)
        if len(results) < len(members):
            paid = self._modelled(members)
        strange = range(len(self._members), len(members))
        self._distribution.learn([member.point for member in members], paid, strange)
        if self._gauge is not None:
            drawn = [member.result for member in self._members if member.result is not None]
            self._distribution.grow(self._gauge.popsize(drawn))
        self._members, self._beside = [], []
        if self._model.size:
            self._distribution.inject(self._relaxed.inside(self._model.xopt))
        return True

    def _modelled(self, members: Sequence[_Member]) -> list[float]:
        """The model's costs; of those that failed or broke a constraint, more than any."""
        found = [float(self._model.eval(member.settled)) for member in members]
        worst = max(found) + 1.0
        for place, member in enumerate(members):
            if member.result is not None and (member.result.values is None or member.result.violation > 0):
                found[place] = worst + member.result.violation * (member.result.values is not None)
        return found
