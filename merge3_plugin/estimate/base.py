"""What an estimator is given, what it gives back, and how its uncertainty is stated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from merge3_plugin.domain import Calibration, Estimate, FloatArray, ResponseMatrix, check_scores
from merge3_plugin.errors import ConfigError, DataError, nearest
from merge3_plugin.estimate.design import Z, sample_mean
from merge3_plugin.plugins import plugin_host

# With fewer cross-validated models their error is too poorly known to carry an interval.
FEWEST_MODELS = 5

# Where a calibration's provenance keeps what is behind its errors: {"models": M, "misfit": {name: b}}. The misfit of
# an IRT estimator is the root mean squared error of its mean probability at the ability fitted to all answers.
CROSS_VALIDATION = "cross_validation"

# Share of the items that a model must have answered for its accuracy to count as known.
KNOWN_SHARE = 0.9


@dataclass(frozen=True, eq=False)
class Evidence:
    """A model's answers on some items of a calibration, and its parents' answers on all of them.

    ``positions`` (m,) ascend: where the scored items stand in the calibration; ``scores`` (m,) are their scores.
    ``parents`` has the calibration's items in its order, or is None. ``soft`` (m,) is the probability given to the
    right option, NaN or None where it is not known.
    """

    calibration: Calibration
    positions: NDArray[np.intp]
    scores: FloatArray
    parents: ResponseMatrix | None = None
    soft: FloatArray | None = None

    @property
    def n_items(self) -> int:
        return self.calibration.n_items

    @property
    def n_scored(self) -> int:
        return len(self.scores)

    @cached_property
    def weights(self) -> FloatArray:
        """Weight of each scored item, shape (m,), of sum 1.

        The scored anchors share the weight of the items that were not scored one by one in the ratio of their anchor
        weights; an item scored beside the anchors stands for itself.
        """
        anchor_weight = np.zeros(self.n_items)
        anchor_weight[self.calibration.anchor_positions()] = self.calibration.anchors.weights
        weights = anchor_weight[self.positions]
        if weights.sum() == 0:
            return np.full(self.n_scored, 1.0 / self.n_scored)
        beside = weights == 0
        weights *= (1.0 - beside.sum() / self.n_items) / weights.sum()
        weights[beside] = 1.0 / self.n_items
        return weights

    def completed(self, probabilities: FloatArray) -> float:
        """Mean over all items, by their weights, of the score where it is known, else of ``probabilities`` (N,)."""
        filled = np.array(probabilities)
        filled[self.positions] = self.scores
        return float(self.calibration.responses.item_weights @ filled)


@runtime_checkable
class Estimator(Protocol):
    """Turns evidence into an estimate; offered to merge3 by the hook ``merge3_register_estimators``.

    ``name`` selects it in configs. One that sets ``needs_parents`` only sees evidence whose ``parents`` are known. It
    is not asked where all items are scored: the mean is then exact. Calibrations cross-validate every registered
    estimator, so that `calibrated` can give it an interval.
    """

    name: str
    needs_parents: bool

    def estimate(self, evidence: Evidence) -> Estimate:
        """The accuracy over all items of ``evidence.calibration``."""
        ...


def gather(
    calibration: Calibration,
    scores: Mapping[str, float],
    parents: ResponseMatrix | None = None,
    soft: Mapping[str, float] | None = None,
) -> Evidence:
    """The evidence of ``scores`` and ``soft`` (item id -> score), checked.

    Raises DataError for unknown items, scores outside [0, 1], no scores, or parents who did not answer the items.
    """
    checked = check_scores(scores, calibration.item_ids)
    answers = np.array([checked.get(item, np.nan) for item in calibration.item_ids])
    positions = np.flatnonzero(~np.isnan(answers))
    aligned = None if parents is None else _aligned(calibration, parents)
    graded = None
    if soft:
        known = check_scores(soft, calibration.item_ids)
        graded = np.array([known.get(calibration.item_ids[j], np.nan) for j in positions])
    return Evidence(calibration, positions, answers[positions], aligned, graded)


@lru_cache(maxsize=64)
def _aligned(calibration: Calibration, parents: ResponseMatrix) -> ResponseMatrix:
    return align_parents(parents, calibration.item_ids)


def align_parents(parents: ResponseMatrix, item_ids: tuple[str, ...]) -> ResponseMatrix:
    """The parents' answers on these items, in this order; DataError if a parent left more than a few unanswered."""
    if parents.item_ids != item_ids:
        absent = set(item_ids) - set(parents.item_ids)
        if absent:
            raise DataError(
                f"parents: expected answers on all {len(item_ids)} items of the calibration, got none on {len(absent)} "
                f"(such as {min(absent)!r}); score the parents on the whole benchmark"
            )
        parents = parents.items(item_ids)
    share = (~np.isnan(parents.values)).mean(axis=1)
    if not len(share):
        raise DataError("parents: expected the answers of at least one model, got none; leave parents out, or add them")
    if share.min() < KNOWN_SHARE:
        raise DataError(
            f"parents: expected answers on at least {KNOWN_SHARE:.0%} of the items, got {share.min():.0%} "
            f"from {parents.model_ids[int(share.argmin())]!r}; score the parents on the whole benchmark"
        )
    return parents


