"""Intervals that rest on how the items were drawn and on nothing else: they hold for any model, however odd.

The anchors are taken as a random draw without replacement from a finite benchmark. For a draw of one item from each of
equal groups this is conservative: its variance is at most about that of a simple random sample.
"""

from __future__ import annotations

import numpy as np

from merge3_plugin.domain import Estimate, FloatArray

Z = 1.959963984540054


def effective_size(weights: FloatArray) -> float:
    """Kish's number of equally weighted items that know as much as these weighted ones, (sum w)^2 / sum w^2."""
    return float(weights.sum() ** 2 / (weights**2).sum())


def sampling_variance(mean: float, size: float, n_items: int) -> float:
    """Largest variance of the mean of ``size`` of ``n_items`` scores in [0, 1] whose overall mean is ``mean``.

    Exact for right or wrong answers; scores in between vary less.
    """
    return mean * (1.0 - mean) / size * (n_items - size) / (n_items - 1) if size < n_items else 0.0


def wilson_interval(mean: float, size: float, n_items: int) -> tuple[float, float]:
    """95 % Wilson score interval (low, high) of the finite population's mean.

    The finite-population correction enters as a larger sample, size (N - 1) / (N - size). Its width is not zero where
    all answers are right or all wrong, unless all items were scored.
    """
    if size >= n_items:
        return mean, mean
    n = size * (n_items - 1) / (n_items - size)
    centre = (mean + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * np.sqrt(mean * (1 - mean) / n + Z**2 / (4 * n**2))
    return max(0.0, min(mean, float(centre - half))), min(1.0, max(mean, float(centre + half)))


def sample_mean(
    scores: FloatArray, n_items: int, *, weights: FloatArray | None = None, method: str = "mean"
) -> Estimate:
    """(Weighted) mean of ``scores`` (n,), taken as a random sample of ``n_items``, with its Wilson interval.

    The standard error is the interval's half-width / 1.96, so that it is not 0 where all answers are right. With all
    items scored nothing is left to estimate, whatever the weights.
    """
    # Relative to the largest, so that equal weights are exactly 1 and give exactly the plain mean.
    relative = np.ones(len(scores)) if weights is None else weights / weights.max()
    mean = float(np.clip(np.average(scores, weights=relative), 0.0, 1.0))
    size = n_items if len(scores) == n_items else effective_size(relative)
    low, high = wilson_interval(mean, size, n_items)
    return Estimate(mean, (high - low) / (2 * Z), (low, high), method, len(scores), n_items)
