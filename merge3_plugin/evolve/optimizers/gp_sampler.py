"""A sampler for optuna that asks where Gaussian processes promise most, as its own does, at little cost.

optuna's asks torch for every gradient. What is known in closed form is computed so here, for all starts of a search at
once, and the kernel's shape is fitted at every trial only while they are few.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from scipy.optimize import minimize

from merge3_plugin.domain import FloatArray
from merge3_plugin.evolve.optimizers.acquisition import Acquisition
from merge3_plugin.evolve.optimizers.cube import Cube
from merge3_plugin.evolve.optimizers.gaussian import GaussianProcess, likeliest

# Climbs start from the best trial and the best of some draws. On a noisy sphere of 10 genes half as many climbs found
# less in 50 trials, though as much in 100; four times as many draws found no more.
_DRAWS, _CLIMBS = 512, 8
# Of a climb: steps of L-BFGS, the relative gain of one at which they end, and how often they and changes of choices
# take turns at most.
_STEPS, _GAIN, _TURNS = 30, 1e-5, 10
# The shape is fitted at every trial up to twice as many, then where one in so many is new. Fitted less often, where
# a tenth was new from the start, trials found less by the 50th where only some genes matter.
_ONE_IN = 25


class GaussianSampler(BaseSampler):
    """Of one objective, to be maximised, of parameters that all trials have with these ``distributions``.

    ``startup`` trials are drawn before there is a model. Trials under way count as if they had given what the model
    foretells of them. Where one trial has constraints all must have them.
    """

    def __init__(self, distributions: Mapping[str, BaseDistribution], startup: int, seed: int) -> None:
        self._distributions, self._startup = dict(distributions), startup
        self._cube = Cube(list(distributions.values()))
        self._rng, self._random = np.random.default_rng(seed), RandomSampler(seed=seed)
        self._points: dict[int, FloatArray] = {}  # by the number of a trial
        self._shapes: list[FloatArray] = []  # of the models of the objective and the constraints
        self._fitted = 0  # to so many trials

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All parameters, or none of them while trials are drawn."""
        return self._distributions if len(_trials(study, TrialState.COMPLETE)) >= self._startup else {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """At random."""
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """What the acquisition function is greatest at."""
        if not search_space:
            return {}
        told = _trials(study, TrialState.COMPLETE)
        flying = [other for other in _trials(study, TrialState.RUNNING) if other.number != trial.number]
        observed = np.array([[each.value, *each.constraints.values()] for each in told])
        spread = np.maximum(observed.std(axis=0), 1e-10)
        limits = -observed[:, 1:].mean(axis=0) / spread[1:]
        columns = ((observed - observed.mean(axis=0)) / spread).T
        points, columns, models = self._models(self._at(told), columns, self._at(flying))
        allowed = (columns[1:] <= limits[:, None]).all(axis=0)
        best = int(np.argmax(np.where(allowed, columns[0], -np.inf)))
        acquisition = Acquisition(
            models[0], columns[0, best] if allowed.any() else None, list(zip(models[1:], limits, strict=True))
        )
        found = self._cube.coordinates(self._highest(acquisition, points[best], models[0].lengths))
        described = zip(search_space.items(), found.tolist(), strict=True)
        return {name: distribution.to_external_repr(value) for (name, distribution), value in described}

    def _models(
        self, points: FloatArray, columns: FloatArray, flying: FloatArray
    ) -> tuple[FloatArray, FloatArray, list[GaussianProcess]]:
        """Models of the ``columns`` of values (columns, n), and all points and values that they are made of."""
        if len(points) - self._fitted >= max(1, len(points) // _ONE_IN) or len(self._shapes) != len(columns):
            begin = self._shapes + [None] * (len(columns) - len(self._shapes))
            self._shapes = [
                likeliest(points, values, self._cube.owner, shape) for values, shape in zip(columns, begin, strict=True)
            ]
            self._fitted = len(points)
        models = self._made(points, columns)
        if len(flying):
            believed = np.array([model.posterior(flying)[0] for model in models])
            points, columns = np.vstack([points, flying]), np.hstack([columns, believed])
            models = self._made(points, columns)
        return points, columns, models

    def _made(self, points: FloatArray, columns: FloatArray) -> list[GaussianProcess]:
        fitted = zip(columns, self._shapes, strict=True)
        return [GaussianProcess(points, values, self._cube.owner, shape) for values, shape in fitted]

    def _at(self, trials: Sequence[FrozenTrial]) -> FloatArray:
        """Their points (trials, columns)."""
        for trial in trials:
            if trial.number not in self._points:
                known = [d.to_internal_repr(trial.params[name]) for name, d in self._distributions.items()]
                self._points[trial.number] = self._cube.points(np.array([known]))[0]
        return np.array([self._points[trial.number] for trial in trials])

    def _highest(self, acquisition: Acquisition, begin: FloatArray, lengths: FloatArray) -> FloatArray:
        """The highest point (columns,) that is found from ``begin`` (columns,) and the best of some draws."""
        drawn = self._cube.draws(self._rng, _DRAWS)
        order = np.argsort(-acquisition.values(drawn), kind="stable")
        points = np.vstack([begin, drawn[order[: _CLIMBS - 1]]])
        values = acquisition.values(points)
        active = np.arange(len(points))
        for _ in range(_TURNS):
            points[active], climbed = self._climbed(acquisition, points[active], values[active], lengths)
            points[active], values[active] = self._switched(acquisition, points[active], climbed)
            active = active[values[active] > climbed]
            if not len(active):
                break
        return points[np.argmax(values)]

    def _switched(
        self, acquisition: Acquisition, points: FloatArray, values: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Each point, and its value, after every choice and whole number in turn is the best of its neighbours."""
        points, values = points.copy(), values.copy()
        for columns in self._cube.discrete:
            near = [self._cube.neighbours(point, columns) for point in points]
            there = acquisition.values(np.vstack(near))
            ends = np.cumsum([len(each) for each in near])
            for i, scores in enumerate(np.split(there, ends[:-1])):
                if len(scores) and scores.max() > values[i]:
                    points[i], values[i] = near[i][np.argmax(scores)], scores.max()
        return points, values

    def _climbed(
        self, acquisition: Acquisition, points: FloatArray, values: FloatArray, lengths: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Each point, and its value, after steps in its reals, in units of the kernel's lengths."""
        reals = slice(0, self._cube.reals)
        unit = lengths[reals]

        def moved(steps: FloatArray) -> FloatArray:
            found = points.copy()
            found[:, reals] = steps.reshape(len(points), -1) * unit
            return found

        def minus_sum(steps: FloatArray) -> tuple[float, FloatArray]:
            there, gradients = acquisition.slopes(moved(steps))
            return -float(there.sum()), (-gradients[:, reals] * unit).ravel()

        if not len(unit):
            return points, values
        found = moved(
            minimize(
                minus_sum,
                (points[:, reals] / unit).ravel(),
                jac=True,
                method="L-BFGS-B",
                bounds=[(0.0, 1.0 / each) for each in unit] * len(points),
                options={"maxiter": _STEPS, "ftol": _GAIN, "gtol": 1e-2},
            ).x
        )
        there = acquisition.values(found)
        better = there > values
        return np.where(better[:, None], found, points), np.where(better, there, values)


def _trials(study: Study, state: TrialState) -> list[FrozenTrial]:
    found: list[FrozenTrial] = study.get_trials(deepcopy=False, states=(state,))
    return found
