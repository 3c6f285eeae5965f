"""What a calibration is worth: the error on models that it has not seen, beside that of a random sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from merge3_plugin.calibrate.build import check_size
from merge3_plugin.calibrate.choice import chosen_design, chosen_estimator
from merge3_plugin.calibrate.crossval import CrossValidation
from merge3_plugin.calibrate.folds import eligible, items_for
from merge3_plugin.calibrate.study import AUTO, Study, study
from merge3_plugin.domain import ResponseMatrix
from merge3_plugin.errors import DataError
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

    Items are fitted and anchors drawn anew without the model that is estimated (and another one, from six models on);
    ``"auto"`` is what the other models choose. Raises DataError for responses that cannot be calibrated on, and with
    fewer than 3 models besides the parents whose accuracy is known.
    """
    check_size(n_anchors)
    made = study(responses, seed=seed, parents=parents, max_folds=MOST_FITS, max_items=items_for(n_anchors))
    everyone = made.responses
    n_models = len(eligible(everyone, () if parents is None else parents.model_ids))
    if n_models < FEWEST_LEFT_OUT:
        raise DataError(
            f"leave one model out: expected at least {FEWEST_LEFT_OUT} models (parents aside) that answered nearly all "
            f"items, got {n_models}; add some"
        )
    if n_anchors >= everyone.n_items:
        exact = [ModelError(model, float(accuracy), 0.0, 0.0, 1.0) for model, accuracy in _known(made)]
        return LeaveOneOut(estimator, anchors, everyone.n_items, tuple(exact))
    outcomes = made.outcomes(n_anchors, anchors, with_intervals=True)
    places = range(len(made.folds.rows))
    models = tuple(_model_error(outcomes, made.default_design, anchors, estimator, place) for place in places)
    return LeaveOneOut(estimator, anchors, n_anchors, models)


def _known(made: Study) -> list[tuple[str, float]]:
    """The models that can be left out, and their accuracies."""
    rows, accuracy = made.folds.rows, made.folds.responses.accuracy()
    return [(made.folds.responses.model_ids[row], float(accuracy[row])) for row in rows]


def _model_error(
    outcomes: Mapping[str, CrossValidation], default: str, anchors: str, estimator: str, place: int
) -> ModelError:
    """Errors of the model at ``place``, by the anchors and the estimator that the other folds choose."""
    fold = int(next(iter(outcomes.values())).fold_of[place])
    outcome = outcomes[chosen_design(outcomes, default, without=fold) if anchors == AUTO else anchors]
    responses = outcome.folds.responses
    if estimator == AUTO:
        known = {"parents_known": outcome.folds.parents is not None, "soft_known": responses.soft is not None}
        estimator = chosen_estimator(outcome, **known, without=fold)
    truth = float(outcome.accuracies[place])
    draws = [e for e in outcome.estimates[estimator][place] if e is not None]
    return ModelError(
        outcome.model_ids[place],
        truth,
        float(np.mean([abs(e.accuracy - truth) for e in draws])),
        random_sample_error(truth, outcome.n_anchors, responses.n_items),
        float(np.mean([e.interval[0] <= truth <= e.interval[1] for e in draws])),
    )
