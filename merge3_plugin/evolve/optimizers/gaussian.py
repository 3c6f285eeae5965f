"""A Gaussian process with a length for each variable, fitted to noisy values (Rasmussen and Williams 2006)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

from merge3_plugin.domain import FloatArray
from merge3_plugin.evolve.distances import squared_distances

# Of values of variance one; keeps the covariance invertible where points repeat.
LEAST_NOISE = 1e-6
# Of the logarithms that are fitted: where covariances can be inverted. The priors keep them well within.
_LENGTHS, _VARIANCE, _NOISE = (-8.0, 8.0), (-8.0, 5.0), (-14.0, 5.0)


class GaussianProcess:
    """What is known of a function from its noisy ``values`` (n,), of mean 0, at ``points`` (n, columns).

    The kernel is Matern's of smoothness 5/2. ``owner`` (columns,) tells which variable each column belongs to: the
    columns of a variable share its length. ``shape`` (variables + 2,) holds the logarithms of the inverse squared
    lengths, of the kernel's variance and of the noise's, as ``likeliest`` finds them; ``lengths`` (columns,) are those.
    """

    def __init__(self, points: FloatArray, values: FloatArray, owner: NDArray[np.intp], shape: FloatArray) -> None:
        self._points = points
        self._precision, self._variance = np.exp(shape[:-2])[owner], np.exp(shape[-2])
        self.lengths = 1 / np.sqrt(self._precision)
        self._scaled = points / self.lengths
        covariance = self._variance * _matern(self._squares(points))[0]
        covariance.flat[:: len(points) + 1] += np.exp(shape[-1]) + LEAST_NOISE
        factor = cholesky(covariance, lower=True, check_finite=False)
        self._whitening = solve_triangular(factor, np.eye(len(points)), lower=True, check_finite=False)
        self._gains = self._whitening.T @ (self._whitening @ values)

    def posterior(self, points: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Means and standard deviations of the function, without noise, at ``points`` (k, columns): both (k,)."""
        near = self._variance * _matern(self._squares(points))[0]
        return near @ self._gains, self._deviations(near @ self._whitening.T)

    def slopes(self, points: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """The same, and the gradients of both, (k, columns)."""
        near, slope = (self._variance * part for part in _matern(self._squares(points)))
        white = near @ self._whitening.T
        deviations = self._deviations(white)
        of_means = self._gradients(points, slope * self._gains)
        of_deviations = self._gradients(points, slope * (white @ self._whitening)) / -deviations[:, None]
        return near @ self._gains, deviations, of_means, of_deviations

    def _deviations(self, white: FloatArray) -> FloatArray:
        return np.sqrt(np.maximum(self._variance - (white**2).sum(axis=1), 1e-12))

    def _gradients(self, points: FloatArray, by_square: FloatArray) -> FloatArray:
        """By the points, of what has these derivatives by their squared distances (k, n)."""
        return 2 * self._precision * (points * by_square.sum(axis=1)[:, None] - by_square @ self._points)

    def _squares(self, points: FloatArray) -> FloatArray:
        return squared_distances(points / self.lengths, self._scaled)


def likeliest(
    points: FloatArray, values: FloatArray, owner: NDArray[np.intp], begin: FloatArray | None = None
) -> FloatArray:
    """The ``shape`` of greatest posterior density for values of variance 1, searched from ``begin``, if there is one.

    The priors are optuna's: lengths between a third and three times the cube's side, as a rule; a variance about 1, and
    little noise.
    """
    variables = int(owner.max()) + 1
    found: FloatArray = minimize(
        improbability,
        np.zeros(variables + 2) if begin is None else begin,
        args=(points, values, owner),
        jac=True,
        method="L-BFGS-B",
        bounds=[_LENGTHS] * variables + [_VARIANCE, _NOISE],
        options={"gtol": 1e-2},
    ).x
    return found


def improbability(
    shape: FloatArray, points: FloatArray, values: FloatArray, owner: NDArray[np.intp]
) -> tuple[float, FloatArray]:
    """Minus the logarithm of the shape's posterior density, but for a constant, and its gradient."""
    precision, variance, extra = np.exp(shape[:-2]), np.exp(shape[-2]), np.exp(shape[-1])
    scaled, noise = points * np.sqrt(precision[owner]), extra + LEAST_NOISE
    kernel, slope = _matern(squared_distances(scaled, scaled))
    covariance = variance * kernel
    covariance.flat[:: len(points) + 1] += noise
    factor = cholesky(covariance, lower=True, check_finite=False)
    inverse = cho_solve((factor, True), np.eye(len(points)), check_finite=False)
    gains = inverse @ values
    likelihood = 0.5 * values @ gains + np.log(factor.diagonal()).sum()
    prior = 0.1 * (1 / precision + precision).sum() + variance - shape[-2] + 30 * noise - 0.1 * np.log(noise)

    by_covariance = 0.5 * (inverse - np.outer(gains, gains))
    by_square = variance * by_covariance * slope
    by_column = 2 * (by_square.sum(axis=0) @ scaled**2 - (scaled * (by_square @ scaled)).sum(axis=0))
    by_precision = np.bincount(owner, by_column, len(precision)) + 0.1 * (precision - 1 / precision)
    by_variance = variance * (by_covariance * kernel).sum() + variance - 1
    by_noise = extra * (by_covariance.trace() + 30 - 0.1 / noise)
    return float(likelihood + prior), np.array([*by_precision, by_variance, by_noise])


def _matern(squares: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The kernel at these squared distances, and its derivatives by them."""
    root = np.sqrt(5 * squares)
    decay = np.exp(-root)
    return (1 + root + root**2 / 3) * decay, -5 / 6 * (1 + root) * decay
