"""Logistic regression of a merge's answers on what its parents answered: plog."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from merge3_plugin.domain import Estimate, FloatArray, ItemParameters, ResponseMatrix
from merge3_plugin.errors import DataError
from merge3_plugin.estimate.ability import parent_abilities
from merge3_plugin.estimate.base import Evidence, calibrated
from merge3_plugin.estimate.difference import shrunken
from merge3_plugin.irt import fit_logistic, probabilities, sigmoid

Positions = NDArray[np.intp]

# Prior standard deviations of a merge about its parents, in logits at scale 1: of its ability in any direction, of the
# factor by which it scales the parents' mean ability, and of the level that no ability explains.
ABILITY_SPREAD, FACTOR_SPREAD, LEVEL_SPREAD = 0.15, 0.25, 0.1
# The mean and the spread of the sum of the parents' multiples, and by how much single ones differ.
SURPLUS, SURPLUS_SPREAD, SHARE_SPREAD = 1.5, 1.5, 2.0
# How much nearer or further than scale 1 a merge may be, and how probable that is before its answers are known: a
# normal prior of one scale would be too tight for the odd merge or too wide for the usual one.
SCALES, CHANCES = (0.7, 2.0, 5.0), (0.55, 0.25, 0.2)
# What such a regression errs by however many answers it is fitted to: merges do not all resemble their parents.
BIAS = 0.025


@dataclass(frozen=True)
class Plog:
    """Answers where they are known, else the probability by a logistic regression on the parents.

    The logit is that of the item response model, a . theta - b, plus a level, plus for each parent a multiple of its
    surplus, score - probability: what the parent knows, or fails to know, beyond its ability. Ability, level and
    multiples are fitted to the answers, about those of a mean of the parents. The estimate is shrunk to the answers'
    own as gd is.
    """

    name: str = "plog"
    needs_parents: bool = True

    def estimate(self, evidence: Evidence) -> Estimate:
        return calibrated(evidence, parent_logistic(evidence), self.name, "gmp-irt", "gp-irt")


def parent_logistic(evidence: Evidence) -> float:
    """The estimate itself, in [0, 1] but for sampling error."""
    return shrunken(evidence, parent_probabilities(evidence), BIAS)


def parent_probabilities(evidence: Evidence) -> FloatArray:
    """Probability of a right answer to every item, shape (N,): its mean over the scales of the prior."""
    if evidence.parents is None:
        raise DataError("plog: expected the parents' full answers, got none; pass parents=")
    items = evidence.calibration.items
    model = parent_model(items, evidence.parents, evidence.calibration.ability_precision)
    fit = fit_parents(model, items.difficulty, evidence.positions, evidence.scores)
    return fit.chances @ sigmoid(fit.coefficients @ model.design.T - items.difficulty)


class ParentFit(NamedTuple):
    """``coefficients`` (scales, D + 1 + P) at each scale of the prior, and the posterior probability of each scale."""

    coefficients: FloatArray
    chances: FloatArray


def fit_parents(model: ParentModel, difficulty: FloatArray, positions: Positions, scores: FloatArray) -> ParentFit:
    """Maximum a posteriori coefficients by the answers ``scores`` (m,) at ``positions`` (m,), scale by scale.

    A scale's probability is Laplace's approximation.
    """
    seen, offset = model.design[positions], -difficulty[positions]
    found, log_chances, start = [], [], model.mean
    for scale, chance in zip(SCALES, CHANCES, strict=True):
        precision = model.precision(scale)
        fit = fit_logistic(seen, offset, scores, mean=model.mean, precision=precision, start=start)
        start, gap, logit = fit.mean, fit.mean - model.mean, seen @ fit.mean + offset
        likelihood = scores @ logit - np.logaddexp(0.0, logit).sum()
        volume = np.linalg.slogdet(fit.covariance @ precision)[1]
        found.append(fit.mean)
        log_chances.append(np.log(chance) + likelihood - 0.5 * gap @ precision @ gap + 0.5 * volume)
    chances = np.exp(np.array(log_chances) - max(log_chances))
    return ParentFit(np.array(found), chances / chances.sum())


class ParentModel(NamedTuple):
    """Regressors of every item, ``design`` (N, D + 1 + P): discrimination, 1, surpluses; and the coefficients' prior.

    ``spread`` is the prior covariance at scale 1 of the first D + 1 coefficients, ``of_surplus`` that of the others.
    """

    design: FloatArray
    mean: FloatArray
    spread: FloatArray
    of_surplus: FloatArray

    def precision(self, scale: float) -> FloatArray:
        """Prior precision of all coefficients, where the merge is ``scale`` times as far from its parents."""
        first = len(self.spread)
        covariance = np.zeros((len(self.mean), len(self.mean)))
        covariance[:first, :first] = scale**2 * self.spread
        covariance[first:, first:] = self.of_surplus
        return np.asarray(np.linalg.inv(covariance), dtype=np.float64)


@lru_cache(maxsize=64)
def parent_model(items: ItemParameters, parents: ResponseMatrix, precision: float) -> ParentModel:
    """The regression for merges of ``parents``, who answered the items of the fit in its order.

    ``precision`` is that of the abilities' prior.
    """
    abilities = parent_abilities(items, parents, precision)
    n_parents, n_dimensions = abilities.shape
    # A parent that was not asked an item tells nothing of it beyond its ability.
    surplus = np.nan_to_num(parents.values - probabilities(items, abilities), nan=0.0).T
    centre = abilities.mean(axis=0)
    apart = abilities - centre
    spread = np.zeros((n_dimensions + 1, n_dimensions + 1))
    # The first term is the covariance of mixes whose shares are uniform, for two parents.
    spread[:-1, :-1] = apart.T @ apart / (3 * n_parents)
    spread[:-1, :-1] += ABILITY_SPREAD**2 * np.eye(n_dimensions) + FACTOR_SPREAD**2 * np.outer(centre, centre)
    spread[-1, -1] = LEVEL_SPREAD**2
    together = np.full((n_parents, n_parents), 1.0 / n_parents)
    of_surplus = SURPLUS_SPREAD**2 / n_parents * together + SHARE_SPREAD**2 * (np.eye(n_parents) - together)
    return ParentModel(
        np.column_stack([items.discrimination, np.ones(len(surplus)), surplus]),
        np.concatenate([centre, [0.0], np.full(n_parents, SURPLUS / n_parents)]),
        spread,
        of_surplus,
    )
