"""Errors of the estimators on models that the calibration has not seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from merge3_plugin.domain import AnchorSet, Calibration, Estimate, FloatArray, ItemParameters, ResponseMatrix
from merge3_plugin.estimate.base import (
    CROSS_VALIDATION,
    FEWEST_MODELS,
    KNOWN_SHARE,
    Estimator,
    Evidence,
    run_estimator,
)
from merge3_plugin.estimate.builtin import misfits
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


class Findings(NamedTuple):
    """What a calibration keeps of its cross-validation: the ``errors``, and for its provenance what is behind them."""

    errors: dict[str, float]
    record: dict[str, Any]


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """Estimates of models by calibrations that have not seen them.

    ``accuracies`` (M,) are the models' known accuracies; ``misfits`` (M,) by IRT estimator the errors that all answers
    leave; ``estimates[name][m]`` holds one estimate of model m for each draw of anchors of which it answered any.
    """

    model_ids: tuple[str, ...]
    accuracies: FloatArray
    misfits: Mapping[str, FloatArray]
    estimates: Mapping[str, tuple[tuple[Estimate, ...], ...]]

    def findings(self, without: int | None = None) -> Findings:
        """Root mean squared errors over all models, or over all but that at position ``without``."""
        rows = np.flatnonzero(np.arange(len(self.model_ids)) != without)
        errors = {
            name: np.array([e.accuracy - self.accuracies[row] for row in rows for e in by[row]])
            for name, by in self.estimates.items()
        }
        return Findings(
            {name: _root_mean_square(of_draws) for name, of_draws in errors.items()},
            {
                "models": len(rows),
                "misfit": {name: _root_mean_square(values[rows]) for name, values in self.misfits.items()},
            },
        )


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
    rows = sorted(int(row) for fold in folds for row in fold.left_out)
    outcome = CrossValidation(
        tuple(responses.model_ids[row] for row in rows),
        responses.accuracy()[rows],
        _misfits(responses, folds, family) if len(rows) >= FEWEST_MODELS else {},
        {},
    )
    trials = [trial for fold in folds for trial in _trials(responses, fold, n_anchors, method, draws, rng, family)]
    estimators = [e for e in plugin_host().estimators().values() if parents or not e.needs_parents]
    # The first round knows the misfits, which weigh gp-IRT; the second also the errors, which make its interval.
    for _ in range(2 if with_intervals else 1):
        known = {row: outcome.findings(without=place) for place, row in enumerate(rows)}
        outcome = replace(outcome, estimates=_estimate_all(trials, estimators, known))
    return outcome


def _misfits(responses: ResponseMatrix, folds: Sequence[Fold], family: ResponseMatrix | None) -> dict[str, FloatArray]:
    """Each left-out model's misfits, in the order of the responses."""
    found = {}
    for fold in folds:
        # Which items are the anchors does not matter here: all answers are read.
        anchors = AnchorSet(responses.item_ids, np.full(responses.n_items, 1.0 / responses.n_items), "all")
        calibration = Calibration(responses.item_ids, fold.items, anchors, fold.training)
        for row in fold.left_out:
            found[int(row)] = misfits(_evidence(responses, calibration, row, np.arange(responses.n_items), family))
    return {name: np.array([found[row][name] for row in sorted(found)]) for name in found[min(found)]}


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
        for row in fold.left_out:
            evidence = _evidence(responses, calibration, row, np.sort(calibration.anchor_positions()), family)
            if evidence.n_scored:
                yield int(row), evidence


def _evidence(
    responses: ResponseMatrix,
    calibration: Calibration,
    row: int,
    positions: NDArray[np.intp],
    family: ResponseMatrix | None,
) -> Evidence:
    """The answers of one model at those ``positions`` where it was asked."""
    answers = responses.values[row, positions]
    asked = ~np.isnan(answers)
    return Evidence(calibration, positions[asked], answers[asked], family)


def _estimate_all(
    trials: Sequence[tuple[int, Evidence]], estimators: Sequence[Estimator], known: Mapping[int, Findings]
) -> dict[str, tuple[tuple[Estimate, ...], ...]]:
    """Estimates by estimator, model and draw; ``known`` holds for each model's row the findings on the others."""
    gathered: dict[str, dict[int, list[Estimate]]] = {e.name: {row: [] for row in known} for e in estimators}
    for row, unaware in trials:
        errors, record = known[row]
        calibration = replace(unaware.calibration, errors=errors, provenance={CROSS_VALIDATION: record})
        evidence = replace(unaware, calibration=calibration)
        for estimator in estimators:
            gathered[estimator.name][row].append(run_estimator(estimator, evidence))
    return {name: tuple(tuple(draws) for draws in models.values()) for name, models in gathered.items()}


def _root_mean_square(values: FloatArray) -> float:
    return float(np.sqrt((values**2).mean()))
