"""Confirmation: finalists of the search, the uniform merge and every parent, on items that no choice has seen."""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from merge3_plugin.domain import Estimate, FloatArray
from merge3_plugin.estimate.design import sample_mean
from merge3_plugin.estimate.paired import PairedDifference, paired_difference
from merge3_plugin.evolve.surrogate import Posterior
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
class Scale:
    """How answers become figures: ``weights`` of the tasks, how much their items count, which tasks share items.

    ``same_items`` is as in `paired_difference`.
    """

    weights: Mapping[str, float]
    balance: Balance = field(default_factory=dict)
    same_items: Mapping[str, str] = field(default_factory=dict)

    def confirmed(self, label: str, candidate: str, answers: Mapping[str, Mapping[str, float]]) -> Confirmed:
        """``answers`` (task -> item id -> score) as accuracies; ``overall`` is their mean by the tasks' weights."""
        accuracies = {task: self._accuracy(task, scores) for task, scores in answers.items()}
        return Confirmed(
            label, candidate, answers, accuracies, self.overall({t: a.accuracy for t, a in accuracies.items()})
        )

    def overall(self, by_task: Mapping[str, float]) -> float:
        """The mean of one figure a task by the tasks' weights."""
        total = sum(abs(self.weights[task]) for task in by_task)
        return sum(self.weights[task] * figure for task, figure in by_task.items()) / total

    def overall_error(self, by_task: Mapping[str, float]) -> float:
        """The standard error of `overall`: errors of metrics of the same items add up, others are independent."""
        total = sum(abs(self.weights[task]) for task in by_task)
        errors: dict[str, float] = defaultdict(float)
        for task, error in by_task.items():
            errors[self.same_items.get(task, task)] += abs(self.weights[task]) * error / total
        return math.hypot(*errors.values())

    def difference(self, first: Confirmed, second: Confirmed, *, confidence: float = 0.95) -> PairedDifference:
        """First less second, by the tasks' weights, paired on the items."""
        return paired_difference(
            first.answers,
            second.answers,
            weights=self.weights,
            balance=self.balance,
            same_items=self.same_items,
            confidence=confidence,
        )

    def by_task(self, first: Confirmed, second: Confirmed, *, confidence: float = 0.95) -> dict[str, PairedDifference]:
        """First less second on each task by itself."""
        return {
            task: paired_difference(
                {task: first.answers[task]},
                {task: second.answers[task]},
                weights={task: 1.0},
                balance=self.balance,
                confidence=confidence,
            )
            for task in first.answers
        }

    def _accuracy(self, task: str, scores: Mapping[str, float]) -> Estimate:
        counts = self.balance.get(task)
        of_items = None if counts is None else np.array([counts[item] for item in scores])
        # Of a population without end: what is asked is how the model does on further items of this kind.
        return sample_mean(np.array(list(scores.values())), sys.maxsize, weights=of_items, method="held-out mean")


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


def judge(
    finalists: Sequence[Confirmed],
    parents: Sequence[Confirmed],
    uniform: Confirmed | None,
    scale: Scale,
    keeps: Callable[[Confirmed], bool] = lambda model: True,
    prior: Posterior | None = None,
) -> Verdict:
    """The finalist that is likely the best, and whether it beats the best parent on the held-out items.

    That is the one that does best on these, or, where there is a ``prior`` of the finalists' fitness, the best by both
    (`pooled`). Those that ``keeps`` says keep to the constraints go before those that do not.

    The winner is chosen on the very items that judge it, so its intervals are widened (Bonferroni) by the number of
    finalists. The best parent is likewise the best on these items, which makes the test the harder one.
    """
    likely = [c.overall for c in finalists] if prior is None else pooled(finalists, prior, scale)
    winner, _ = max(zip(finalists, likely, strict=True), key=lambda pair: (keeps(pair[0]), pair[1]))
    best = max(parents, key=lambda c: c.overall)
    confidence = 1 - 0.05 / len(finalists)
    difference = scale.difference(winner, best, confidence=confidence)
    low, high = difference.interval
    text = BETTER if low > 0 else WORSE if high < 0 else NOT_SHOWN
    against_uniform = None if uniform is None else scale.difference(winner, uniform, confidence=confidence)
    return Verdict(winner, best, difference, against_uniform, text)


def pooled(finalists: Sequence[Confirmed], prior: Posterior, scale: Scale) -> FloatArray:
    """The accuracies that finalists probably have, shape (k,), but for what is the same for all.

    The posterior mean of a normal ``prior`` of their fitness and of what they have on the held-out items. Only how
    they differ there counts: these items may be easier for all than those of the prior. So few hundred items, on which
    two good merges differ by chance by more than in truth, choose less than the search's own results do, and thousands
    more.
    """
    found = np.array([c.overall for c in finalists])
    total = sum(abs(scale.weights[task]) for task in finalists[0].answers)
    apart = np.array([[_variance(a, b, scale) for b in finalists] for a in finalists])
    # The covariance, but for a shift of all, of which these are the variances of differences (Torgerson 1952).
    centred = apart - apart.mean(axis=0) - apart.mean(axis=1)[:, None] + apart.mean()
    mean, covariance = prior.mean / total, prior.covariance / total**2
    surprise = np.linalg.solve(covariance - 0.5 * centred + 1.0, found - mean)
    return np.asarray(mean + covariance @ surprise)


def _variance(first: Confirmed, second: Confirmed, scale: Scale) -> float:
    return 0.0 if first is second else scale.difference(first, second).standard_error ** 2
