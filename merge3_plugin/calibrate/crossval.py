"""Errors of the estimators on models that the calibration has not seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from merge3_plugin.calibrate.folds import Fold, Folds
from merge3_plugin.domain import AnchorSet, Calibration, Estimate, FloatArray
from merge3_plugin.estimate.base import CROSS_VALIDATION, Estimator, Evidence, needs_soft, run_estimator
from merge3_plugin.estimate.builtin import misfits
from merge3_plugin.estimate.interval import degrees_of_freedom, variance_unit
from merge3_plugin.extract.anchors import select_anchors
from merge3_plugin.plugins import plugin_host

# Draws of anchors, nearly free on one fit, steady the errors; of many models each needs fewer.
MODELS_AND_DRAWS = 128
FEWEST_DRAWS = 2
MOST_DRAWS = 6


class Findings(NamedTuple):
    """What a calibration keeps of its cross-validation: the ``errors``, and for its provenance what is behind them."""

    errors: dict[str, float]
    record: dict[str, Any]


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """Estimates of M left-out models at ``n_anchors`` anchors that ``method`` chose anew in each fold and draw.

    ``rows`` (M,) ascend: where the models stand in ``folds.responses``; ``fold_of`` (M,) is the fold that leaves each
    out; ``misfits`` (M,) are by IRT estimator the errors that all answers leave. ``estimates[name][m]`` holds one
    estimate of model m for each draw, or None where it answered none of the anchors; ``scored`` (M, draws) how many.
    """

    folds: Folds
    n_anchors: int
    method: str
    rows: NDArray[np.intp]
    fold_of: NDArray[np.intp]
    misfits: Mapping[str, FloatArray]
    estimates: Mapping[str, tuple[tuple[Estimate | None, ...], ...]]
    scored: NDArray[np.intp]

    @property
    def model_ids(self) -> tuple[str, ...]:
        return tuple(self.folds.responses.model_ids[row] for row in self.rows)

    @cached_property
    def accuracies(self) -> FloatArray:
        """The models' known accuracies, shape (M,)."""
        return self.folds.responses.accuracy()[self.rows]

    @cached_property
    def variances(self) -> FloatArray:
        """Variance of the mean of a random sample as large as each model's answered anchors, shape (M, draws).

        As if half an answer more were right and half a one wrong, so that it is not 0. NaN where none was answered.
        """
        n_items = self.folds.responses.n_items
        chance = (self.accuracies * n_items + 0.5) / (n_items + 1.0)
        units = [[variance_unit(n, n_items) if n else np.nan for n in of_draws] for of_draws in self.scored]
        return np.array(units) * (chance * (1.0 - chance))[:, None]

    @cached_property
    def deviations(self) -> dict[str, FloatArray]:
        """Estimate less accuracy by estimator, shape (M, draws); NaN where there is no estimate."""
        return {
            name: np.array([[np.nan if e is None else e.accuracy for e in draws] for draws in by_model])
            - self.accuracies[:, None]
            for name, by_model in self.estimates.items()
        }

    def fold_errors(self, name: str, without: int | None = None) -> FloatArray:
        """Mean absolute error in each fold, or in each but one, over that of random samples, shape (folds,)."""
        by_chance = np.nanmean(np.sqrt(2 / np.pi * self.variances))
        folds = [fold for fold in np.unique(self.fold_of) if fold != without]
        errors = np.abs(self.deviations[name])
        return np.array([np.nanmean(errors[self.fold_of == fold]) for fold in folds]) / by_chance

    def findings(self, without: int | None = None) -> Findings:
        """Errors over all left-out models, or over all but those of the fold ``without``."""
        keep = np.flatnonzero(self.fold_of != (-1 if without is None else without))
        if not len(keep):
            return Findings({}, {"models": 0})
        errors = {name: _root_mean_square(deviation[keep]) for name, deviation in self.deviations.items()}
        # A ratio of means: one model of accuracy near 0, where a random sample hardly errs, must not decide alone.
        by_chance = np.nanmean(self.variances[keep])
        floors = {name: self._floor(name, keep) for name in self.deviations}
        n_draws = len(np.unique(self.fold_of[keep])) * self.scored.shape[1]
        record = {
            "models": len(keep),
            "folds": len(self.folds.folds),
            "draws": self.scored.shape[1],
            "items": self.folds.responses.n_items,
            "anchors": self.n_anchors,
            "misfit": {name: _root_mean_square(values[keep]) for name, values in self.misfits.items()},
            "ratios": {name: float(error**2 / by_chance) for name, error in errors.items()},
            "floors": floors,
            "degrees": {name: degrees_of_freedom(floor, len(keep), n_draws) for name, floor in floors.items()},
        }
        return Findings(errors, {**record, "differences": self._differences(set(keep.tolist()))} if errors else record)

    def _floor(self, name: str, keep: NDArray[np.intp]) -> float:
        """Share of the squared error that is the same in every draw of anchors: a one-way analysis of variance."""
        errors = self.deviations[name][keep]
        whole = errors[~np.isnan(errors).any(axis=1)]
        total = float((whole**2).mean()) if len(whole) else 0.0
        if total == 0.0:
            return 0.0
        between = float((whole.mean(axis=1) ** 2).mean() - (whole.var(axis=1, ddof=1) / whole.shape[1]).mean())
        return min(max(between / total, 0.0), 1.0)

    def _differences(self, keep: set[int]) -> dict[str, Any]:
        """Squared errors of differences between two models of a fold, over those of a random sample: mean ratios.

        "models" counts the pairs that share no model.
        """
        pairs, n_apart = [], 0
        for fold in range(len(self.folds.folds)):
            together = [place for place in np.flatnonzero(self.fold_of == fold).tolist() if place in keep]
            n_apart += len(together) // 2
            pairs += list(combinations(together, 2))
        if not pairs:
            return {"models": 0, "ratios": {}}
        first, second = np.array(pairs).T
        values, n_items = self.folds.responses.values[self.rows], self.folds.responses.n_items
        spread = (n_items * np.nanvar(values[first] - values[second], axis=1) + 0.5) / (n_items + 1.0)
        variances = spread * variance_unit(self.n_anchors, n_items)
        squares = {name: np.nanmean((d[first] - d[second]) ** 2) for name, d in self.deviations.items()}
        return {"models": n_apart, "ratios": {name: float(s / variances.mean()) for name, s in squares.items()}}


