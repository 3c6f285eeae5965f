"""What a trial promises, by Gaussian processes of what earlier ones gave (Ament et al., NeurIPS 2023)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import erfcx, log_ndtr

from merge3_plugin.domain import FloatArray
from merge3_plugin.evolve.optimizers.gaussian import GaussianProcess

_LOG_ROOT = 0.5 * np.log(2 * np.pi)
# Improvements surer than this many deviations are as good as certain; those as unlikely as that as good as none.
_SURE, _HOPELESS = 20.0, -1e4


class Acquisition:
    """The logarithm of the expected improvement beyond ``best``, and of the probability that all constraints hold.

    Of the ``constraints`` each has a model, whose function must not exceed a limit. Without a ``best``, since none of
    the trials kept to them, that probability alone.
    """

    def __init__(
        self, model: GaussianProcess, best: float | None, constraints: Sequence[tuple[GaussianProcess, float]] = ()
    ) -> None:
        self._model, self._best, self._constraints = model, best, constraints

    def values(self, points: FloatArray) -> FloatArray:
        """At ``points`` (k, columns), shape (k,)."""
        total = np.zeros(len(points))
        if self._best is not None:
            mean, deviation = self._model.posterior(points)
            total += log_improvement((mean - self._best) / deviation)[0] + np.log(deviation)
        for model, limit in self._constraints:
            mean, deviation = model.posterior(points)
            total += log_ndtr((limit - mean) / deviation)
        return total

    def slopes(self, points: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The same, and the gradients (k, columns)."""
        total, gradients = np.zeros(len(points)), np.zeros_like(points)
        if self._best is not None:
            mean, deviation, of_mean, of_deviation = self._model.slopes(points)
            value, by_mean, by_deviation = log_improvement((mean - self._best) / deviation)
            total += value + np.log(deviation)
            gradients += (by_mean[:, None] * of_mean + by_deviation[:, None] * of_deviation) / deviation[:, None]
        for model, limit in self._constraints:
            mean, deviation, of_mean, of_deviation = model.slopes(points)
            margin = (limit - mean) / deviation
            value = log_ndtr(margin)
            total += value
            steepness = np.exp(-0.5 * margin**2 - _LOG_ROOT - value) / deviation
            gradients -= steepness[:, None] * (of_mean + margin[:, None] * of_deviation)
        return total, gradients


def log_improvement(margin: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The logarithm of E[max(x, 0)] of a normal x whose mean is ``margin`` deviations, in units of the deviation.

    And its derivatives by mean and deviation, in these units, the deviation's own logarithm among them.
    """
    sure = margin > _SURE
    x = np.clip(margin, _HOPELESS, _SURE)
    odds = np.sqrt(np.pi / 2) * erfcx(-x / np.sqrt(2))  # the normal distribution over its density
    over_density = 1 + x * odds
    value = np.where(sure, np.log(np.maximum(margin, 1.0)), -0.5 * x**2 - _LOG_ROOT + np.log(over_density))
    by_mean = np.where(sure, 1 / np.maximum(margin, 1.0), odds / over_density)
    return value, by_mean, np.where(sure, 0.0, 1 / over_density)
