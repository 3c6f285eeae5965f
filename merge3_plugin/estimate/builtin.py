"""The estimators that merge3 brings, offered through the same hook as anyone's.

p-IRT and gp-IRT are tinyBenchmarks' (arXiv 2402.14992), mp-IRT and gmp-IRT are MERGE3's (arXiv 2502.10436).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from merge3_plugin.domain import Estimate, FloatArray
from merge3_plugin.estimate.ability import merged_probabilities, own_probabilities
from merge3_plugin.estimate.base import Evidence, calibrated, misfit
from merge3_plugin.estimate.design import sample_mean
from merge3_plugin.hookspecs import RegisterEstimator, hookimpl


@dataclass(frozen=True)
class Mean:
    """Mean of the answers. Unbiased, with an interval that assumes nothing, where the items were drawn at random."""

    name: str = "mean"
    needs_parents: bool = False

    def estimate(self, evidence: Evidence) -> Estimate:
        return sample_mean(evidence.scores, evidence.n_items, method=self.name)


@dataclass(frozen=True)
class Weighted:
    """Mean of the answers by the anchors' weights."""

    name: str = "weighted"
    needs_parents: bool = False

    def estimate(self, evidence: Evidence) -> Estimate:
        return sample_mean(evidence.scores, evidence.n_items, weights=evidence.weights, method=self.name)


@dataclass(frozen=True)
class Irt:
    """Answers where they are known, else the model's probability of a right one: p-IRT and mp-IRT.

    ``probabilities`` gives it for all items, at the ability fitted to the answers. Its bias, where the item parameters
    are wrong, does not shrink with more anchors. Errors and intervals are those of ``error_like`` where its own were
    not cross-validated.
    """

    name: str
    needs_parents: bool
    probabilities: Callable[[Evidence], FloatArray]
    error_like: tuple[str, ...] = ()

    def estimate(self, evidence: Evidence) -> Estimate:
        accuracy = evidence.completed(self.probabilities(evidence))
        return calibrated(evidence, accuracy, self.name, *self.error_like)


@dataclass(frozen=True)
class Generalised:
    """c Y_S + (1 - c) F: weighted mean of the answers Y_S and an IRT estimate F: gp-IRT and gmp-IRT.

    c = b^2 / (b^2 + v / 4n) with b the cross-validated misfit of F's item parameters and v the variance of the
    calibration models' answers (tinyBenchmarks); 1/2, as in MERGE3, where too few models are known to say b.
    """

    name: str
    irt: Irt
    error_like: tuple[str, ...] = ()

    @property
    def needs_parents(self) -> bool:
        return self.irt.needs_parents

    def estimate(self, evidence: Evidence) -> Estimate:
        by_answers = float(evidence.weights @ evidence.scores)
        by_model = evidence.completed(self.irt.probabilities(evidence))
        c = self.trust_in_answers(evidence)
        return calibrated(evidence, c * by_answers + (1 - c) * by_model, self.name, *self.error_like)

    def trust_in_answers(self, evidence: Evidence) -> float:
        """c, in [0, 1]."""
        b = misfit(evidence.calibration, self.irt.name, *self.irt.error_like)
        if b is None:
            return 0.5
        accuracy = evidence.calibration.responses.accuracy()
        variance = float(np.nanmean(accuracy * (1 - accuracy))) / (4 * evidence.n_scored)
        return b**2 / (b**2 + variance) if b > 0 else 0.0


# Where a calibration holds no merges to cross-validate on, a merge-aware estimator is given the error of its plain
# counterpart: the merge-aware ability is the same fit with less freedom.
P_IRT = Irt("p-irt", False, own_probabilities)
MP_IRT = Irt("mp-irt", True, merged_probabilities, ("p-irt",))
GP_IRT = Generalised("gp-irt", P_IRT)
GMP_IRT = Generalised("gmp-irt", MP_IRT, ("gp-irt",))


def misfits(evidence: Evidence) -> dict[str, float]:
    """Mean probability less mean score over the scored items, by IRT estimator; of mp-IRT only with parents.

    Over all of a model's answers this is what no number of anchors removes: the error of the item parameters.
    """
    models = (P_IRT,) if evidence.parents is None else (P_IRT, MP_IRT)
    return {
        model.name: float((model.probabilities(evidence)[evidence.positions] - evidence.scores).mean())
        for model in models
    }


@hookimpl
def merge3_register_estimators(register: RegisterEstimator) -> None:
    for estimator in (Mean(), Weighted(), P_IRT, GP_IRT, MP_IRT, GMP_IRT):
        register(estimator)
