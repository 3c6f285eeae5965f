"""Errors of the estimators on models that the calibration has not seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from merge3_plugin.domain import Calibration, Estimate, FloatArray, ItemParameters, ResponseMatrix
from merge3_plugin.estimate.base import CROSS_VALIDATED, KNOWN_SHARE, Estimator, Evidence, run_estimator
from merge3_plugin.extract.anchors import select_anchors
from merge3_plugin.extract.fit import fit_items
from merge3_plugin.plugins import plugin_host

# Fits are what costs time; draws of anchors on one fit are nearly free and steady the errors.
FOLDS = 8
DRAWS = 4


class Fold(NamedTuple):
    """Models left out (their rows among all responses), the responses of the others, and the items fitted to those."""

    left_out: NDArray[np.intp]
    training: ResponseMatrix
    items: ItemParameters


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """Estimates of models by calibrations that have not seen them.

    ``accuracies`` (M,) are the models' known accuracies; ``estimates[name][m]`` holds one estimate of model m for each
    draw of the anchors.
    """

    model_ids: tuple[str, ...]
    accuracies: FloatArray
    estimates: Mapping[str, tuple[tuple[Estimate, ...], ...]]

    def mean_squares(self, name: str) -> FloatArray:
        """Mean squared error of each model's estimates, shape (M,)."""
        points = np.array([[estimate.accuracy for estimate in draws] for draws in self.estimates[name]])
        squares: FloatArray = (points - self.accuracies[:, None]) ** 2
        return squares.mean(axis=1)

    def errors(self) -> dict[str, float]:
        """Root mean squared error of each estimator over all models."""
        return {name: float(np.sqrt(self.mean_squares(name).mean())) for name in self.estimates}

    def errors_without(self) -> list[dict[str, float]]:
        """For each model, the errors over all others: what may be known when that model is estimated."""
        others = {}
        for name in self.estimates:
            squares = self.mean_squares(name)
            others[name] = np.sqrt(np.maximum(squares.sum() - squares, 0.0) / (len(squares) - 1))
        return [{name: float(error[m]) for name, error in others.items()} for m in range(len(self.model_ids))]


def eligible(responses: ResponseMatrix, parents: Sequence[str] = ()) -> NDArray[np.intp]:
    """Rows of the models that can be left out: their accuracy is known, and they are nobody's parent here."""
    known = (~np.isnan(responses.values)).mean(axis=1) >= KNOWN_SHARE
    candidate = np.array([model not in parents for model in responses.model_ids])
    return np.flatnonzero(known & candidate)


def fit_folds(
    responses: ResponseMatrix, n_dimensions: int, rng: Generator, parents: Sequence[str] = (), max_folds: int = FOLDS
) -> list[Fold]:
    """Up to ``max_folds`` folds of the `eligible` models; all other models are in the training of every fold."""
    rows = eligible(responses, parents)
    folds = []
    for left_out in np.array_split(rng.permutation(rows), min(len(rows), max_folds)):
        training = responses.models([model for row, model in enumerate(responses.model_ids) if row not in left_out])
        folds.append(Fold(left_out, training, fit_items(training, n_dimensions)[0]))
    return folds


def cross_validate(
    responses: ResponseMatrix,
    folds: Sequence[Fold],
    n_anchors: int,
    *,
    method: str,
    rng: Generator,
    parents: Sequence[str] = (),
    draws: int = DRAWS,
    with_intervals: bool = False,
) -> CrossValidation:
    """Estimate the left-out models by every registered estimator, on anchors drawn anew in each fold.

    ``parents`` names the models whose answers serve the merge-aware estimators. What an estimator learns of the
    estimators' errors (for its weights, and for its intervals) comes from the other models; the intervals are final
    only if ``with_intervals``.
    """
    family = responses.models(parents) if parents else None
    trials = [trial for fold in folds for trial in _trials(responses, fold, n_anchors, method, draws, rng, family)]
    rows = sorted({row for row, _ in trials})
    estimators = [e for e in plugin_host().estimators().values() if parents or not e.needs_parents]
    # Each round makes known the errors that the next one builds on: p-IRT's weigh gp-IRT, gp-IRT's make its interval.
    known: list[dict[str, float]] = [{} for _ in rows]
    for _ in range(3 if with_intervals else 2):
        outcome = _estimate_all(responses, rows, trials, estimators, known)
        known = outcome.errors_without()
    return outcome


def _trials(
    responses: ResponseMatrix,
    fold: Fold,
    n_anchors: int,
    method: str,
    draws: int,
    rng: Generator,
    family: ResponseMatrix | None,
) -> Iterator[tuple[int, Evidence]]:
    """Each left-out model (its row) on each draw of anchors."""
    for _ in range(draws):
        anchors = select_anchors(fold.training, fold.items, n_anchors, method=method, rng=rng)
        calibration = Calibration(responses.item_ids, fold.items, anchors, fold.training)
        positions = np.sort(calibration.anchor_positions())
        for row in fold.left_out:
            answers = responses.values[row, positions]
            asked = ~np.isnan(answers)
            if asked.any():
                yield int(row), Evidence(calibration, positions[asked], answers[asked], family)


def _estimate_all(
    responses: ResponseMatrix,
    rows: list[int],
    trials: list[tuple[int, Evidence]],
    estimators: list[Estimator],
    errors: list[dict[str, float]],
) -> CrossValidation:
    """Estimates of all trials, where ``errors`` holds for each of ``rows`` what is known of the estimators' errors."""
    provenance = {CROSS_VALIDATED: len(rows) - 1}
    gathered: dict[str, dict[int, list[Estimate]]] = {e.name: {row: [] for row in rows} for e in estimators}
    known = dict(zip(rows, errors, strict=True))
    for row, unaware in trials:
        calibration = replace(unaware.calibration, errors=known[row], provenance=provenance if known[row] else {})
        evidence = replace(unaware, calibration=calibration)
        for estimator in estimators:
            gathered[estimator.name][row].append(run_estimator(estimator, evidence))
    return CrossValidation(
        tuple(responses.model_ids[row] for row in rows),
        responses.accuracy()[rows],
        {name: tuple(tuple(draws) for draws in models.values()) for name, models in gathered.items()},
    )
