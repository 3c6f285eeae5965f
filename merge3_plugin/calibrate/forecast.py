"""What more calibration models, or more anchors, would buy: the error to expect, from what is known and measured.

The mean absolute error of an estimate is r times that of a random sample of as many items, and r^2 = a + b / M +
c log(n / 50) for M calibration models and n anchors: what no number of models removes, what they do not tell yet, and
what anchors, which grow more alike, add less and less to. The three are learned from models left out of calibrations
on half, on three quarters and on nearly all of the models, at several n, by Bayesian linear regression with b >= 0, so
that more models never seem to hurt. Its prior is what was seen on other benchmarks; with two to four models it is
nearly all there is, and the forecast says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from merge3_plugin.calibrate.assessment import left_out
from merge3_plugin.calibrate.folds import generator
from merge3_plugin.calibrate.report import random_sample_error
from merge3_plugin.calibrate.study import Study, study
from merge3_plugin.domain import FloatArray
from merge3_plugin.estimate.base import FEWEST_MODELS

ANCHORS = (20, 50, 100, 200)
MODELS = (5, 12, 25, 50, 100, 300)
# Folds of the smaller calibrations: each fold is estimated by the half, or the three quarters, that are not in it.
_FEWER = (2, 4)

# Mean and standard deviation of a, b and c on 13 real benchmarks of 11 to 300 models, and for merges of known parents.
_UNRELATED = ((0.43, 0.25), (1.8, 1.5), (0.05, 0.06))
_MERGES = ((0.18, 0.2), (0.3, 0.5), (0.05, 0.06))
_DRAWS = 2000


@dataclass(frozen=True)
class Prediction:
    """Mean absolute ``error`` to expect with so many models and anchors, with its 95 % ``interval`` (low, high)."""

    n_models: int
    n_anchors: int
    error: float
    interval: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Forecast:
    """``predictions`` for the models and anchors at hand and for more, and the ``verdict`` on those at hand.

    ``measured`` is False where too few models could be left out, so that all rests on other benchmarks. ``random`` are
    the errors of random samples by number of anchors.
    """

    n_models: int
    n_anchors: int
    measured: bool
    predictions: tuple[Prediction, ...]
    random: dict[int, float]

    def at(self, n_models: int, n_anchors: int) -> Prediction:
        return next(p for p in self.predictions if (p.n_models, p.n_anchors) == (n_models, n_anchors))

    @property
    def models(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(p.n_models for p in self.predictions))

    @property
    def anchors(self) -> tuple[int, ...]:
        return tuple(sorted({p.n_anchors for p in self.predictions}))

    @property
    def enough(self) -> bool:
        """Whether the models at hand show that estimates beat random samples."""
        return self.measured and self.at(self.n_models, self.n_anchors).interval[1] < self.random[self.n_anchors]

    @property
    def verdict(self) -> str:
        """One paragraph for people, in points of accuracy."""
        here, random = self.at(self.n_models, self.n_anchors), self.random[self.n_anchors]
        if random == 0.0:
            return "All items are anchors, so there is nothing left to estimate."
        sample = f"a random sample: {100 * random:.1f}"
        now = f"expect an error of about {_points(here)} from {self.n_anchors} anchors ({sample})"
        if not self.measured:
            why = f"{self.n_models} models cannot show the error of their estimates, it takes {FEWEST_MODELS} or more"
            return f"Not enough data: {why}. By what was seen on other benchmarks, {now}. {self._advice()}"
        if not self.enough:
            why = f"{self.n_models} models do not show that estimates beat random samples"
            return f"Not enough data: {why}: {now}. {self._advice()}"
        return f"Enough data: {now}. {self._advice()}"

    def _advice(self) -> str:
        more = [n for n in self.models if n > self.n_models]
        larger = [n for n in self.anchors if n > self.n_anchors]
        lines = [f"With {n} models: {_points(self.at(n, self.n_anchors))}." for n in more[:2]]
        lines += [f"With {n} anchors: {_points(self.at(self.n_models, n))}." for n in larger[:1]]
        return " ".join(lines)


def forecast(made: Study, n_anchors: int, method: str) -> Forecast:
    """The error to expect with anchors of the design ``method``, for the study's models and for more of them."""
    n_items, n_models = made.responses.n_items, made.responses.n_models
    smaller = [
        study(
            made.responses,
            seed=made.seed,
            parents=made.parents,
            embeddings=made.embeddings,
            max_folds=n_folds,
            max_items=made.max_items,
        )
        for n_folds in _FEWER
    ]
    sizes = sorted({min(size, n_items) for size in (*ANCHORS, n_anchors)})
    points = [point for part in (*smaller, made) for n in sizes for point in _learning_points(part, n, method)]
    measured = max((p.n_left_out for p in points), default=0) >= FEWEST_MODELS
    prior = _UNRELATED if made.parents is None else _MERGES
    coefficients = _posterior(points, prior, generator(made.seed, "forecast"))
    # As if half an answer more were right and half a one wrong: after models without an error others may come.
    accuracies = (made.responses.accuracy() * n_items + 0.5) / (n_items + 1)
    random = {n: float(np.mean([random_sample_error(float(a), n, n_items) for a in accuracies])) for n in sizes}
    predictions = []
    for m in (n_models, *(n for n in MODELS if n > n_models)):
        for n in sizes:
            ratio = np.sqrt(np.maximum(coefficients @ _features(m, n), 0.01))
            if not measured:  # what is then used is a mean by design, which does not do worse
                ratio = np.minimum(ratio, 1.0)
            low, middle, high = (float(q) * random[n] for q in np.quantile(ratio, (0.025, 0.5, 0.975)))
            predictions.append(Prediction(m, n, middle, (low, high)))
    return Forecast(n_models, min(n_anchors, n_items), measured, tuple(predictions), random)


