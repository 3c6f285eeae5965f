"""Errors of the estimators on models that the calibration has not seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from merge3_plugin.domain import Calibration, Estimate, FloatArray, ResponseMatrix
from merge3_plugin.estimate.base import CROSS_VALIDATED, KNOWN_SHARE, Evidence, Estimator, run_estimator
from merge3_plugin.extract.anchors import select_anchors
from merge3_plugin.extract.fit import fit_items
from merge3_plugin.plugins import plugin_host

MAX_FOLDS = 10
DRAWS = 4


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """Estimates of models by calibrations that have not seen them.

    ``accuracies`` (M,) are the models' known accuracies; ``estimates[name][m]`` holds one estimate of model m for each draw of
    the anchors.
    """

    model_ids: tuple[str, ...]
    accuracies: FloatArray
    estimates: Mapping[str, tuple[tuple[Estimate, ...], ...]]

    def deviations(self, name: str) -> FloatArray:
        """Estimate less truth, shape (M, draws)."""
        points = np.array([[estimate.accuracy for estimate in draws] for draws in self.estimates[name]])
        return points - self.accuracies[:, None]

    def errors(self, without: int | None = None) -> dict[str, float]:
        """Root mean squared error of each estimator over all models, or over all but that at position ``without``."""
        rows = np.arange(len(self.model_ids)) != without
        return {name: float(np.sqrt((self.deviations(name)[rows] ** 2).mean())) for name in self.estimates}


@dataclass(frozen=True, eq=False)
class _Trial:
    """One left-out model on the anchors of one draw, with the calibration that has not seen it."""

    row: int
    evidence: Evidence


def eligible(responses: ResponseMatrix, parents: tuple[str, ...] = ()) -> NDArray[np.intp]:
    """Rows of the models that can be left out: their accuracy is known, and they are nobody's parent here."""
    known = (~np.isnan(responses.values)).mean(axis=1) >= KNOWN_SHARE
    candidate = np.array([model not in parents for model in responses.model_ids])
    return np.flatnonzero(known & candidate)


def cross_validate(
    responses: ResponseMatrix,
    n_anchors: int,
    *,
    method: str,
    n_dimensions: int,
    rng: Generator,
    parents: tuple[str, ...] = (),
    with_intervals: bool = False,
) -> CrossValidation:
    """Leave models out in up to ``MAX_FOLDS`` folds, fit items and draw anchors anew without them, and estimate them.

    ``parents`` names rows that stay in every fold and serve the merge-aware estimators. An estimator that weighs by the
    estimators' errors is shown those on the other models. Intervals are final only if ``with_intervals``.
    """
    rows = eligible(responses, parents)
    trials = list(_trials(responses, rows, n_anchors, method, n_dimensions, rng, parents))
    estimators = [e for e in plugin_host().estimators().values() if parents or not e.needs_parents]
    outcome = _round(responses, rows, trials, estimators, None)
    for _ in range(2 if with_intervals else 1):
        outcome = _round(responses, rows, trials, estimators, outcome)
    return outcome


def _trials(
    responses: ResponseMatrix,
    rows: NDArray[np.intp],
    n_anchors: int,
    method: str,
    n_dimensions: int,
    rng: Generator,
    parents: tuple[str, ...],
) -> Iterator[_Trial]:
    family = responses.models(parents) if parents else None
    for fold in np.array_split(rng.permutation(rows), min(len(rows), MAX_FOLDS)):
        training = responses.models([m for r, m in enumerate(responses.model_ids) if r not in fold])
        items, _ = fit_items(training, n_dimensions)
        for _ in range(DRAWS):
            anchors = select_anchors(training, items, n_anchors, method=method, rng=rng)
            calibration = Calibration(responses.item_ids, items, anchors, training)
            positions = np.sort(calibration.anchor_positions())
            for row in fold:
                answers = responses.values[row, positions]
                asked = ~np.isnan(answers)
                yield _Trial(int(row), Evidence(calibration, positions[asked], answers[asked], family))


def _round(
    responses: ResponseMatrix,
    rows: NDArray[np.intp],
    trials: list[_Trial],
    estimators: list[Estimator],
    before: CrossValidation | None,
) -> CrossValidation:
    """Estimates of all trials, by estimators that know the errors of the round before on the other models."""
    place = {int(row): position for position, row in enumerate(rows)}
    seen_by = [{} if before is None else before.errors(without=position) for position in range(len(rows))]
    gathered: dict[str, list[list[Estimate]]] = {e.name: [[] for _ in rows] for e in estimators}
    for trial in trials:
        position = place[trial.row]
        known = replace(
            trial.evidence.calibration, errors=seen_by[position], provenance={CROSS_VALIDATED: len(rows) - 1}
        )
        evidence = replace(trial.evidence, calibration=known)
        for estimator in estimators:
            gathered[estimator.name][position].append(run_estimator(estimator, evidence))
    return CrossValidation(
        tuple(responses.model_ids[row] for row in rows),
        responses.accuracy()[rows],
        {name: tuple(tuple(draws) for draws in models) for name, models in gathered.items()},
    )
