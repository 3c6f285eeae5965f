"""How far a calibration can be trusted: left-out models estimated at many numbers of anchors."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from merge3_plugin import irt
from merge3_plugin.calibrate.choice import chosen_design, chosen_estimator
from merge3_plugin.calibrate.crossval import CrossValidation
from merge3_plugin.calibrate.report import random_sample_error
from merge3_plugin.calibrate.study import Study
from merge3_plugin.domain import Estimate, FloatArray
from merge3_plugin.estimate.design import Z
from merge3_plugin.estimate.interval import score_interval, variance_unit
from merge3_plugin.extract.items import drawn_order

log = logging.getLogger(__name__)

SIZES = (10, 20, 50, 100, 200)
_BINS = 10


@dataclass(frozen=True, eq=False)
class AtSize:
    """Estimates of M left-out models by ``"auto"`` at ``n_anchors`` anchors.

    ``estimates[m]`` are those of one model, one for each draw of anchors of which it answered any. ``n_measured`` items
    are the benchmark of the cross-validation, ``n_items`` that of the calibration; errors are of the latter.
    """

    n_anchors: int
    n_items: int
    n_measured: int
    model_ids: tuple[str, ...]
    accuracies: FloatArray
    estimates: tuple[tuple[Estimate, ...], ...]

    @cached_property
    def errors(self) -> FloatArray:
        """Mean absolute error of each model's estimates, shape (M,); NaN for a model without any."""
        measured = [
            np.mean([abs(e.accuracy - truth) for e in draws]) if draws else np.nan
            for draws, truth in zip(self.estimates, self.accuracies, strict=True)
        ]
        unit, unit_measured = (variance_unit(self.n_anchors, n) for n in (self.n_items, self.n_measured))
        return np.array(measured) * np.sqrt(unit / unit_measured)

    @cached_property
    def random_errors(self) -> FloatArray:
        """Mean absolute error of random samples of as many items, shape (M,)."""
        return np.array([random_sample_error(truth, self.n_anchors, self.n_items) for truth in self.accuracies])

    @property
    def error(self) -> float:
        """Mean absolute error over the models."""
        return float(np.nanmean(self.errors))

    @property
    def random_error(self) -> float:
        return float(np.mean(self.random_errors))

    @property
    def ratio(self) -> float:
        """`error` as a multiple of `random_error`; NaN where all models are all right or all wrong."""
        return self.error / self.random_error if self.random_error else float("nan")

    @property
    def error_interval(self) -> tuple[float, float]:
        """95 % interval of the mean absolute error over models like these."""
        return _mean_interval(self.errors[~np.isnan(self.errors)])

    @property
    def coverage(self) -> float:
        """Share of the 95 % intervals that hold the accuracy."""
        held = [
            low <= truth <= high
            for draws, truth in zip(self.estimates, self.accuracies, strict=True)
            for low, high in (e.interval for e in draws)
        ]
        return float(np.mean(held))

    @property
    def width(self) -> float:
        """Mean width of the intervals as a multiple of that of the interval of a random sample."""
        unit = variance_unit(self.n_anchors, self.n_measured)
        ours = [e.interval[1] - e.interval[0] for draws in self.estimates for e in draws]
        theirs = [np.ptp(score_interval(float(a), unit, Z)) for a in self.accuracies]
        return float(np.mean(ours) / np.mean(theirs))

    @property
    def tau(self) -> float:
        """Kendall's tau-b of estimates against accuracies, mean over the draws; NaN with fewer than 3 models."""
        from scipy.stats import kendalltau

        n_draws = min(map(len, self.estimates))
        by_draw = [[draws[d].accuracy for draws in self.estimates] for d in range(n_draws)]
        taus = [kendalltau(estimates, self.accuracies).statistic for estimates in by_draw if len(estimates) > 2]
        return float(np.mean(taus)) if taus else float("nan")


class Bin(NamedTuple):
    """``n_answers`` of similar probability: the ``predicted`` mean, and the share that was ``observed`` to be right."""

    predicted: float
    observed: float
    n_answers: int


@dataclass(frozen=True, eq=False)
class Assessment:
    """Left-out models at ``sizes``, the calibration's own among them, and the ``bins`` of IRT's probabilities."""

    sizes: tuple[AtSize, ...]
    bins: tuple[Bin, ...]

    def at(self, n_anchors: int) -> AtSize | None:
        return next((size for size in self.sizes if size.n_anchors == n_anchors), None)


