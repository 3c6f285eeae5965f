"""What all results of a search say together of the genes: a Gaussian process (Rasmussen and Williams 2006).

One estimate from few anchors says little, and the best of many was lucky. Merges that are alike answer alike, so what
hundreds of estimates agree on is worth more than any of them, and than where a strategy happens to stand at its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from merge3_plugin.domain import FloatArray
from merge3_plugin.evolve.distances import squared_distances
from merge3_plugin.evolve.search import Scored
from merge3_plugin.evolve.spaces.variables import Kind, Variable

# Fewer results say nothing of a landscape; of more than MOST the last ones count: the time grows with their cube.
FEWEST, MOST = 20, 500
# Bounds of the logarithms of the kernel's length and of the parts of the variance.
_LENGTHS, _PARTS = (-2.0, 6.0), (-8.0, 8.0)


class Posterior(NamedTuple):
    """Of the fitness at k vectors: mean (k,) and covariance (k, k)."""

    mean: FloatArray
    covariance: FloatArray


class Surrogate:
    """The fitness as a smooth function of the genes, learned from ``values`` (n,) at ``vectors`` (n, genes).

    A value is the fitness, and what is peculiar to its anchors, and noise. Merges that are alike answer the same
    anchors alike, so what is peculiar is as smooth in the genes as the fitness is, beside a shift of all values; only
    other anchors tell the two apart. ``anchors`` (n, m) are the shares of each value that rest on each of m sets of
    them, of sum 1.

    The kernel is the squared exponential, of the genes in units of their spread among the ``vectors``. Its length and
    the parts of the variance are those of greatest restricted likelihood.
    """

    def __init__(self, vectors: FloatArray, values: FloatArray, anchors: FloatArray) -> None:
        spread = vectors.std(axis=0)
        self._vectors, self._values = vectors, values
        self._origin, self._unit = vectors.mean(axis=0), np.where(spread > 0, spread, 1.0)
        self._points = self._scaled(vectors)
        self._squares = squared_distances(self._points, self._points)
        self._shared, self._own = anchors @ anchors.T, np.diag((anchors**2).sum(axis=1))
        shape = self._likeliest()
        self._precision, self._peculiar = np.exp(-2 * shape[0]), np.exp(shape[1])
        self._inverse = _inverted(self._covariance(shape)[0])
        self._level, self._weights, self._variance = self._solution(self._inverse)

    def posterior(self, vectors: FloatArray) -> Posterior:
        """What is known of the fitness at the ``vectors`` (k, genes)."""
        points = self._scaled(vectors)
        near = self._kernel(points, self._points)
        reduced = self._inverse @ near.T
        unsure = 1.0 - reduced.sum(axis=0)  # the level is estimated too
        covariance = self._kernel(points, points) - near @ reduced + np.outer(unsure, unsure) / self._inverse.sum()
        return Posterior(self._level + near @ self._weights, self._variance * covariance)

    def elsewhere(self, vectors: FloatArray) -> Posterior:
        """The same, where all results have in common what is peculiar to them, as those of one set of anchors have.

        For they come of one calibration and one sample of items. What that adds cannot be told from the fitness; where
        it varies as much as what is peculiar to a set of anchors, differences are smaller than they look, and less
        sure. Nor is any vector thought better than the peak: one that looks better, away from the midst of the best
        results, has been lucky as a rule.
        """
        points, own = self._scaled(vectors), 1.0 / (1.0 + self._peculiar)
        mean, covariance = self.posterior(vectors)
        mean = np.minimum(mean, self.posterior(self.peak[None]).mean)
        common = self._variance * self._peculiar * self._kernel(points, points)
        return Posterior(self._level + own * (mean - self._level), own**2 * (covariance + common))

    @cached_property
    def peak(self) -> FloatArray:
        """Where the fitness is the highest of which one can be sure, in the midst of the best results; (genes,).

        Sure is the mean less one standard deviation. In the midst is between the quartiles, gene by gene, of the
        quarter of the results that the model thinks best: where many are, errors that they share are small. In
        simulated worlds of 12 genes and 300 results on 17 anchors each, the peak was 0.7 points better than CMA-ES'
        mean, and about as good as the truly best of all candidates; without these limits it was 0.2 points better than
        the mean, for it went too far at times.
        """
        from scipy.optimize import minimize

        order = np.argsort(-self.posterior(self._vectors).mean, kind="stable")
        best = self._vectors[order[: max(len(order) // 4, 1)]]
        low, middle, high = np.percentile(best, [25, 50, 75], axis=0)
        found = minimize(
            self._minus_sure,
            self._scaled(middle),
            jac=True,
            method="L-BFGS-B",
            bounds=list(zip(self._scaled(low), self._scaled(high), strict=True)),
        )
        return np.clip(self._origin + self._unit * found.x, low, high)

    def _minus_sure(self, point: FloatArray) -> tuple[float, FloatArray]:
        """One standard deviation less the mean at a point, in units of the kernel's deviation, and its gradient."""
        near = self._kernel(point[None], self._points)[0]
        slopes = near[:, None] * (self._points - point) * self._precision  # (n, genes)
        reduced, total = self._inverse @ near, self._inverse.sum()
        unsure = 1.0 - reduced.sum()
        deviation = np.sqrt(max(1.0 - near @ reduced + unsure**2 / total, 1e-12))
        growth = -slopes.T @ (reduced + unsure / total * self._inverse.sum(axis=0)) / deviation
        gain = self._weights / np.sqrt(self._variance)
        return float(deviation - near @ gain), growth - slopes.T @ gain

    def _likeliest(self) -> FloatArray:
        """Logarithms of the kernel's length, and of the variances of what is peculiar to anchors, shift and noise."""
        from scipy.optimize import minimize

        # As long as two random results are apart.
        start = [0.5 * np.log(2.0 * self._points.shape[1]), 0.0, 0.0, 0.0]
        bounds = [_LENGTHS, _PARTS, _PARTS, _PARTS]
        found: FloatArray = minimize(self._unlikelihood, start, jac=True, method="L-BFGS-B", bounds=bounds).x
        return found

    def _unlikelihood(self, shape: FloatArray) -> tuple[float, FloatArray]:
        """Minus the restricted log-likelihood of the shape, but for a constant, and its gradient (Harville 1977)."""
        covariance, derivatives = self._covariance(shape)
        inverse = _inverted(covariance)
        _, weights, variance = self._solution(inverse)
        rows, total = inverse.sum(axis=0), inverse.sum()
        value = (len(rows) - 1) * np.log(variance) + np.linalg.slogdet(covariance)[1] + np.log(total)
        slope = inverse - np.outer(rows, rows) / total - np.outer(weights, weights) / variance
        return 0.5 * float(value), 0.5 * np.array([np.sum(slope * derivative) for derivative in derivatives])

    def _covariance(self, shape: FloatArray) -> tuple[FloatArray, list[FloatArray]]:
        """Of the values, in units of the kernel's variance, and its derivatives by the shape."""
        precision, (peculiar, shift, noise) = np.exp(-2 * shape[0]), np.exp(shape[1:])
        kernel = np.exp(-0.5 * precision * self._squares)
        parts = [peculiar * self._shared * kernel, shift * self._shared, noise * self._own]
        smooth = kernel + parts[0]
        covariance = smooth + parts[1] + parts[2] + 1e-9 * np.eye(len(kernel))
        return covariance, [precision * self._squares * smooth, *parts]

    def _solution(self, inverse: FloatArray) -> tuple[float, FloatArray, float]:
        """The level, by generalised least squares, the weights (n,) of a prediction, and the kernel's variance."""
        level = float(inverse.sum(axis=0) @ self._values / inverse.sum())
        weights = inverse @ (self._values - level)
        return level, weights, float((self._values - level) @ weights) / (len(inverse) - 1)

    def _kernel(self, first: FloatArray, second: FloatArray) -> FloatArray:
        return np.asarray(np.exp(-0.5 * self._precision * squared_distances(first, second)))

    def _scaled(self, vectors: FloatArray) -> FloatArray:
        return np.asarray((vectors - self._origin) / self._unit)


