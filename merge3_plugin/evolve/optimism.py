"""The winner's curse, measured: how much the search thought of its best beyond what they are.

The best of many noisy estimates is, as a rule, one that noise has raised. The held-out items know nothing of that
choice, so what the estimate says more than they do is its optimism: a finding about this search, and by how much less
to take its figures where nothing was held out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from merge3_plugin.domain import Estimate
from merge3_plugin.estimate.design import Z, effective_size
from merge3_plugin.evolve.confirm import Confirmed, Scale


@dataclass(frozen=True)
class Shift:
    """An estimate less the confirmed accuracy, with its standard error and 95 % interval (low, high)."""

    difference: float
    standard_error: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Optimism:
    """The shift of one model by task, and as the mean by the tasks' weights."""

    tasks: Mapping[str, Shift]
    overall: Shift


def optimism(
    estimates: Mapping[str, Estimate], model: Confirmed, search_sizes: Mapping[str, float], scale: Scale
) -> Optimism:
    """How optimistic ``estimates`` (by task, of the search items) are of a confirmed ``model``.

    The two are about different items, so they are independent: the variance is that of the estimate, of the held-out
    mean, and of the search items themselves, a sample of their kind of ``search_sizes`` (effective) items by task.
    """
    shifts = {
        task: _shift(
            estimates[task].accuracy - accuracy.accuracy,
            math.sqrt(
                estimates[task].standard_error ** 2
                + accuracy.standard_error**2 * (1 + _size(model, task, scale) / search_sizes[task])
            ),
        )
        for task, accuracy in model.accuracies.items()
    }
    overall = _shift(
        scale.overall({task: shift.difference for task, shift in shifts.items()}),
        scale.overall_error({task: shift.standard_error for task, shift in shifts.items()}),
    )
    return Optimism(shifts, overall)


def mean_optimism(found: Sequence[Optimism]) -> Shift:
    """The mean over several models, overall. They answer the same items, so their errors count as one and the same."""
    shifts = [each.overall for each in found]
    return _shift(
        sum(shift.difference for shift in shifts) / len(shifts),
        sum(shift.standard_error for shift in shifts) / len(shifts),
    )


def _shift(difference: float, error: float) -> Shift:
    return Shift(difference, error, (difference - Z * error, difference + Z * error))


def _size(model: Confirmed, task: str, scale: Scale) -> float:
    counts = scale.balance.get(task, {})
    return effective_size(np.array([counts.get(item, 1.0) for item in model.answers[task]]))