def assess(made: Study, n_anchors: int, method: str) -> Assessment:
    """Estimate each model from anchors of the design ``method`` by a calibration that has not seen it.

    Empty where there are too few models to leave one out. Progress is logged.
    """
    found = []
    for n in sorted({*SIZES, n_anchors}):
        size = left_out(made, n, method, with_intervals=True)
        if size is not None:
            found.append(size)
            log.info("report: %d models left out, at %d anchors", len(size.accuracies), n)
    return Assessment(tuple(found), irt_bins(made, n_anchors) if found else ())


def left_out(made: Study, n_anchors: int, method: str, *, with_intervals: bool = False) -> AtSize | None:
    """The study's models estimated from anchors of the design ``method``, or of what the other models choose (auto).

    None where none can be left out, or all items are anchors.
    """
    outcomes = made.outcomes(n_anchors, method, with_intervals=with_intervals)
    return at_size(outcomes, made.default_design, made.responses.n_items) if outcomes else None


def at_size(outcomes: Mapping[str, CrossValidation], default: str, n_items: int) -> AtSize:
    """The estimates of each model on anchors of the design, and by the estimator, that the other folds choose.

    ``default`` is the design that is kept unless another one is surely better.
    """
    first = next(iter(outcomes.values()))
    by_fold = [_estimates(outcomes, default, fold) for fold in range(len(first.folds.folds))]
    return AtSize(
        first.n_anchors,
        n_items,
        first.folds.responses.n_items,
        first.model_ids,
        first.accuracies,
        tuple(tuple(e for e in by_fold[int(fold)][place] if e is not None) for place, fold in enumerate(first.fold_of)),
    )


def _estimates(
    outcomes: Mapping[str, CrossValidation], default: str, fold: int
) -> tuple[tuple[Estimate | None, ...], ...]:
    """Of every model, by what is chosen without this fold."""
    outcome = (
        outcomes[chosen_design(outcomes, default, without=fold)] if len(outcomes) > 1 else next(iter(outcomes.values()))
    )
    folds = outcome.folds
    known = {"parents_known": folds.parents is not None, "soft_known": folds.responses.soft is not None}
    return outcome.estimates[chosen_estimator(outcome, **known, without=fold)]


def irt_bins(made: Study, n_anchors: int) -> tuple[Bin, ...]:
    """Probabilities of left-out models' answers, at the abilities that ``n_anchors`` random answers show.

    Ten bins of equally many of all answers that the abilities were not fitted to, by ascending probability.
    """
    folds = made.folds
    predicted, observed = [], []
    for fold in folds.folds:
        order = np.array([folds.responses.item_ids.index(i) for i in _drawn(folds.responses.item_ids, made.seed)])
        for row in fold.left_out:
            answers = folds.responses.values[row, order]
            places = order[~np.isnan(answers)]
            seen, unseen = places[:n_anchors], places[n_anchors:]
            ability = irt.fit_ability(fold.items.take(seen), folds.responses.values[row, seen]).mean
            predicted.append(irt.probabilities(fold.items.take(unseen), ability))
            observed.append(folds.responses.values[row, unseen])
    return _binned(np.concatenate(predicted), np.concatenate(observed))


def _drawn(item_ids: Sequence[str], seed: int) -> list[str]:
    return drawn_order(item_ids, seed, "reliability")


def _binned(predicted: FloatArray, observed: FloatArray) -> tuple[Bin, ...]:
    order = np.argsort(predicted, kind="stable")
    return tuple(
        Bin(float(predicted[part].mean()), float(observed[part].mean()), len(part))
        for part in np.array_split(order, _BINS)
        if len(part)
    )


def _mean_interval(values: FloatArray) -> tuple[float, float]:
    """95 % interval of the mean, by the t distribution of its logarithm: errors are positive and skewed."""
    from scipy.special import stdtrit

    mean, n = float(values.mean()), len(values)
    if n < 2 or mean <= 0:
        return 0.0, float("inf")
    half = float(stdtrit(n - 1, 0.975)) * float(values.std(ddof=1)) / np.sqrt(n) / mean
    return mean * float(np.exp(-half)), mean * float(np.exp(half))
