"""p-IRT, mp-IRT, and their mixes with the answers, gp-IRT and gmp-IRT.

p-IRT and gp-IRT are tinyBenchmarks' (arXiv 2402.14992), mp-IRT and gmp-IRT are MERGE3's (arXiv 2502.10436).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from merge3_plugin.domain import Estimate, FloatArray
from merge3_plugin.estimate.ability import fits, merged_probabilities, own_probabilities
from merge3_plugin.estimate.anchored import measured_at
from merge3_plugin.estimate.base import Evidence, calibrated, misfit


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

    c is ``fixed_trust`` where given, else `gp_irt_trust` of the cross-validated misfit of F's item parameters and the
    calibration models' accuracies; 1/2, as in MERGE3, where too few models are known to say b. With imported parameters
    it is the weight that was published for all anchors; its odds grow with the number of answers, as those of b do.
    """

    name: str
    irt: Irt
    error_like: tuple[str, ...] = ()
    fixed_trust: float | None = None

    @property
    def needs_parents(self) -> bool:
        return self.irt.needs_parents

    def estimate(self, evidence: Evidence) -> Estimate:
        by_answers = float(evidence.weights @ evidence.scores)
        by_model = evidence.completed(self.irt.probabilities(evidence))
        c = self.trust_in_answers(evidence)
        return calibrated(evidence, gp_irt(by_answers, by_model, c), self.name, *self.error_like)

    def trust_in_answers(self, evidence: Evidence) -> float:
        """c, in [0, 1]."""
        if self.fixed_trust is not None:
            return self.fixed_trust
        published = evidence.calibration.provenance.get("gp_irt_weight")
        if published is not None:
            share = evidence.n_scored / measured_at(evidence.calibration)
            return share * published / (share * published + 1.0 - published)
        b = misfit(evidence.calibration, self.irt.name, *self.irt.error_like)
        if b is None:
            return 0.5
        accuracy = evidence.calibration.responses.accuracy()
        return gp_irt_trust(b, float(np.nanmean(accuracy * (1 - accuracy))), evidence.n_scored)


# Where a calibration holds no merges to cross-validate on, a merge-aware estimator is given the error of its plain
# counterpart: the merge-aware ability is the same fit with less freedom.
P_IRT = Irt("p-irt", False, own_probabilities)
MP_IRT = Irt("mp-irt", True, merged_probabilities, ("p-irt",))
GP_IRT = Generalised("gp-irt", P_IRT)
GMP_IRT = Generalised("gmp-irt", MP_IRT, ("gp-irt",))
GMP_IRT_HALF = Generalised("gmp-irt-half", MP_IRT, ("gp-irt",), fixed_trust=0.5)


@cache
def p_irt_in(n_dimensions: int) -> Irt:
    """p-IRT with the calibration's fit in ``n_dimensions``; its misfit is recorded under a name of its own."""

    def own(evidence: Evidence) -> FloatArray:
        return own_probabilities(evidence, fits(evidence.calibration)[n_dimensions])

    return Irt(f"p-irt-{n_dimensions}d", False, own, ("p-irt",))


def gp_irt(by_answers: float, by_model: float, trust_in_answers: float) -> float:
    """c Y_S + (1 - c) p-IRT (tinyBenchmarks, arXiv 2402.14992)."""
    return trust_in_answers * by_answers + (1.0 - trust_in_answers) * by_model


def gp_irt_trust(misfit: float, variance: float, n_scored: int) -> float:
    """c = b^2 / (b^2 + v / 4n), as tinyBenchmarks sets it: misfit b, variance v of an answer, n answers."""
    return misfit**2 / (misfit**2 + variance / (4 * n_scored)) if misfit > 0 else 0.0
