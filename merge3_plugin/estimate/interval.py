"""Intervals from cross-validated errors, in one unit: the variance of the mean of a simple random sample.

An estimator's ``ratio`` is its squared error on models that the calibration has not seen over that variance. The unit
carries what is known for sure (fewer items and accuracies near 1/2 vary more), the ratio what must be learned, so that
models of any accuracy teach it. Few models teach it badly: as in limma's moderated variances (Smyth, Statistical
Applications in Genetics 3, 2004) it is shrunk towards a prior, by which the interval is also finite without any model.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from merge3_plugin.estimate.design import Z

# The prior weighs as much as so many degrees of freedom: enough to tame three models, little beside twenty.
PRIOR_DEGREES = 3.0


class Moderated(NamedTuple):
    """A ratio of squared error to the variance of a random sample, and the ``degrees`` of freedom behind it."""

    ratio: float
    degrees: float

    @property
    def quantile(self) -> float:
        """97.5 % quantile of Student's t."""
        return _quantile(self.degrees)


@lru_cache(maxsize=256)
def _quantile(degrees: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.975))


def moderated(ratio: float, degrees: float, prior: float = 1.0) -> Moderated:
    """A ``ratio`` known with so many degrees of freedom (0: not at all), shrunk to the ``prior``."""
    total = PRIOR_DEGREES + degrees
    return Moderated((PRIOR_DEGREES * prior + degrees * ratio) / total, total)


def degrees_of_freedom(floor: float, n_models: int, n_draws: int) -> float:
    """How well a mean squared error over ``n_models`` and, in all, ``n_draws`` draws of anchors is known.

    The share ``floor`` of it is a model's own and the same in each of its draws, the rest the draw's: by the variances
    of the squares of normal errors (Satterthwaite 1946) it is as well known as that of so many independent errors. Few
    models show the floor badly: it is shrunk to one half.
    """
    own = (PRIOR_DEGREES * 0.5 + n_models * floor) / (PRIOR_DEGREES + n_models)
    return 1.0 / (own**2 / n_models + (1.0 - own**2) / n_draws)


def variance_unit(size: float, n_items: int) -> float:
    """u with u A (1 - A) the variance of the mean of ``size`` of ``n_items`` answers whose overall mean is A."""
    return max(n_items - size, 0.0) / (size * (n_items - 1)) if n_items > 1 else 0.0


def error_unit(n_scored: int, n_anchors: int, n_items: int, floor: float) -> float:
    """The `variance_unit` of ``n_scored`` items for a ratio that was measured at ``n_anchors``.

    The share ``floor`` of the squared error does not vary with the anchors: of items scored beside them it loses only
    what these items no longer leave to be guessed. For fewer items than anchors all of it is taken to grow.
    """
    unit = variance_unit(n_scored, n_items)
    if n_scored <= n_anchors:
        return unit
    left = (n_items - n_scored) / (n_items - n_anchors)
    return (1.0 - floor) * unit + floor * variance_unit(n_anchors, n_items) * left**2


def score_interval(accuracy: float, unit: float, quantile: float) -> tuple[float, float]:
    """All A in [0, 1] with |A - accuracy| <= quantile sqrt(unit A (1 - A)): Wilson's interval (low, high).

    It holds ``accuracy``, is asymmetric near 0 and 1, where it is not of zero width, and is exact where unit is 0.
    """
    spread = quantile**2 * unit
    centre = (accuracy + spread / 2) / (1 + spread)
    half = np.sqrt(spread * (accuracy * (1 - accuracy) + spread / 4)) / (1 + spread)
    return max(0.0, min(accuracy, float(centre - half))), min(1.0, max(accuracy, float(centre + half)))


def standard_error(interval: tuple[float, float]) -> float:
    """Half the interval's width over 1.96, so that it is not 0 where all answers are right."""
    return (interval[1] - interval[0]) / (2 * Z)
