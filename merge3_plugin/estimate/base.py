"""What an estimator is given, what it gives back, and how its uncertainty is stated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from merge3_plugin.checks import positions
from merge3_plugin.domain import AnchorSet, Calibration, Estimate, FloatArray, ResponseMatrix, check_scores
from merge3_plugin.errors import ConfigError, DataError, nearest
from merge3_plugin.estimate.anchored import measured_at
from merge3_plugin.estimate.design import Z, effective_size, sample_mean
from merge3_plugin.estimate.interval import Moderated, error_unit, moderated, score_interval, standard_error
from merge3_plugin.estimate.soft_pool import KNOWN_SHARE, soft_pool
from merge3_plugin.plugins import plugin_host

# With fewer cross-validated models their error is too poorly known to carry an interval.
FEWEST_MODELS = 5

# Where a calibration's provenance keeps what its cross-validation found. By estimator: "misfit", of IRT estimators the
# root mean squared error that all answers leave; "ratios", the mean over "models" models of squared error over the
# variance of a random sample; "floors", its share that does not vary with the anchors; "degrees" of freedom behind it;
# "differences", ratios of pairs.
CROSS_VALIDATION = "cross_validation"


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

    @property
    def scored_items(self) -> list[str]:
        """The ids of the scored items, in the order of their scores."""
        return [self.calibration.item_ids[place] for place in self.positions]

    @cached_property
    def weights(self) -> FloatArray:
        """Weight of each scored item, shape (m,), of sum 1.

        The scored anchors share the weight of the items that were not scored one by one in the ratio of their anchor
        weights; an item scored beside the anchors stands for itself, and so does every item once all are scored.
        """
        own = self.item_weights[self.positions]
        anchor_weight = _by_item(self.calibration.responses, self.calibration.anchors).weights[self.positions]
        total = anchor_weight.sum()
        if self.n_scored == self.n_items or total == 0:
            return own / own.sum()
        beside = anchor_weight == 0
        return np.where(beside, own, anchor_weight * (1.0 - own[beside].sum()) / total)

    @cached_property
    def design_weights(self) -> FloatArray | None:
        """Item weight / inclusion probability of each scored item, shape (m,) (Horvitz and Thompson 1952).

        Their sum with any scores is unbiased over the draws of the anchors; None where no such claim can be made: the
        anchors were chosen rather than drawn, or some were not scored, or other items were.
        """
        inclusion = _by_item(self.calibration.responses, self.calibration.anchors).inclusion[self.positions]
        if self.n_scored == self.n_items:
            return self.item_weights
        if self.n_scored != len(self.calibration.anchors) or np.isnan(inclusion).any():
            return None
        return self.item_weights[self.positions] / inclusion

    def has_soft(self, *, of_parents: bool) -> bool:
        """Whether most answers have soft scores on items of which a `soft_pool` has them too.

        If so asked, all parents must be in that pool.
        """
        pool = soft_pool(self.calibration.responses, self.parents)
        if self.soft is None or pool is None or pool.soft is None:
            return False
        comparable = ~np.isnan(self.soft) & ~np.isnan(pool.soft[:, self.positions]).all(axis=0)
        if comparable.mean() < 0.5:
            return False
        return not of_parents or (self.parents is not None and set(self.parents.model_ids) <= set(pool.model_ids))

    @property
    def item_weights(self) -> FloatArray:
        """Share of every item of the benchmark in its accuracy, shape (N,), of sum 1."""
        return self.calibration.responses.item_weights

    def completed(self, probabilities: FloatArray) -> float:
        """Mean over all items, by their weights, of the score where it is known, else of ``probabilities`` (N,)."""
        filled = np.array(probabilities)
        filled[self.positions] = self.scores
        return float(self.item_weights @ filled)


class _ByItem(NamedTuple):
    """Anchors' weights, 0 for other items, and inclusion probabilities, NaN where there is none; both (N,)."""

    weights: FloatArray
    inclusion: FloatArray


@lru_cache(maxsize=64)
def _by_item(responses: ResponseMatrix, anchors: AnchorSet) -> _ByItem:
    places = positions(responses.item_ids, anchors.item_ids, "anchor")
    weights, inclusion = np.zeros(responses.n_items), np.full(responses.n_items, np.nan)
    weights[places] = anchors.weights
    inclusion[places] = np.nan if anchors.inclusion is None else anchors.inclusion
    return _ByItem(weights, inclusion)


