"""Abilities of parents and of the models merged from them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from merge3_plugin.domain import Calibration, FloatArray, ItemParameters, ResponseMatrix
from merge3_plugin.errors import DataError
from merge3_plugin.estimate.base import Evidence
from merge3_plugin.irt import fit_ability, fit_lambda, probabilities


def _seen(evidence: Evidence) -> ItemParameters:
    items = evidence.calibration.items
    return ItemParameters(items.discrimination[evidence.positions], items.difficulty[evidence.positions])


def own_probabilities(evidence: Evidence) -> FloatArray:
    """Probability of a right answer to every item, shape (N,), at the ability of the answers themselves (p-IRT)."""
    ability = fit_ability(_seen(evidence), evidence.scores).mean
    return probabilities(evidence.calibration.items, ability)


def merged_probabilities(evidence: Evidence) -> FloatArray:
    """Probability of a right answer to every item, shape (N,), at a mix of the parents' abilities (mp-IRT).

    The ability is sum_i lambda_i theta_i with lambdas fitted to the answers (MERGE3, arXiv 2502.10436). As there they
    are not bounded, for the search is after merges that no mean of their parents explains; a normal prior around the
    parents' mean, under which their sum has variance 1, keeps them finite and merges near their parents.
    """
    if evidence.parents is None:
        raise DataError("merged ability: expected the parents' full answers, got none; pass parents=")
    parents = parent_abilities(evidence.calibration, evidence.parents)
    mix = fit_lambda(_seen(evidence), evidence.scores, parents, precision=len(parents), bounds=(-np.inf, np.inf)).mean
    return probabilities(evidence.calibration.items, mix @ parents)


@lru_cache(maxsize=64)
def parent_abilities(calibration: Calibration, parents: ResponseMatrix) -> FloatArray:
    """Abilities (n_parents, D) by all that the parents answered; ``parents`` has the calibration's items."""
    abilities = fit_ability(calibration.items, parents.values).mean
    abilities.flags.writeable = False
    return abilities