def cross_validate(folds: Folds, n_anchors: int, method: str, *, with_intervals: bool = False) -> CrossValidation:
    """Estimate the left-out models by every registered estimator, on anchors drawn anew in each fold.

    What an estimator learns of the estimators' errors (for its weights, and for its intervals) comes from the models of
    the other folds; the intervals are final only if ``with_intervals``. ``n_anchors`` is below the number of items.
    """
    rows = folds.rows
    fold_of = np.array([next(f for f, fold in enumerate(folds.folds) if row in fold.left_out) for row in rows])
    trials = [list(_trials(folds, f, n_anchors, method)) for f in range(len(folds.folds))]
    scored = np.zeros((len(rows), draws_for(len(rows))), dtype=np.intp)
    for trial in (trial for of_fold in trials for trial in of_fold):
        scored[np.searchsorted(rows, trial.row), trial.draw] = trial.evidence.n_scored
    outcome = CrossValidation(folds, n_anchors, method, rows, fold_of, _misfits(folds), {}, scored)
    # The first round knows the misfits, which weigh gp-IRT and gd; the second also the errors, which make intervals.
    for _ in range(2 if with_intervals else 1):
        outcome = replace(outcome, estimates=_estimate_all(outcome, trials))
    return outcome


def draws_for(n_models: int) -> int:
    """How often anchors are drawn in each fold."""
    return int(np.clip(-(-MODELS_AND_DRAWS // max(n_models, 1)), FEWEST_DRAWS, MOST_DRAWS))


class _Trial(NamedTuple):
    """One left-out model (its row) on one draw of anchors."""

    row: int
    draw: int
    evidence: Evidence


def _trials(folds: Folds, f: int, n_anchors: int, method: str) -> Iterator[_Trial]:
    fold, rng = folds.folds[f], folds.rng(n_anchors, method, f)
    for draw in range(draws_for(len(folds.rows))):
        anchors = select_anchors(
            fold.training,
            fold.fits[0],
            n_anchors,
            method=method,
            rng=rng,
            parents=folds.parents,
            embeddings=folds.embeddings,
        )
        calibration = _calibration(fold, anchors)
        places = np.sort(calibration.anchor_positions())
        for row in fold.left_out:
            evidence = _evidence(folds, calibration, int(row), places)
            if evidence.n_scored:
                yield _Trial(int(row), draw, evidence)


def _calibration(fold: Fold, anchors: AnchorSet) -> Calibration:
    return Calibration(fold.training.item_ids, fold.fits[0], anchors, fold.training, alternatives=fold.fits[1:])


def _evidence(folds: Folds, calibration: Calibration, row: int, positions: NDArray[np.intp]) -> Evidence:
    """The answers of one model at those ``positions`` where it was asked."""
    answers = folds.responses.values[row, positions]
    asked = ~np.isnan(answers)
    soft = None if folds.responses.soft is None else folds.responses.soft[row, positions[asked]]
    return Evidence(calibration, positions[asked], answers[asked], folds.parents, soft)


@lru_cache(maxsize=8)  # The same for any number and design of anchors.
def _misfits(folds: Folds) -> dict[str, FloatArray]:
    """Each left-out model's misfits, in the order of ``folds.rows``."""
    found, rows = {}, folds.rows
    everything = np.arange(folds.responses.n_items)
    for fold in folds.folds:
        # Which items are the anchors does not matter here: all answers are read.
        calibration = _calibration(fold, AnchorSet(fold.training.item_ids, fold.training.item_weights, "all"))
        for row in fold.left_out:
            found[int(row)] = misfits(_evidence(folds, calibration, int(row), everything))
    return {name: np.array([found[int(row)][name] for row in rows]) for name in found[int(rows[0])]}


def _estimate_all(
    outcome: CrossValidation, trials: list[list[_Trial]]
) -> dict[str, tuple[tuple[Estimate | None, ...], ...]]:
    """Estimates by estimator, model and draw; each fold knows the findings on the models of the others."""
    evidences = [trial.evidence for of_fold in trials for trial in of_fold]
    estimators = [e for e in plugin_host().estimators().values() if all(_applies(e, known) for known in evidences)]
    empty: list[list[Estimate | None]] = [[None] * outcome.scored.shape[1] for _ in outcome.rows]
    gathered = {e.name: [list(draws) for draws in empty] for e in estimators}
    for f, of_fold in enumerate(trials):
        errors, record = outcome.findings(without=f)
        aware: dict[Calibration, Calibration] = {}
        for row, draw, evidence in of_fold:
            unaware = evidence.calibration
            if unaware not in aware:
                aware[unaware] = replace(unaware, errors=errors, provenance={CROSS_VALIDATION: record})
            informed, place = replace(evidence, calibration=aware[unaware]), np.searchsorted(outcome.rows, row)
            for estimator in estimators:
                gathered[estimator.name][place][draw] = run_estimator(estimator, informed)
    return {name: tuple(tuple(draws) for draws in models) for name, models in gathered.items()}


def _applies(estimator: Estimator, evidence: Evidence) -> bool:
    """Whether the evidence holds what the estimator needs."""
    if estimator.needs_parents and evidence.parents is None:
        return False
    return not needs_soft(estimator) or evidence.has_soft(of_parents=estimator.needs_parents)


def _root_mean_square(values: FloatArray) -> float:
    return float(np.sqrt(np.nanmean(values**2)))
