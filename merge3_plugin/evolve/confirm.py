"""Confirmation: the search's best, its mean, the uniform merge and every parent, on items that no choice has seen."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from merge3_plugin.domain import Estimate
from merge3_plugin.estimate.design import sample_mean
from merge3_plugin.estimate.paired import PairedDifference, paired_difference

BETTER, WORSE = "better than the best parent", "worse than the best parent"
NOT_SHOWN = "not shown to be better than the best parent"


@dataclass(frozen=True)
class Confirmed:
    """A model on the held-out items: its accuracy by task, each with the interval for items like these."""

    label: str
    candidate: str
    answers: Mapping[str, Mapping[str, float]]
    accuracies: Mapping[str, Estimate]
    overall: float


@dataclass(frozen=True)
class Verdict:
    """The winner and its paired differences; intervals hold jointly over the finalists that it was chosen from."""

    winner: Confirmed
    best_parent: Confirmed
    against_parent: PairedDifference
    against_uniform: PairedDifference | None
    text: str


def confirmed(
    label: str, candidate: str, answers: Mapping[str, Mapping[str, float]], weights: Mapping[str, float]
) -> Confirmed:
    """``answers`` (task -> held-out item id -> score) as accuracies; ``overall`` is their mean by ``weights``."""
    accuracies = {
        # Of a population without end: what is asked is how the model does on further items of this kind.
        task: sample_mean(np.array(list(scores.values())), sys.maxsize, method="held-out mean")
        for task, scores in answers.items()
    }
    total = sum(abs(weights[task]) for task in answers)
    overall = sum(weights[task] * accuracies[task].accuracy for task in answers) / total
    return Confirmed(label, candidate, answers, accuracies, overall)


def judge(
    finalists: Sequence[Confirmed],
    parents: Sequence[Confirmed],
    uniform: Confirmed | None,
    weights: Mapping[str, float],
) -> Verdict:
    """The finalist that does best on the held-out items, and whether it beats the best parent.

    The winner is chosen on the very items that judge it, so its intervals are widened (Bonferroni) by the number of
    finalists. The best parent is likewise the best on these items, which makes the test the harder one.
    """
    winner = max(finalists, key=lambda c: c.overall)
    best = max(parents, key=lambda c: c.overall)
    confidence = 1 - 0.05 / len(finalists)

    def against(other: Confirmed) -> PairedDifference:
        return paired_difference(winner.answers, other.answers, weights=weights, confidence=confidence)

    difference = against(best)
    low, high = difference.interval
    text = BETTER if low > 0 else WORSE if high < 0 else NOT_SHOWN
    return Verdict(winner, best, difference, None if uniform is None else against(uniform), text)
