"""The multidimensional two-parameter logistic model: P(right) = sigmoid(a . theta - b), in numpy alone.

Abilities, the lambdas of a merge and item parameters are all the same problem, a logistic regression under a
Gaussian prior, so one solver (`fit_logistic`) serves them all, many fits at a time. Scores may be fractions in
[0, 1] (a fractional likelihood, whose fitted mean is that of the scores); NaN scores are skipped.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from merge3_plugin.domain import FloatArray, ItemParameters
from merge3_plugin.errors import DataError


class Posterior(NamedTuple):
    """Gaussian (Laplace) posterior: ``mean`` (..., p), the mode, and ``covariance`` (..., p, p) of its curvature."""

    mean: FloatArray
    covariance: FloatArray


def sigmoid(logits: ArrayLike) -> FloatArray:
    """1 / (1 + exp(-x)), without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(logits, dtype=np.float64)))


def logits(items: ItemParameters, abilities: ArrayLike) -> FloatArray:
    """a . theta - b of every item, shape (..., n_items) for abilities (..., D)."""
    return np.asarray(abilities, dtype=np.float64) @ items.discrimination.T - items.difficulty


def probabilities(items: ItemParameters, abilities: ArrayLike) -> FloatArray:
    """Probability of a right answer to every item, shape (..., n_items) for abilities (..., D)."""
    return sigmoid(logits(items, abilities))


def log_likelihood(
    items: ItemParameters, abilities: ArrayLike, scores: ArrayLike, *, weights: ArrayLike = 1.0
) -> FloatArray:
    """Log-likelihood in nats of ``scores`` (..., n_items) at ``abilities`` (..., D), shape (...).

    ``weights`` (n_items,) say how often each score counts.
    """
    return _log_likelihood(logits(items, abilities), np.asarray(scores, dtype=np.float64), weights)


def gradient(items: ItemParameters, abilities: ArrayLike, scores: ArrayLike) -> FloatArray:
    """Gradient of `log_likelihood` by ability, shape (..., D)."""
    residuals = np.asarray(scores, dtype=np.float64) - probabilities(items, abilities)
    return np.nan_to_num(residuals, nan=0.0) @ items.discrimination


def information(items: ItemParameters, abilities: ArrayLike) -> FloatArray:
    """Fisher information of all items together about each ability, sum of p(1-p) a a^T, shape (..., D, D)."""
    p = probabilities(items, abilities)
    return _weighted_gram(items.discrimination, p * (1.0 - p))


def fit_ability(
    items: ItemParameters, scores: ArrayLike, *, mean: ArrayLike = 0.0, precision: ArrayLike = 1.0
) -> Posterior:
    """Maximum a posteriori ability of each row of ``scores`` (..., n_items); mean (..., D).

    The prior is normal with this ``mean`` and ``precision`` (a number, (D,) or (D, D)), by default N(0, I), which keeps
    the ability finite where all answers are right, all wrong, or none is known.
    """
    return fit_logistic(items.discrimination, -items.difficulty, scores, mean=mean, precision=precision)


