"""Logistic regression of a merge's answers on those of its parents: plog."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from merge3_plugin.domain import Estimate, FloatArray, ItemParameters, ResponseMatrix
from merge3_plugin.errors import DataError
from merge3_plugin.estimate.ability import merged_probabilities, parent_abilities
from merge3_plugin.estimate.base import Evidence, calibrated
from merge3_plugin.irt import fit_logistic, probabilities


@dataclass(frozen=True)
class Plog:
    """A logistic regression on the logit of mp-IRT's probability and on what each parent knows beyond its ability."""

    name: str = "plog"
    needs_parents: bool = True

    def estimate(self, evidence: Evidence) -> Estimate:
        return calibrated(evidence, evidence.completed(parent_logistic(evidence)), self.name, "gmp-irt", "gp-irt")


def parent_logistic(evidence: Evidence) -> FloatArray:
    """Probability of a right answer to every item, shape (N,)."""
    if evidence.parents is None:
        raise DataError("plog: expected the parents' full answers, got none; pass parents=")
    surplus = _parents_surplus(evidence.calibration.items, evidence.parents)
    chance = np.clip(merged_probabilities(evidence), 1e-6, 1 - 1e-6)
    logit = np.log(chance / (1.0 - chance))
    design = np.column_stack([np.ones(len(logit)), surplus])
    n_parents = surplus.shape[1]
    mean = np.r_[0.0, np.full(n_parents, 1.5 / n_parents)]
    precision = np.r_[25.0, np.full(n_parents, 1.0)]
    seen = evidence.positions
    beta = fit_logistic(design[seen], logit[seen], evidence.scores, mean=mean, precision=np.diag(precision)).mean
    return 1.0 / (1.0 + np.exp(-(design @ beta + logit)))


@lru_cache(maxsize=64)
def _parents_surplus(items: ItemParameters, parents: ResponseMatrix) -> FloatArray:
    """Each parent's score less its probability, shape (N, P); 0 where it was not asked."""
    expected = probabilities(items, parent_abilities(items, parents))
    return np.nan_to_num(parents.values - expected, nan=0.0).T
