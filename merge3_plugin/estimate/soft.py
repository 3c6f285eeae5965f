"""Estimates from soft scores, the probabilities given to the right options: factor-soft.

A soft score says how nearly a right answer was wrong, so a few of them place a model better than as many answers do.
Linear Gaussian factor analysis of their logits (probabilistic principal components; Tipping and Bishop 1999).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from merge3_plugin.domain import Estimate, FloatArray, ResponseMatrix
from merge3_plugin.errors import DataError
from merge3_plugin.estimate.ability import own_probabilities
from merge3_plugin.estimate.base import Evidence, calibrated
from merge3_plugin.estimate.soft_pool import soft_pool
from merge3_plugin.irt import fit_logistic, sigmoid

MOST_FACTORS = 8
# Soft scores nearer to 0 or 1 than this say no more: their logits would drown all others.
CLIP = 1e-3
LEVEL_SPREAD = 0.5  # prior standard deviation of what shifts all of a model's logits beyond its factors
# Prior standard deviation of the level and of the slope by which right and wrong correct the predicted logits.
CORRECTION_SPREAD = 0.3


@dataclass(frozen=True)
class SoftFactors:
    """Answers where they are known, else the probability by a factor model of the soft scores' logits.

    Its factors are the principal components of the calibration models' and the parents'; the candidate's place on them
    is fitted to its soft scores. Logits become probabilities as the calibration models' answers teach (Platt scaling),
    widened by what the factors do not predict, and are last corrected by the candidate's right and wrong answers: no
    bias stays that they can see. An item of which no model's soft score is known has p-IRT's probability instead.
    """

    name: str = "factor-soft"
    needs_parents: bool = False
    needs_soft: bool = True

    def estimate(self, evidence: Evidence) -> Estimate:
        return calibrated(evidence, evidence.completed(soft_probabilities(evidence)), self.name)


def soft_probabilities(evidence: Evidence) -> FloatArray:
    """Probability of a right answer to every item, shape (N,)."""
    if evidence.soft is None:
        raise DataError("soft scores: expected the candidate's, got none; pass soft=")
    factors = _factors(evidence.calibration.responses, evidence.parents)
    known = ~np.isnan(evidence.soft) & factors.known[evidence.positions]
    seen = evidence.positions[known]
    design = factors.design[seen]
    found = _logits(evidence.soft[known]) - factors.mean[seen]
    noise = factors.variance
    for _ in range(3):
        precision = design.T @ design / noise + np.diag(factors.precision)
        posterior = np.linalg.solve(precision, design.T @ found / noise)
        noise = float(np.sum((found - design @ posterior) ** 2) + factors.variance) / (len(found) + 1)
    spread = factors.design @ np.linalg.cholesky(np.linalg.inv(precision))
    variance = noise + np.einsum("nq,nq->n", spread, spread)
    intercept, slope = factors.scaling
    logit = intercept + slope * (factors.mean + factors.design @ posterior)
    # The mean of a logistic function of a normal variable (MacKay 1992).
    logit /= np.sqrt(1.0 + np.pi / 8.0 * slope**2 * variance)
    if not factors.known.all():
        logit = np.where(factors.known, logit, _logits(own_probabilities(evidence)))
    regressors = np.column_stack([np.ones(len(logit)), logit])
    correction = fit_logistic(
        regressors[evidence.positions], 0.0, evidence.scores, mean=[0.0, 1.0], precision=CORRECTION_SPREAD**-2
    ).mean
    return sigmoid(regressors @ correction)


class Factors(NamedTuple):
    """Items' mean logit (N,), their loadings after a column of ones (N, 1 + r), and the prior precision of both.

    ``known`` (N,) says of which items any model's soft score is: the others have mean and loadings 0. ``variance`` is
    that of a logit about its item's mean; ``scaling`` the intercept and slope from a logit to that of a right answer.
    """

    mean: FloatArray
    design: FloatArray
    precision: FloatArray
    variance: float
    scaling: FloatArray
    known: NDArray[np.bool_]


@lru_cache(maxsize=32)
def _factors(responses: ResponseMatrix, parents: ResponseMatrix | None) -> Factors:
    pool = soft_pool(responses, parents)
    if pool is None or pool.soft is None:
        raise DataError("soft scores: expected those of at least two models on the whole benchmark, got fewer")
    logits = _logits(pool.soft)
    given = ~np.isnan(logits)
    mean = np.nansum(logits, axis=0) / np.maximum(given.sum(axis=0), 1)
    centred = np.where(given, logits - mean, 0.0)
    vectors = np.linalg.eigh(centred @ centred.T)[1]
    n_factors = min(MOST_FACTORS, pool.n_models - 1)
    # Loadings for which the models' factor scores have variance 1.
    loadings = centred.T @ vectors[:, ::-1][:, :n_factors] / np.sqrt(pool.n_models)
    answered = given & ~np.isnan(pool.values)
    scaling = fit_logistic(
        np.column_stack([np.ones(answered.sum()), logits[answered]]), 0.0, pool.values[answered], precision=1e-3
    ).mean
    precision = np.concatenate([[LEVEL_SPREAD**-2], np.ones(n_factors)])
    variance = float(np.mean(centred[given] ** 2)) + 1e-6
    design = np.column_stack([np.ones(len(mean)), loadings])
    return Factors(mean, design, precision, variance, scaling, np.asarray(given.any(axis=0)))


def _logits(soft: FloatArray) -> FloatArray:
    clipped = np.clip(soft, CLIP, 1.0 - CLIP)
    return np.asarray(np.log(clipped / (1.0 - clipped)), dtype=np.float64)
