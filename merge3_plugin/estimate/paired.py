"""The difference of two models on the same items: what differs between the items cancels out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from merge3_plugin.errors import DataError
from merge3_plugin.estimate.design import effective_size


@dataclass(frozen=True)
class PairedDifference:
    """First model less second, as a weighted mean over tasks; ``interval`` (low, high) holds it at ``confidence``.

    The interval is for items like these, of which the ``n_items`` are a sample.
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
    confidence: float = 0.95,
) -> PairedDifference:
    """Compare answers (task -> item id -> score in [0, 1]) on shared items; tasks count by their share of ``weights``.

    ``balance`` (task -> item id) says how much an item counts within its task, where they do not all count alike: they
    then know as much as Kish's effective number of items.

    Within a task it is the adjusted Wald interval of Agresti and Min (Statistics in Medicine 24, 2005) for paired
    proportions: half an item is added to each of the four outcomes, so that it is not of zero width for models that
    answered alike. Graded scores enter as they are. Raises DataError where the two did not answer the same items.
    """
    total = sum(abs(weights[task]) for task in first)
    difference = centre = variance = 0.0
    n_items = 0
    for task, scores in first.items():
        if not scores or scores.keys() != second[task].keys():
            raise DataError(f"task {task!r}: expected two models' answers on the same items; score both on all of them")
        deltas = np.array([score - second[task][item] for item, score in scores.items()])
        counts = np.array([(balance or {}).get(task, {}).get(item, 1.0) for item in scores])
        known, mean = effective_size(counts), float(np.average(deltas, weights=counts))
        share, size = weights[task] / total, known + 2
        adjusted = known * mean / size
        difference += share * mean
        centre += share * adjusted
        squares = known * float(np.average(deltas**2, weights=counts))
        variance += share**2 * ((squares + 1) / size - adjusted**2) / size
        n_items += len(deltas)
    standard_error = float(np.sqrt(variance))
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * standard_error
    interval = max(-1.0, centre - half), min(1.0, centre + half)
    return PairedDifference(difference, standard_error, interval, confidence, n_items)
