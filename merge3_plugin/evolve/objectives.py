"""What the search maximises: the weighted sum, over the tasks, of estimated accuracies and whole-benchmark metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from merge3_plugin.domain import Calibration, Estimate, ResponseMatrix
from merge3_plugin.estimate.auto import resolve
from merge3_plugin.estimate.base import gather, run_estimator
from merge3_plugin.evolve.population import Population
from merge3_plugin.harness.scoring import Scores


@dataclass(frozen=True, eq=False)
class Objective:
    """One task, ready to be estimated: its search items are the benchmark whose accuracy is estimated.

    ``parents`` are the parents' answers on the search items.
    """

    name: str
    weight: float
    population: Population
    calibration: Calibration
    parents: ResponseMatrix
    estimator: str

    @property
    def anchors(self) -> tuple[str, ...]:
        return self.calibration.anchors.item_ids

    def estimate(self, scores: Scores) -> Estimate:
        """Estimated accuracy on the search items from ``scores`` on some of them."""
        estimator = resolve(self.estimator, self.calibration, parents_known=True)
        return run_estimator(estimator, gather(self.calibration, scores.right, self.parents, scores.soft))


@dataclass(frozen=True, eq=False)
class Objectives:
    """All tasks of a run; ``whole`` maps the tasks that are evaluated in full to their weights."""

    items: Sequence[Objective]
    whole: Mapping[str, float]

    def anchors(self) -> dict[str, tuple[str, ...]]:
        return {objective.name: objective.anchors for objective in self.items}

    def assess(self, answers: Mapping[str, Scores], whole: Mapping[str, float]) -> tuple[dict[str, Estimate], float]:
        """The estimate of each task from the answers by task, and the fitness."""
        estimates = {objective.name: objective.estimate(answers[objective.name]) for objective in self.items}
        fitness = sum(objective.weight * estimates[objective.name].accuracy for objective in self.items)
        return estimates, fitness + sum(weight * whole[task] for task, weight in self.whole.items())

    def standard_error(self, estimates: Mapping[str, Estimate]) -> float:
        """Standard error of the fitness; whole-benchmark metrics carry none."""
        return math.sqrt(sum((o.weight * estimates[o.name].standard_error) ** 2 for o in self.items))
