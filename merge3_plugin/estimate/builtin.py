"""The estimators that merge3 brings, offered through the same hook as anyone's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from merge3_plugin.domain import Estimate
from merge3_plugin.estimate.ability import fits
from merge3_plugin.estimate.base import Evidence, calibrated
from merge3_plugin.estimate.design import sample_mean
from merge3_plugin.estimate.difference import Difference, ShrunkenDifference
from merge3_plugin.estimate.ensemble import Core
from merge3_plugin.estimate.irt_estimators import GMP_IRT, GMP_IRT_HALF, GP_IRT, MP_IRT, P_IRT, p_irt_in
from merge3_plugin.estimate.plog import Plog
from merge3_plugin.estimate.ridge import Ridge
from merge3_plugin.estimate.soft import SoftFactors
from merge3_plugin.hookspecs import RegisterEstimator, hookimpl


@dataclass(frozen=True)
class Mean:
    """Mean of the answers, by item weight / inclusion probability where the anchors were drawn (Hajek 1971).

    Of drawn anchors that are not all scored, or scored beside other items, by their weights in the evidence.
    """

    name: str = "mean"
    needs_parents: bool = False

    def estimate(self, evidence: Evidence) -> Estimate:
        weights = evidence.design_weights
        if weights is None:
            drawn = evidence.calibration.anchors.inclusion is not None
            weights = evidence.weights if drawn else evidence.item_weights[evidence.positions]
        return sample_mean(evidence.scores, evidence.n_items, weights=weights, method=self.name)


@dataclass(frozen=True)
class Weighted:
    """Mean of the answers by the anchors' weights."""

    name: str = "weighted"
    needs_parents: bool = False

    def estimate(self, evidence: Evidence) -> Estimate:
        drawn = evidence.design_weights is not None
        return calibrated(evidence, float(evidence.weights @ evidence.scores), self.name, by_design=drawn)


ESTIMATORS = (
    Mean(),
    Weighted(),
    P_IRT,
    GP_IRT,
    MP_IRT,
    GMP_IRT,
    GMP_IRT_HALF,
    Difference(),
    ShrunkenDifference(),
    Ridge(),
    Plog(),
    Core(),
    SoftFactors(),
)


def misfits(evidence: Evidence) -> dict[str, float]:
    """Mean probability less mean score over the scored items, by IRT estimator; of mp-IRT only with parents.

    p-IRT's is there once more for every number of dimensions that the calibration holds a fit of. Over all of a model's
    answers this is what no number of anchors removes: the error of the item parameters.
    """
    weights = evidence.item_weights[evidence.positions]
    models = [P_IRT, *(p_irt_in(n) for n in fits(evidence.calibration))]
    if evidence.parents is not None:
        models.append(MP_IRT)
    return {
        model.name: float(
            np.average(model.probabilities(evidence)[evidence.positions] - evidence.scores, weights=weights)
        )
        for model in models
    }


@hookimpl
def merge3_register_estimators(register: RegisterEstimator) -> None:
    for estimator in ESTIMATORS:
        register(estimator)
