"""The difference of two models on the same items: what differs between the items cancels out."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from merge3_plugin.domain import Estimate, FloatArray
from merge3_plugin.errors import DataError
from merge3_plugin.estimate.base import Evidence, moderated_difference
from merge3_plugin.estimate.design import effective_size
from merge3_plugin.estimate.interval import variance_unit


@dataclass(frozen=True)
class PairedDifference:
    """First model less second, as a weighted mean over tasks; ``interval`` (low, high) holds it at ``confidence``.

    The interval is for items like these, of which the ``n_items`` are a sample; of estimates, for the items that are
    estimated from them.
    """

    difference: float
    standard_error: float
    interval: tuple[float, float]
    confidence: float
    n_items: int


def paired_difference(
    first: Mapping[str, Mapping[str, float]],
    second: Mapping[str, Mapping[str, float]],
    *,
    weights: Mapping[str, float],
    balance: Mapping[str, Mapping[str, float]] | None = None,
    same_items: Mapping[str, str] | None = None,
    confidence: float = 0.95,
) -> PairedDifference:
    """Compare answers (task -> item id -> score in [0, 1]) on shared items; tasks count by their share of ``weights``.

    ``same_items`` maps those of the tasks that are several metrics of the same items to one name: their errors may be
    one and the same, so they add up, where those of other tasks are independent.

    ``balance`` (task -> item id) says how much an item counts within its task, where they do not all count alike: they
    then know as much as Kish's effective number of items.

    Within a task it is the adjusted Wald interval of Agresti and Min (Statistics in Medicine 24, 2005) for paired
    proportions: half an item is added to each of the four outcomes, so that it is not of zero width for models that
    answered alike. Graded scores enter as they are. Raises DataError where the two did not answer the same items.
    """
    total = sum(abs(weights[task]) for task in first)
    difference = centre = 0.0
    errors: dict[str, float] = defaultdict(float)
    n_items = 0
    for task, scores in first.items():
        if not scores or scores.keys() != second[task].keys():
            raise DataError(f"task {task!r}: expected two models' answers on the same items; score both on all of them")
        deltas = np.array([score - second[task][item] for item, score in scores.items()])
        counts = np.array([(balance or {}).get(task, {}).get(item, 1.0) for item in scores])
        moments, share = _moments(deltas, counts), weights[task] / total
        difference += share * float(np.average(deltas, weights=counts))
        centre += share * moments.mean
        errors[(same_items or {}).get(task, task)] += abs(share) * math.sqrt(moments.variance / moments.size)
        n_items += len(deltas)
    standard_error = math.hypot(*errors.values())
    half = _normal(confidence) * standard_error
    interval = max(-1.0, centre - half), min(1.0, centre + half)
    return PairedDifference(difference, standard_error, interval, confidence, n_items)


class _Moments(NamedTuple):
    """Mean and variance of paired differences after Agresti and Min's adjustment, and the ``size`` behind them."""

    mean: float
    variance: float
    size: float


def _moments(deltas: FloatArray, counts: FloatArray) -> _Moments:
    known = effective_size(counts)
    size = known + 2
    mean = known * float(np.average(deltas, weights=counts)) / size
    squares = known * float(np.average(deltas**2, weights=counts))
    return _Moments(mean, (squares + 1) / size - mean**2, size)


class Estimated(NamedTuple):
    """A model's answers on some items of a benchmark, and the estimate made from them."""

    evidence: Evidence
    estimate: Estimate


def estimated_difference(
    first: Mapping[str, Estimated],
    second: Mapping[str, Estimated],
    *,
    weights: Mapping[str, float],
    exact: float = 0.0,
    same_items: Mapping[str, str] | None = None,
    confidence: float = 0.95,
) -> PairedDifference:
    """Compare the estimates of two models by task, best made from the same items; tasks as in `paired_difference`.

    The variance is that of the mean of their differences on a random sample of as many items, times the ratio that the
    estimator reaches in cross-validation (`moderated_difference`); Student's t has the ratios' degrees of freedom
    (Welch and Satterthwaite). Of a task in which the two were scored on different items, nothing cancels out: the
    errors of the two estimates count as independent. ``exact`` is a further difference without error, already in the
    units of the result.
    """
    total = sum(abs(weights[task]) for task in first) or 1.0
    difference, errors, degrees = exact, defaultdict[str, float](float), defaultdict[str, float](lambda: math.inf)
    for task, (evidence, estimate) in first.items():
        other, share = second[task], weights[task] / total
        difference += share * (estimate.accuracy - other.estimate.accuracy)
        items = (same_items or {}).get(task, task)
        if np.array_equal(evidence.positions, other.evidence.positions):
            moments = _moments(evidence.scores - other.evidence.scores, evidence.weights)
            ratio = moderated_difference(evidence.calibration, estimate.method)
            own = math.sqrt(ratio.ratio * variance_unit(evidence.n_scored, evidence.n_items) * moments.variance)
            degrees[items] = min(degrees[items], ratio.degrees)
        else:
            # Their standard errors are as wide as their intervals, which count the degrees of freedom already.
            own = math.hypot(estimate.standard_error, other.estimate.standard_error)
        errors[items] += abs(share) * own
    standard_error = math.hypot(*errors.values())
    spread = sum(errors[items] ** 4 / degrees[items] for items in errors)
    quantile = _student(standard_error**4 / spread, confidence) if spread > 0 else _normal(confidence)
    half = quantile * standard_error
    n_items = sum(evidence.n_scored for evidence, _ in first.values())
    return PairedDifference(difference, standard_error, (difference - half, difference + half), confidence, n_items)


def _normal(confidence: float) -> float:
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def _student(degrees: float, confidence: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.5 + confidence / 2))