def surrogate(scored: Sequence[Scored], variables: Sequence[Variable]) -> Surrogate | None:
    """The model of the candidates that were ``scored`` on all anchors and keep to the constraints.

    None where genes are other than real, or matter only under conditions: there near is not alike. And None of fewer
    than FEWEST of them or two a gene, or of equal ones.
    """
    if any(variable.kind is not Kind.REAL or variable.when is not None for variable in variables):
        return None
    known = [(s, s.assessment.fitness) for s in scored if s.complete and s.assessment and s.assessment.violation <= 0]
    known = known[-MOST:]
    values = np.array([fitness for _, fitness in known])
    if len(known) < max(FEWEST, 2 * len(variables)) or np.ptp(values) == 0:
        return None
    sets = [{(batch, step) for batch in s.place.batches for step in range(s.place.rung + 1)} for s, _ in known]
    columns = {each: column for column, each in enumerate(sorted(set().union(*sets)))}
    anchors = np.zeros((len(known), len(columns)))
    for row, of in zip(anchors, sets, strict=True):
        row[[columns[each] for each in of]] = 1.0 / len(of)
    return Surrogate(np.array([s.vector for s, _ in known]), values, anchors)


def _inverted(matrix: FloatArray) -> FloatArray:
    return np.asarray(np.linalg.inv(matrix), dtype=np.float64)