def fit_lambda(
    items: ItemParameters,
    scores: ArrayLike,
    parents: ArrayLike,
    *,
    precision: ArrayLike = 1.0,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Posterior:
    """Lambdas of merges whose ability is sum_i lambda_i theta_i (MERGE3, arXiv 2502.10436, mp-IRT); mean (..., P).

    ``parents`` (P, D) are the parents' abilities, ``scores`` (..., n_items) the merges' answers. The prior is normal
    around 1/P with this ``precision``, cut to ``bounds``: unlike plain maximum likelihood it stays finite where all
    answers are right or all wrong, and unique where parents' abilities are collinear. Their ability is
    ``mean @ parents``.
    """
    abilities = np.asarray(parents, dtype=np.float64)
    if abilities.ndim != 2 or abilities.shape[1] != items.n_dimensions or not np.isfinite(abilities).all():
        raise DataError(
            f"parents' abilities: expected finite, of shape (parents, {items.n_dimensions}), got {abilities.shape}"
        )
    return fit_logistic(
        items.discrimination @ abilities.T,
        -items.difficulty,
        scores,
        mean=1.0 / len(abilities),
        precision=precision,
        bounds=bounds,
    )


def fit_logistic(
    design: FloatArray,
    offset: ArrayLike,
    scores: ArrayLike,
    *,
    mean: ArrayLike = 0.0,
    precision: ArrayLike = 1.0,
    bounds: tuple[float, float] = (-np.inf, np.inf),
    weights: ArrayLike = 1.0,
    start: FloatArray | None = None,
    max_steps: int = 100,
) -> Posterior:
    """Maximum a posteriori coefficients of the logistic regressions score ~ sigmoid(design @ beta + offset).

    ``design`` (n, p) and ``offset`` (n,) are shared by all rows of ``scores`` (..., n); each row is a fit and gives
    a mean (..., p). The prior is normal with ``mean`` and positive definite ``precision`` (a number, (p,) or
    (p, p)), cut to the box ``bounds``; ``weights`` (n,) say how often each score counts. Projected Newton (Bertsekas
    1982) with backtracking: the log posterior never decreases, from ``start`` (..., p) on (default: the prior's mean).
    Raises DataError on scores outside [0, 1].
    """
    n, p = design.shape
    answers = np.asarray(scores, dtype=np.float64)
    if answers.shape[-1:] != (n,):
        raise DataError(f"scores: expected one for each of {n} items in the last dimension, got shape {answers.shape}")
    if ((answers < 0) | (answers > 1)).any():
        raise DataError("scores: expected numbers in [0, 1]; rescale the metric")
    rows = answers.reshape(math.prod(answers.shape[:-1]), n)  # -1 is not known of 0 items
    known = ~np.isnan(rows)
    problem = _Logistic(
        design,
        _vector(offset, n),
        np.where(known, rows, 0.0),
        np.where(known, _vector(weights, n), 0.0),
        _vector(mean, p),
        _matrix(precision, p),
    )
    low, high = bounds
    beta = np.tile(problem.mean, (len(rows), 1)) if start is None else np.array(start, dtype=np.float64).reshape(-1, p)
    beta = np.clip(beta, low, high)
    value, chance = problem.evaluate(beta)
    slope, curvature = problem.derivatives(beta, chance)
    open_rows = np.arange(len(rows))
    for _ in range(max_steps):
        if not len(open_rows):
            break
        part, before = problem.rows(open_rows), beta[open_rows]
        step = _newton_step(before, slope[open_rows], curvature[open_rows], low, high)
        moved, value[open_rows], chance = part.backtrack(before, value[open_rows], slope[open_rows], step, low, high)
        beta[open_rows] = moved
        slope[open_rows], curvature[open_rows] = part.derivatives(moved, chance)
        # Newton's error after a step is of the order of its square.
        open_rows = open_rows[np.abs(moved - before).max(axis=1) > 1e-6 * (1.0 + np.abs(moved).max(axis=1))]
    shape = answers.shape[:-1]
    covariance = np.asarray(np.linalg.inv(curvature), dtype=np.float64)
    return Posterior(beta.reshape(*shape, p), covariance.reshape(*shape, p, p))


class _Logistic(NamedTuple):
    """Logistic regressions under one Gaussian prior; scores and weights (rows, n), beta and mean (rows, p) and (p,)."""

    design: FloatArray
    offset: FloatArray
    scores: FloatArray
    weights: FloatArray
    mean: FloatArray
    precision: FloatArray

    def rows(self, rows: NDArray[np.intp]) -> _Logistic:
        """The problems of these rows."""
        return self._replace(scores=self.scores[rows], weights=self.weights[rows])

    def evaluate(self, beta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Log posterior (rows,) up to a constant, and the probability of a right answer (rows, n)."""
        logit = beta @ self.design.T + self.offset
        decay = np.exp(-np.abs(logit))
        softplus = np.maximum(logit, 0.0) + np.log1p(decay)
        gap = beta - self.mean
        value = (self.weights * (self.scores * logit - softplus)).sum(axis=1)
        value -= 0.5 * ((gap @ self.precision) * gap).sum(axis=1)
        return value, np.where(logit < 0.0, decay, 1.0) / (1.0 + decay)

    def derivatives(self, beta: FloatArray, chance: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Gradient (rows, p) and negative Hessian (rows, p, p) of the log posterior where ``chance`` was evaluated."""
        slope = (self.weights * (self.scores - chance)) @ self.design - (beta - self.mean) @ self.precision
        return slope, _weighted_gram(self.design, self.weights * chance * (1.0 - chance)) + self.precision

    def backtrack(
        self, beta: FloatArray, value: FloatArray, slope: FloatArray, step: FloatArray, low: float, high: float
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """The longest of the steps 1, 1/2, 1/4 ... that gains enough (Armijo), row by row; a row without one stays.

        Returns where that leads, and what `evaluate` says there.
        """
        moved = np.clip(beta + step, low, high)
        moved_value, chance = self.evaluate(moved)
        for halvings in range(1, 31):
            promised = 1e-4 * ((moved - beta) * slope).sum(axis=1)
            rounding = 1e-13 * (1.0 + np.abs(value))
            short = np.flatnonzero(~(moved_value >= value + np.maximum(promised, 0.0) - rounding))
            if not len(short):
                break
            length = 0.5**halvings if halvings < 30 else 0.0
            moved[short] = np.clip(beta[short] + length * step[short], low, high)
            moved_value[short], chance[short] = self.rows(short).evaluate(moved[short])
        return moved, moved_value, chance


def _vector(values: ArrayLike, size: int) -> FloatArray:
    return np.broadcast_to(np.asarray(values, dtype=np.float64), (size,))


def _matrix(precision: ArrayLike, p: int) -> FloatArray:
    given = np.asarray(precision, dtype=np.float64)
    matrix = given if given.ndim > 1 else np.diag(np.broadcast_to(given, (p,)))
    positive = matrix.shape == (p, p) and np.isfinite(matrix).all()
    if not positive or (given if given.ndim < 2 else np.linalg.eigvalsh(matrix)).min() <= 0:
        raise DataError(f"prior precision: expected positive and definite, for {p} dimension(s), got {precision!r}")
    return matrix


def _newton_step(beta: FloatArray, slope: FloatArray, curvature: FloatArray, low: float, high: float) -> FloatArray:
    if np.isfinite(low) or np.isfinite(high):
        # A coefficient pressed against its bound is decoupled from the others: clipping it would otherwise bend their
        # joint step away from an ascent direction.
        margin = 1e-3 * min(high - low, 1.0)
        pressed = ((beta <= low + margin) & (slope < 0)) | ((beta >= high - margin) & (slope > 0))
        coupled = ~(pressed[:, :, None] | pressed[:, None, :]) | np.eye(beta.shape[1], dtype=bool)
        curvature = np.where(coupled, curvature, 0.0)
    return np.asarray(np.linalg.solve(curvature, slope[:, :, None])[:, :, 0], dtype=np.float64)


def _weighted_gram(design: FloatArray, weights: FloatArray) -> FloatArray:
    """sum_j weights[..., j] x_j x_j^T, shape (..., p, p)."""
    n, p = design.shape
    outer = (design[:, :, None] * design[:, None, :]).reshape(n, p * p)
    gram: FloatArray = (weights @ outer).reshape(*weights.shape[:-1], p, p)
    return gram


def _log_likelihood(logit: FloatArray, scores: FloatArray, weights: ArrayLike) -> FloatArray:
    # The same as np.logaddexp(0, logit), in a third of its time.
    softplus = np.maximum(logit, 0.0) + np.log1p(np.exp(-np.abs(logit)))
    terms = np.where(np.isnan(scores), 0.0, scores * logit - softplus) * np.asarray(weights)
    return np.sum(terms, axis=-1, dtype=np.float64)
