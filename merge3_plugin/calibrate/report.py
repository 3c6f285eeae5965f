"""What a calibration is worth: the error on models that it has not seen, beside that of a random sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import default_rng

from merge3_plugin.calibrate.build import AUTO, anchor_method, check_responses, dimensions, with_parents
from merge3_plugin.calibrate.crossval import CrossValidation, cross_validate, eligible, fit_folds
from merge3_plugin.domain import ResponseMatrix
from merge3_plugin.errors import DataError
from merge3_plugin.estimate.auto import best
from merge3_plugin.estimate.design import sampling_variance

# So many models are left out one by one; of more, several at a time.
MOST_FITS = 24

# Of fewer models, those that stay say next to nothing of the one left out.
FEWEST_LEFT_OUT = 3


@dataclass(frozen=True)
class ModelError:
    """One left-out model: its ``accuracy``, the mean absolute error of its estimates, and that of random samples.

    ``coverage`` is the share of its 95 % intervals that hold the accuracy.
    """

    model_id: str
    accuracy: float
    error: float
    random_error: float
    coverage: float


@dataclass(frozen=True)
class LeaveOneOut:
    """Errors of ``estimator`` on models left out of the calibration, at ``n_anchors`` anchors chosen by ``method``."""

    estimator: str
    method: str
    n_anchors: int
    models: tuple[ModelError, ...]

    @property
    def error(self) -> float:
        """Mean absolute error over the models."""
        return float(np.mean([model.error for model in self.models]))

    @property
    def random_error(self) -> float:
        """Mean absolute error of the mean of a simple random sample of as many items."""
        return float(np.mean([model.random_error for model in self.models]))

    @property
    def ratio(self) -> float:
        """`error` as a multiple of `random_error`: below 1 is better than random. NaN if both are zero."""
        return self.error / self.random_error if self.random_error else float("nan")

    @property
    def coverage(self) -> float:
        """Share of the 95 % intervals that hold the accuracy."""
        return float(np.mean([model.coverage for model in self.models]))


def random_sample_error(accuracy: float, n: int, n_items: int) -> float:
    """Mean absolute error of the mean of ``n`` of ``n_items`` answers drawn at random.

    sqrt(2/pi) times the standard deviation of the hypergeometric distribution.
    """
    return float(np.sqrt(2 / np.pi * sampling_variance(accuracy, n, n_items)))


def leave_one_model_out(
    responses: ResponseMatrix,
    n_anchors: int,
    *,
    seed: int,
    anchors: str = AUTO,
    estimator: str = AUTO,
    parents: ResponseMatrix | None = None,
) -> LeaveOneOut:
    """The error to expect on a model that the calibration has not seen.

    Items are fitted and anchors drawn anew without the model that is estimated. ``"auto"`` is the estimator that
    `estimate` would choose. Raises DataError for responses that cannot be calibrated on, and with fewer than 3 models
    besides the parents whose accuracy is known.
    """
    everyone, parent_ids = with_parents(responses, parents)
    check_responses(everyone, n_anchors)
    n_models = len(eligible(everyone, parent_ids))
    if n_models < FEWEST_LEFT_OUT:
        raise DataError(
            f"leave one model out: expected at least {FEWEST_LEFT_OUT} models (parents aside) that answered nearly all "
            f"items, got {n_models}; add some"
        )
    n_anchors, method = min(n_anchors, everyone.n_items), anchor_method(anchors, everyone)
    rng = default_rng(seed)
    folds = fit_folds(everyone, dimensions(everyone), rng, parent_ids, max_folds=MOST_FITS)
    outcome = cross_validate(
        everyone, folds, n_anchors, method=method, rng=rng, parents=parent_ids, with_intervals=True
    )
    models = tuple(
        _model_error(
            outcome,
            place,
            best(outcome.findings(without=place).errors, parents_known=bool(parent_ids))
            if estimator == AUTO
            else estimator,
            n_anchors,
            everyone.n_items,
        )
        for place in range(len(outcome.model_ids))
    )
    return LeaveOneOut(estimator, method, n_anchors, models)


def _model_error(outcome: CrossValidation, place: int, name: str, n_anchors: int, n_items: int) -> ModelError:
    truth = float(outcome.accuracies[place])
    draws = outcome.estimates[name][place]
    return ModelError(
        outcome.model_ids[place],
        truth,
        float(np.mean([abs(e.accuracy - truth) for e in draws])),
        random_sample_error(truth, n_anchors, n_items),
        float(np.mean([e.interval[0] <= truth <= e.interval[1] for e in draws])),
    )