class LearningPoint(NamedTuple):
    """Squared ratio of the error to that of a random sample, over ``n_left_out`` models."""

    n_models: float
    n_anchors: int
    square: float
    n_left_out: int


def _learning_points(part: Study, n_anchors: int, method: str) -> list[LearningPoint]:
    """One point, or none where no model can be left out."""
    size = left_out(part, n_anchors, method)
    if size is None:
        return []
    known = ~np.isnan(size.errors)
    ratio = size.errors[known].sum() / size.random_errors[known].sum()
    training = np.mean([fold.training.n_models for fold in part.folds.folds])
    return [LearningPoint(float(training), n_anchors, float(ratio**2), int(known.sum()))]


def _features(n_models: float, n_anchors: int) -> FloatArray:
    return np.array([1.0, 1.0 / n_models, np.log(n_anchors / 50)])


def _posterior(points: Sequence[LearningPoint], prior: Sequence[tuple[float, float]], rng: Generator) -> FloatArray:
    """Draws of (a, b, c), shape (draws, 3).

    The mean of n absolute errors has a relative standard error of 0.756 / sqrt(n), its square twice that; points of one
    set of models are taken to share half of the variance.
    """
    centre, spread = np.array(prior).T
    mean, covariance = centre, np.diag(spread**2)
    if points:
        design = np.array([_features(p.n_models, p.n_anchors) for p in points])
        scale = design @ centre * 1.512 / np.sqrt([p.n_left_out for p in points])
        noise = np.outer(scale, scale) * (0.5 + 0.5 * np.eye(len(points)))
        weighted = design.T @ np.linalg.inv(noise)
        precision = np.diag(spread**-2.0)
        covariance = np.linalg.inv(precision + weighted @ design)
        mean = covariance @ (precision @ centre + weighted @ np.array([p.square for p in points]))
    return np.maximum(rng.multivariate_normal(mean, covariance, size=_DRAWS), (0.0, 0.0, -np.inf))


def _points(prediction: Prediction) -> str:
    low, high = prediction.interval
    return f"{100 * prediction.error:.1f} points [{100 * low:.1f}, {100 * high:.1f}]"