@runtime_checkable
class Estimator(Protocol):
    """Turns evidence into an estimate; offered to merge3 by the hook ``merge3_register_estimators``.

    ``name`` selects it in configs. One that sets ``needs_parents`` only sees evidence whose ``parents`` are known. It
    is not asked where all items are scored: the mean is then exact. Calibrations cross-validate every registered
    estimator, so that `calibrated` can give it an interval. One that reads soft scores says so by a further attribute,
    ``needs_soft = True``: it then only sees evidence with soft scores (`Evidence.has_soft`).
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
    place_of = _places(calibration.responses)
    checked = check_scores(scores, place_of.keys())
    order = sorted(checked, key=place_of.__getitem__)
    aligned = None if parents is None else _aligned(calibration, parents)
    graded = None
    if soft:
        known = check_scores(soft, place_of.keys())
        graded = np.array([known.get(item, np.nan) for item in order])
    scored = np.array([place_of[item] for item in order], dtype=np.intp)
    return Evidence(calibration, scored, np.array([checked[item] for item in order]), aligned, graded)


@lru_cache(maxsize=64)
def _places(responses: ResponseMatrix) -> dict[str, int]:
    return {item: place for place, item in enumerate(responses.item_ids)}


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
    """The estimator's answer, or the exact mean where every item is scored.

    DataError if it lacks the parents or the soft scores that it needs.
    """
    if estimator.needs_parents and evidence.parents is None:
        raise DataError(
            f"estimator {estimator.name!r}: expected the parents' full answers, got none; pass parents or use 'gp-irt'"
        )
    if needs_soft(estimator) and not evidence.has_soft(of_parents=estimator.needs_parents):
        raise DataError(
            f"estimator {estimator.name!r}: expected soft scores of most answers, and of two models on the same items, "
            "got fewer; pass soft= and calibrate on models with soft scores, or use 'auto'"
        )
    if evidence.n_scored == evidence.n_items:
        return sample_mean(evidence.scores, evidence.n_items, weights=evidence.weights, method=estimator.name)
    return estimator.estimate(evidence)


def needs_soft(estimator: Estimator) -> bool:
    """Whether it only sees evidence with soft scores; False for estimators that do not say."""
    return bool(getattr(estimator, "needs_soft", False))


def find_estimator(name: str) -> Estimator:
    """The registered estimator of this name; ConfigError with the nearest name if there is none."""
    known = plugin_host().estimators()
    if name not in known:
        raise ConfigError(f"estimator: expected a registered one, got {name!r}{nearest(name, [*known, 'auto'])}")
    found: Estimator = known[name]
    return found


def misfit(calibration: Calibration, *names: str) -> float | None:
    """Cross-validated misfit of the first of these IRT estimators that has one, or None."""
    return _first(_cross_validation(calibration).get("misfit", {}), names)


def _cross_validation(calibration: Calibration) -> Mapping[str, Any]:
    found: Mapping[str, Any] = calibration.provenance.get(CROSS_VALIDATION, {})
    return found


def _first(figures: Mapping[str, float], names: Iterable[str]) -> float | None:
    return next((figures[name] for name in names if name in figures), None)


def calibrated(evidence: Evidence, accuracy: float, *names: str, by_design: bool = False) -> Estimate:
    """``accuracy`` with the 95 % interval that the calibration's cross-validation supports.

    The error is that of the first of the estimators ``names`` that was cross-validated, as a moderated ratio to the
    variance of a random sample (see `merge3_plugin.estimate.interval`): all A with |A - accuracy| at most t standard
    deviations at A. Without cross-validation it is the prior: a sample with the anchors' weights, and few degrees of
    freedom. ``by_design`` promises an unbiased weighted mean of drawn anchors, whose interval is at most that of a
    random sample with these weights. The standard error is half the interval's width over 1.96. The estimate is named
    by the first of ``names``.
    """
    accuracy = float(np.clip(accuracy, 0.0, 1.0))
    calibration = evidence.calibration
    prior = evidence.n_scored / effective_size(evidence.weights)
    learned = moderated_ratio(calibration, *names, prior=prior)
    floor = _first(_cross_validation(calibration).get("floors", {}), names) or 0.0
    unit = error_unit(evidence.n_scored, measured_at(calibration), evidence.n_items, floor)
    variance, quantile = learned.ratio, learned.quantile
    if by_design and quantile**2 * variance > Z**2 * prior:
        variance, quantile = prior, Z
    interval = score_interval(accuracy, variance * unit, quantile)
    return Estimate(accuracy, standard_error(interval), interval, names[0], evidence.n_scored, evidence.n_items)


def moderated_ratio(calibration: Calibration, *names: str, prior: float = 1.0) -> Moderated:
    """Squared error of the first of these estimators that was cross-validated, over the variance of a random sample.

    It is the ``prior`` where none was.
    """
    return _moderated(_cross_validation(calibration), names, prior)


def moderated_difference(calibration: Calibration, *names: str) -> Moderated:
    """The same of the difference of two models' estimates on shared anchors.

    Here the random sample's variance is that of the mean of the differences of their scores. Where calibration models
    were not left out in pairs, it is the ratio of single estimates, or the prior 1.
    """
    record = _cross_validation(calibration)
    of_pairs = record.get("differences", {})
    return _moderated(of_pairs if _first(of_pairs.get("ratios", {}), names) is not None else record, names, 1.0)


def _moderated(record: Mapping[str, Any], names: Iterable[str], prior: float) -> Moderated:
    known = [name for name in names if name in record.get("ratios", {})]
    if not known:
        return moderated(prior, 0, prior)
    return moderated(record["ratios"][known[0]], record.get("degrees", {}).get(known[0], record["models"]), prior)