def run_estimator(estimator: Estimator, evidence: Evidence) -> Estimate:
    """The estimator's answer, or the exact mean where every item is scored. DataError if it lacks the parents."""
    if estimator.needs_parents and evidence.parents is None:
        raise DataError(
            f"estimator {estimator.name!r}: expected the parents' full answers, got none; pass parents or use 'gp-irt'"
        )
    if evidence.n_scored == evidence.n_items:
        return sample_mean(evidence.scores, evidence.n_items, method=estimator.name)
    return estimator.estimate(evidence)


def find_estimator(name: str) -> Estimator:
    """The registered estimator of this name; ConfigError with the nearest name if there is none."""
    known = plugin_host().estimators()
    if name not in known:
        raise ConfigError(f"estimator: expected a registered one, got {name!r}{nearest(name, [*known, 'auto'])}")
    found: Estimator = known[name]
    return found


def trusted_errors(calibration: Calibration) -> Mapping[str, float]:
    """The calibration's errors if they come from at least ``FEWEST_MODELS`` models, else none."""
    return calibration.errors if _cross_validation(calibration).get("models", 0) >= FEWEST_MODELS else {}


def misfit(calibration: Calibration, *names: str) -> float | None:
    """Cross-validated misfit of the first of these IRT estimators that has one, or None."""
    return _first(_cross_validation(calibration).get("misfit", {}), names)


def _cross_validation(calibration: Calibration) -> Mapping[str, Any]:
    found: Mapping[str, Any] = calibration.provenance.get(CROSS_VALIDATION, {})
    return found


def _first(figures: Mapping[str, float], names: Iterable[str]) -> float | None:
    return next((figures[name] for name in names if name in figures), None)


def calibrated(evidence: Evidence, accuracy: float, *names: str) -> Estimate:
    """``accuracy`` with the interval that the calibration's cross-validation supports.

    The half-width is t_{M-1} e sqrt(1 + 1/M): e the root mean squared error of the first of the estimators ``names``
    that was cross-validated, M the number of models behind it. Where more or fewer items than the anchors were scored,
    e changes as the error of a random sample does. With fewer than ``FEWEST_MODELS`` models the interval is the
    design-based one, widened to hold ``accuracy``. The estimate is named by the first of ``names``.
    """
    accuracy = float(np.clip(accuracy, 0.0, 1.0))
    error = _first(trusted_errors(evidence.calibration), names)
    n_anchors, n_items = len(evidence.calibration.anchors), evidence.n_items
    if error is None or n_anchors == n_items:
        design = sample_mean(evidence.scores, n_items, weights=evidence.weights)
        low, high = min(accuracy, design.interval[0]), max(accuracy, design.interval[1])
        standard_error = (high - low) / (2 * Z)
    else:
        from scipy.special import stdtrit

        models = _cross_validation(evidence.calibration)["models"]
        scale = (1 / evidence.n_scored - 1 / n_items) / (1 / n_anchors - 1 / n_items)
        standard_error = float(error * np.sqrt(scale * (1 + 1 / models)))
        half = float(stdtrit(models - 1, 0.975)) * standard_error
        low, high = max(0.0, accuracy - half), min(1.0, accuracy + half)
    return Estimate(accuracy, standard_error, (low, high), names[0], evidence.n_scored, n_items)
