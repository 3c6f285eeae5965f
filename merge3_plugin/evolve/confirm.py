"""Confirmation: the search's best, its mean, the uniform merge and every parent, on items that no choice has seen."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from merge3_plugin.domain import Estimate
from merge3_plugin.estimate.design import sample_mean
from merge3_plugin.estimate.paired import PairedDifference, paired_difference
from merge3_plugin.harness.benchmark import Benchmark

# Task -> item id -> how much the item counts in its task; tasks whose items all count alike are absent.
Balance = Mapping[str, Mapping[str, float]]

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


def balance_of(benchmarks: Mapping[str, Benchmark], items: Mapping[str, Sequence[str]]) -> Balance:
    """How much each of ``items`` (task -> ids) counts."""
    counts = {task: benchmarks[task].balance_of(ids) for task, ids in items.items()}
    return {task: dict(zip(items[task], of, strict=True)) for task, of in counts.items() if of is not None}


def confirmed(
    label: str,
    candidate: str,
    answers: Mapping[str, Mapping[str, float]],
    weights: Mapping[str, float],
    balance: Balance | None = None,
) -> Confirmed:
    """``answers`` (task -> held-out item id -> score) as accuracies; ``overall`` is their mean by ``weights``."""

    def accuracy(task: str, scores: Mapping[str, float]) -> Estimate:
        counts = (balance or {}).get(task)
        of_items = None if counts is None else np.array([counts[item] for item in scores])
        # Of a population without end: what is asked is how the model does on further items of this kind.
        return sample_mean(np.array(list(scores.values())), sys.maxsize, weights=of_items, method="held-out mean")

    accuracies = {task: accuracy(task, scores) for task, scores in answers.items()}
    total = sum(abs(weights[task]) for task in answers)
    overall = sum(weights[task] * accuracies[task].accuracy for task in answers) / total
    return Confirmed(label, candidate, answers, accuracies, overall)


def judge(
    finalists: Sequence[Confirmed],
    parents: Sequence[Confirmed],
    uniform: Confirmed | None,
    weights: Mapping[str, float],
    balance: Balance | None = None,
    same_items: Mapping[str, str] | None = None,
) -> Verdict:
    """The finalist that does best on the held-out items, and whether it beats the best parent.

    ``same_items`` is as in `paired_difference`.

    The winner is chosen on the very items that judge it, so its intervals are widened (Bonferroni) by the number of
    finalists. The best parent is likewise the best on these items, which makes the test the harder one.
    """
    winner = max(finalists, key=lambda c: c.overall)
    best = max(parents, key=lambda c: c.overall)
    confidence = 1 - 0.05 / len(finalists)

    def against(other: Confirmed) -> PairedDifference:
        return paired_difference(
            winner.answers,
            other.answers,
            weights=weights,
            balance=balance,
            same_items=same_items,
            confidence=confidence,
        )

    difference = against(best)
    low, high = difference.interval
    text = BETTER if low > 0 else WORSE if high < 0 else NOT_SHOWN
    return Verdict(winner, best, difference, None if uniform is None else against(uniform), text)
