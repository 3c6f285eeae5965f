"""Ridge regression from the answers on the anchors to the accuracy, over the calibration models."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from merge3_plugin.domain import Estimate, FloatArray, ResponseMatrix
from merge3_plugin.estimate.base import Evidence, calibrated
from merge3_plugin.estimate.soft_pool import KNOWN_SHARE

# Ridge penalties tried, as multiples of the kernel's mean eigenvalue.
PENALTIES = np.geomspace(1e-3, 1e3, 25)


@dataclass(frozen=True)
class Ridge:
    """The weighted mean of the answers, plus what the same anchors make of it on models like this one.

    Regression of (accuracy - weighted mean) on the answers, shrunk to zero; its penalty has the least leave-one-out
    error over the calibration models that answered nearly all items.
    """

    name: str = "ridge"
    needs_parents: bool = False

    def estimate(self, evidence: Evidence) -> Estimate:
        return calibrated(evidence, self.accuracy(evidence), self.name)

    def accuracy(self, evidence: Evidence) -> float:
        """The estimate itself, in [0, 1] but for sampling error."""
        fit = _fitted(evidence)
        return float(evidence.weights @ evidence.scores + fit.intercept + fit.slopes @ evidence.scores)


class Regression(NamedTuple):
    """``slopes`` (m,) and ``intercept`` from answers to accuracy - weighted mean of the answers."""

    slopes: FloatArray
    intercept: float


def _fitted(evidence: Evidence) -> Regression:
    return _fit(evidence.calibration.responses, evidence.positions.tobytes(), evidence.weights.tobytes())


@lru_cache(maxsize=64)
def _fit(responses: ResponseMatrix, positions: bytes, weights: bytes) -> Regression:
    places, of_answers = np.frombuffer(positions, dtype=np.intp), np.frombuffer(weights)
    # The accuracy on some of the items, perhaps the first ones, would teach what those are like.
    known = (~np.isnan(responses.values)).mean(axis=1) >= KNOWN_SHARE
    if not known.any():  # imported parameters come without models
        return Regression(np.zeros(len(places)), 0.0)
    answers = _completed(responses.values[np.ix_(known, places)])
    target = responses.accuracy()[known] - answers @ of_answers
    centre = answers.mean(axis=0)
    design = np.column_stack([answers - centre, np.ones(len(answers))])
    coefficients = _ridge(design, target)
    slopes = coefficients[:-1]
    return Regression(slopes, float(coefficients[-1] - slopes @ centre))


def _ridge(design: FloatArray, target: FloatArray) -> FloatArray:
    """Coefficients of the penalty with the least leave-one-out error."""
    values, vectors = np.linalg.eigh(design @ design.T)
    values = np.maximum(values, 0.0)
    rotated = vectors.T @ target
    best, least = np.zeros(len(target)), float(np.mean(target**2))
    for penalty in PENALTIES * max(values.mean(), 1e-12):
        shrunk = values / (values + penalty)
        leverage = np.minimum((vectors**2) @ shrunk, 1.0 - 1e-9)
        error = float(np.mean(((target - vectors @ (shrunk * rotated)) / (1.0 - leverage)) ** 2))
        if error < least:
            best, least = vectors @ (rotated / (values + penalty)), error
    return np.asarray(design.T @ best, dtype=np.float64)


def _completed(answers: FloatArray) -> FloatArray:
    """The answers with the item's mean score in place of each that is not known."""
    known = ~np.isnan(answers)
    overall = answers[known].mean() if known.any() else 0.0
    asked = known.sum(axis=0)
    means = np.divide(np.nan_to_num(answers).sum(axis=0), asked, out=np.full(len(asked), overall), where=asked > 0)
    return np.where(known, answers, means)
