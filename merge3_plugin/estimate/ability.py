"""Abilities of candidates, of their parents, and what each makes of all items."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from merge3_plugin.domain import Calibration, FloatArray, ItemParameters, ResponseMatrix
from merge3_plugin.errors import DataError
from merge3_plugin.estimate.base import Evidence
from merge3_plugin.irt import fit_ability, fit_lambda, probabilities


def fits(calibration: Calibration) -> dict[int, ItemParameters]:
    """The calibration's item parameters by number of dimensions, ascending."""
    found = {fit.n_dimensions: fit for fit in (*calibration.alternatives, calibration.items)}
    return dict(sorted(found.items()))


def own_probabilities(evidence: Evidence, items: ItemParameters | None = None) -> FloatArray:
    """Probability of a right answer to every item, shape (N,), at the ability of the answers themselves (p-IRT).

    ``items`` is the fit that is used, by default the calibration's own.
    """
    return _own_probabilities(evidence, evidence.calibration.items if items is None else items)


@lru_cache(maxsize=16)  # Several estimators ask the same of one piece of evidence.
def _own_probabilities(evidence: Evidence, items: ItemParameters) -> FloatArray:
    precision = evidence.calibration.ability_precision
    ability = fit_ability(items.take(evidence.positions), evidence.scores, precision=precision).mean
    expected = probabilities(items, ability)
    expected.flags.writeable = False
    return expected


def merged_probabilities(evidence: Evidence) -> FloatArray:
    """Probability of a right answer to every item, shape (N,), at a mix of the parents' abilities (mp-IRT).

    The ability is sum_i lambda_i theta_i with lambdas fitted to the answers (MERGE3, arXiv 2502.10436). As there they
    are not bounded, for the search is after merges that no mean of their parents explains; a normal prior around the
    parents' mean, under which their sum has variance 1, keeps them finite and merges near their parents.
    """
    if evidence.parents is None:
        raise DataError("merged ability: expected the parents' full answers, got none; pass parents=")
    items = evidence.calibration.items
    parents = parent_abilities(items, evidence.parents, evidence.calibration.ability_precision)
    seen = items.take(evidence.positions)
    mix = fit_lambda(seen, evidence.scores, parents, precision=len(parents), bounds=(-np.inf, np.inf)).mean
    return probabilities(items, mix @ parents)


@lru_cache(maxsize=64)
def parent_abilities(items: ItemParameters, parents: ResponseMatrix, precision: float) -> FloatArray:
    """Abilities (n_parents, D) by all that the parents answered; ``parents`` has the items of the fit.

    ``precision`` is that of the abilities' prior, `Calibration.ability_precision`.
    """
    abilities = fit_ability(items, parents.values, precision=precision).mean
    abilities.flags.writeable = False
    return abilities


def prior_probabilities(evidence: Evidence) -> FloatArray:
    """Score to expect on every item, shape (N,), before any answer of the candidate is known.

    The parents' mean score where they are known (their mean probability where none of them was asked), else the
    probability at the mean ability of the calibration models.
    """
    calibration = evidence.calibration
    if evidence.parents is None:
        return _average_probabilities(calibration.items)
    return _parents_mean(calibration.items, evidence.parents, calibration.ability_precision)


@lru_cache(maxsize=64)
def _average_probabilities(items: ItemParameters) -> FloatArray:
    return probabilities(items, np.zeros(items.n_dimensions))


@lru_cache(maxsize=64)
def _parents_mean(items: ItemParameters, parents: ResponseMatrix, precision: float) -> FloatArray:
    expected = probabilities(items, parent_abilities(items, parents, precision))
    return np.where(np.isnan(parents.values), expected, parents.values).mean(axis=0)
