"""What the search maximises: estimated accuracies and whole-benchmark metrics, by task or as their weighted sum."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from merge3_plugin.config import RunConfig
from merge3_plugin.domain import AnchorSet, Calibration, Estimate, ResponseMatrix
from merge3_plugin.errors import ConfigError, DataError
from merge3_plugin.estimate.anchored import with_anchors
from merge3_plugin.estimate.auto import run
from merge3_plugin.estimate.base import Evidence, gather
from merge3_plugin.estimate.paired import Estimated, PairedDifference, estimated_difference
from merge3_plugin.evolve.constraints import Floor, violation
from merge3_plugin.evolve.population import Population
from merge3_plugin.harness.scoring import Scores
from merge3_plugin.plugins import plugin_host


@dataclass(frozen=True, eq=False)
class Objective:
    """One task, ready to be estimated: its search items are the benchmark whose accuracy is estimated.

    ``parents`` are the parents' answers on the search items; ``soft_breaks_ties`` says whether soft scores may.
    """

    name: str
    weight: float
    population: Population
    calibration: Calibration
    parents: ResponseMatrix
    estimator: str
    soft_breaks_ties: bool = False

    @property
    def anchors(self) -> tuple[str, ...]:
        return self.calibration.anchors.item_ids

    def on(self, anchors: AnchorSet) -> Objective:
        """The same objective, estimated from these anchors."""
        return replace(self, calibration=with_anchors(self.calibration, anchors))

    def estimated(self, scores: Scores) -> Estimated:
        """The accuracy on the search items estimated from ``scores`` on some of them."""
        return self._estimated(gather(self.calibration, scores.right, self.parents, scores.soft))

    def estimated_again(self, estimated: Estimated) -> Estimated:
        """The same of the same answers on the same anchors, under the calibration of now."""
        calibration = with_anchors(self.calibration, estimated.evidence.calibration.anchors)
        if calibration is estimated.evidence.calibration:
            return estimated
        return self._estimated(replace(estimated.evidence, calibration=calibration))

    def on_common_items(self, first: Estimated, second: Estimated) -> tuple[Estimated, Estimated]:
        """Both estimated from the items of one, where those are among the items of the other; else as they are."""
        if np.array_equal(first.evidence.positions, second.evidence.positions):
            return first, second
        if np.isin(second.evidence.positions, first.evidence.positions).all():
            return self._estimated(_as_scored(first.evidence, second.evidence)), second
        if np.isin(first.evidence.positions, second.evidence.positions).all():
            return first, self._estimated(_as_scored(second.evidence, first.evidence))
        return first, second

    def _estimated(self, evidence: Evidence) -> Estimated:
        return Estimated(evidence, run(self.estimator, evidence))

    def disagreement(self, estimated: Estimated) -> float:
        """Half of what the estimate from every other answer differs from that of the rest; 0.0 where nothing is left.

        Among candidates that answered the same items it varies as their errors do beside each other: what errs alike
        for all of them is left out. That is split-half reliability (Spearman and Brown 1910), here of a sample from a
        finite population. Estimators that lean on a model where answers are few make it too small: by half, or more.
        """
        evidence = estimated.evidence
        if not 2 <= evidence.n_scored < evidence.n_items:
            return 0.0
        first, second = (self._estimated(_every_other(evidence, start)).estimate.accuracy for start in (0, 1))
        return math.sqrt(1.0 - evidence.n_scored / evidence.n_items) * (first - second) / 2

    def tie_breaker(self, evidence: Evidence) -> float:
        """Mean soft score of the scored items by their weights, or 0 where soft scores do not break ties."""
        if not self.soft_breaks_ties or evidence.soft is None:
            return 0.0
        return float(evidence.weights @ np.where(np.isnan(evidence.soft), evidence.scores, evidence.soft))


def _as_scored(evidence: Evidence, other: Evidence) -> Evidence:
    """Of the ``evidence`` what was scored in the ``other``, on its anchors."""
    places = np.searchsorted(evidence.positions, other.positions)
    soft = None if evidence.soft is None else evidence.soft[places]
    return Evidence(other.calibration, other.positions, evidence.scores[places], evidence.parents, soft)


def _every_other(evidence: Evidence, start: int) -> Evidence:
    soft = None if evidence.soft is None else evidence.soft[start::2]
    return replace(evidence, positions=evidence.positions[start::2], scores=evidence.scores[start::2], soft=soft)


@dataclass(frozen=True, eq=False)
class Assessment:
    """What the answers of a candidate on the anchors say of it; ``whole`` are its whole-benchmark metrics.

    ``fitness`` is the weighted sum of both, ``standard_error`` its standard error (whole-benchmark metrics carry none).
    ``tie_breaker`` decides between candidates of equal fitness, and never otherwise. ``values`` are the same by task,
    in the order of `Objectives.signs`, each with the sign of its weight: greater is better; ``variances`` are theirs.
    ``violation`` is how far constraints are broken in all, 0.0 where they hold.
    """

    estimated: Mapping[str, Estimated]
    whole: Mapping[str, float]
    fitness: float
    standard_error: float
    tie_breaker: float
    values: tuple[float, ...] = ()
    variances: tuple[float, ...] = ()
    violation: float = 0.0

    @property
    def estimates(self) -> dict[str, Estimate]:
        return {task: estimated.estimate for task, estimated in self.estimated.items()}

    @property
    def rank(self) -> tuple[float, float, float]:
        """Greater is better; where constraints are broken, the less the better, whatever the fitness."""
        return -self.violation, self.fitness, self.tie_breaker


@dataclass(frozen=True, eq=False)
class Objectives:
    """All tasks of a run; ``whole`` maps the tasks that are evaluated in full to their weights.

    ``same_items`` maps each task to the name that it shares with other metrics of its items (`paired_difference`);
    ``floors`` are the constraints.
    """

    items: Sequence[Objective]
    whole: Mapping[str, float]
    same_items: Mapping[str, str]
    floors: Sequence[Floor] = ()

    @property
    def signs(self) -> dict[str, float]:
        """1.0 or -1.0 for each task that is an objective of its own, in the order of `Assessment.values`.

        A task of weight 0 is none: it is measured, and may have a floor.
        """
        weights = {**{o.name: o.weight for o in self.items}, **self.whole}
        return {name: math.copysign(1.0, weight) for name, weight in weights.items() if weight}

    def anchors(self) -> dict[str, tuple[str, ...]]:
        return {objective.name: objective.anchors for objective in self.items}

    def assess(self, answers: Mapping[str, Scores], whole: Mapping[str, float]) -> Assessment:
        """The assessment of a candidate by its answers, by task, and its ``whole`` metrics.

        Raises DataError for a metric that is NaN or infinite: no order has a place for it.
        """
        for task in self.whole:
            if not math.isfinite(whole[task]):
                raise DataError(f"task {task!r}: expected a finite metric of the candidate, got {whole[task]}")
        return self._assessment({o.name: o.estimated(answers[o.name]) for o in self.items}, whole)

    def assess_again(self, assessment: Assessment) -> Assessment:
        """The same answers under these calibrations."""
        estimated = {o.name: o.estimated_again(assessment.estimated[o.name]) for o in self.items}
        return self._assessment(estimated, assessment.whole)

    def _assessment(self, estimated: Mapping[str, Estimated], whole: Mapping[str, float]) -> Assessment:
        fitness = sum(o.weight * estimated[o.name].estimate.accuracy for o in self.items)
        accuracies = {name: of.estimate.accuracy for name, of in estimated.items()}
        found, errors = {**accuracies, **whole}, {n: of.estimate.standard_error for n, of in estimated.items()}
        return Assessment(
            estimated,
            whole,
            fitness + self._of_whole(whole),
            self._standard_error(errors),
            sum(o.weight * o.tie_breaker(estimated[o.name].evidence) for o in self.items),
            tuple(sign * found[name] for name, sign in self.signs.items()),
            tuple(errors.get(name, 0.0) ** 2 for name in self.signs),
            violation(self.floors, accuracies),
        )

    def disagreements(self, assessment: Assessment, *, apart: bool) -> tuple[float, ...]:
        """`Objective.disagreement` of each value if ``apart``, or of the fitness.

        Whole-benchmark metrics have no halves, and count as exact.
        """
        found = {o.name: o.disagreement(assessment.estimated[o.name]) for o in self.items}
        if apart:
            return tuple(sign * found.get(name, 0.0) for name, sign in self.signs.items())
        return (sum(o.weight * found[o.name] for o in self.items),)

    def _standard_error(self, of_tasks: Mapping[str, float]) -> float:
        """Of the fitness: errors of metrics of the same items add up, those of different items are independent."""
        errors: dict[str, float] = defaultdict(float)
        for objective in self.items:
            errors[self.same_items[objective.name]] += abs(objective.weight) * of_tasks[objective.name]
        return math.hypot(*errors.values())

    def _of_whole(self, values: Mapping[str, float]) -> float:
        return sum(weight * values[task] for task, weight in self.whole.items())

    def difference(self, first: Assessment, second: Assessment, *, confidence: float = 0.95) -> PairedDifference:
        """First less second in fitness, over the sum of the estimated tasks' weights: as a rule, in accuracy.

        Paired wherever one was scored on all items of the other: on those.
        """
        weights = {objective.name: objective.weight for objective in self.items}
        total = sum(map(abs, weights.values())) or 1.0
        exact = (self._of_whole(first.whole) - self._of_whole(second.whole)) / total
        pairs = {o.name: o.on_common_items(first.estimated[o.name], second.estimated[o.name]) for o in self.items}
        return estimated_difference(
            {task: pair[0] for task, pair in pairs.items()},
            {task: pair[1] for task, pair in pairs.items()},
            weights=weights,
            exact=exact,
            same_items=self.same_items,
            confidence=confidence,
        )


def several_objectives(config: RunConfig) -> bool:
    """Whether the search sees each task by itself: at least two count, and strategy or scalarisation keep them apart.

    The result is then a front, not one best merge.
    """
    search = config.merge3.search
    apart = search.scalarisation != "sum" or takes_several(search.optimizer)
    return apart and sum(bool(task.weight) for task in config.tasks) > 1


def takes_several(optimizer: str) -> bool:
    """Whether the strategy of this name takes several objectives; one that nobody offers does not."""
    entry = plugin_host().optimizers().get(optimizer)
    return entry is not None and entry.several_objectives


# Strategies whose survivors, or whose model, keep the values they had: under other weights these say something else.
KEEP_VALUES = ("ga", "de", "lq-cma-es")


def check_objectives(config: RunConfig) -> list[str]:
    """What a person should know of the objectives, a line each.

    Raises ConfigError where strategy, scalarisation, weights and constraints do not fit each other.
    """
    search, tasks = config.merge3.search, config.objectives()
    apart = takes_several(search.optimizer)
    _check_scalarisation(config, apart)
    if not apart and search.scalarisation == "sum":
        return []
    named = search.optimizer if apart else f"scalarisation: {search.scalarisation}"
    if config.merge3.fidelity.strategy == "racing":
        raise ConfigError(
            f"fidelity.strategy: racing gives up what is worse than one best merge, and {named} has a front of them; "
            "use halving or hyperband"
        )
    counting = [name for name, task in tasks.items() if task.weight]
    if len(counting) < 2:
        raise ConfigError(
            f"search: {named} is for at least two tasks of a weight other than 0, got {', '.join(counting)} alone; "
            "add one, or leave that out"
        )
    floored = {constraint.task for constraint in config.merge3.constraints}
    for name, task in tasks.items():
        if not task.weight and name not in floored:
            raise ConfigError(
                f"task {name}: of weight 0 it is no objective of {named}; give it a weight or a floor "
                "(merge3.constraints), or name it in merge3.held_out_tasks"
            )
    if len({abs(tasks[name].weight) for name in counting}) == 1:
        return []
    return [
        f"weights: {named} sees each task by itself, whatever its weight; weights only choose which merge is written "
        "as the best, and `merge3 pick` chooses others of the front"
    ]


def _check_scalarisation(config: RunConfig, apart: bool) -> None:
    search = config.merge3.search
    if search.scalarisation == "sum":
        return
    if apart:
        raise ConfigError(
            f"search.scalarisation: {search.optimizer} sees each task by itself, got {search.scalarisation}, which "
            "makes one objective of them; leave it out, or search with cma-es or tpe"
        )
    if search.optimizer in KEEP_VALUES:
        raise ConfigError(
            f"search.scalarisation: weights change as the search learns, and {search.optimizer} keeps values under old "
            "ones; search with nsga2, or scalarise for cma-es, tpe or gp"
        )
