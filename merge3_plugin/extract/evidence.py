"""The evidence bound of the item response model, maximised: posteriors of abilities and items, and the items' prior.

The integral over items and abilities is the Gaussian variational one (Jaakkola and Jordan 2000; for IRT: Cho, Wang,
Zhang, Xu 2021), with both uncertain: all updates are closed forms, and none of them lowers the evidence bound. Where
few models answer each item they creep, and Anderson's acceleration leaps over what they would do in many rounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from merge3_plugin.domain import FloatArray

_MAX_ROUNDS = 200
_MEMORY = 6  # rounds that the next start is a combination of
_BLOCK = 1 << 15  # numbers worked on at a time: what fits into a core's cache


@dataclass(frozen=True, eq=False)
class Answers:
    """Distinct ``patterns`` (n_patterns, n_models), NaN = not asked, and how many items show each: ``counts``."""

    patterns: FloatArray
    counts: FloatArray

    @cached_property
    def known(self) -> NDArray[np.bool_]:
        return ~np.isnan(self.patterns)

    @cached_property
    def centred(self) -> FloatArray:
        """Score - 1/2, and 0 where not asked: what multiplies the logit in the likelihood's bound."""
        return np.where(self.known, self.patterns - 0.5, 0.0)

    def blocks(self) -> Iterator[slice]:
        """Consecutive patterns, as many at a time as are quickly worked on."""
        size = max(1, _BLOCK // self.patterns.shape[1])
        return (slice(start, start + size) for start in range(0, len(self.patterns), size))


class State(NamedTuple):
    """Normal posteriors of abilities (n_models, D) and items (n_patterns, D + 1), an item's (a, b), and its prior."""

    abilities: FloatArray
    ability_covariance: FloatArray
    items: FloatArray
    item_covariance: FloatArray
    prior_mean: FloatArray
    prior_covariance: FloatArray

    def ability_moments(self) -> FloatArray:
        """E[x x^T] of x = (theta, -1), shape (n_models, D + 1, D + 1)."""
        moments = _outer(design(self.abilities))
        moments[:, :-1, :-1] += self.ability_covariance
        return moments

    def item_moments(self) -> FloatArray:
        """E[(a, b) (a, b)^T], shape (n_patterns, D + 1, D + 1)."""
        return _outer(self.items) + self.item_covariance


class _Outcome(NamedTuple):
    """The state that a round led to, the logarithm of its prior's scale, and what changed.

    ``change`` is of all that a round depends on besides the items, without bounds: abilities, prior mean and scale.
    """

    state: State
    log_cholesky: FloatArray
    change: FloatArray

    @classmethod
    def of(cls, start: State, found: State) -> _Outcome:
        before, after = _log_cholesky(start.prior_covariance), _log_cholesky(found.prior_covariance)
        changes = (found.abilities - start.abilities).ravel(), found.prior_mean - start.prior_mean, after - before
        return cls(found, after, np.concatenate(changes))


def maximise_evidence(answers: Answers, abilities: FloatArray, tolerance: float = 1e-6) -> tuple[State, list[float]]:
    """Posteriors and prior from the starting ``abilities`` (n_models, D), and the evidence bound in each round.

    The bound, in nats, is a lower one on the log probability of all answers; it never falls. Rounds end once one gains
    less than ``tolerance`` of it.
    """
    best, bound = _round(answers, _first(answers, abilities))
    history: list[_Outcome] = []
    bounds, start = [bound], best
    for _ in range(_MAX_ROUNDS):
        found, bound = _round(answers, start)
        if bound < bounds[-1]:
            if not history:
                break  # a plain round cannot lower the bound but by rounding
            history, start = [], best  # extrapolated too far
            continue
        best, history = found, [*history[1 - _MEMORY :], _Outcome.of(start, found)]
        bounds.append(bound)
        if len(history) > 1 and bounds[-1] - bounds[-2] < tolerance * abs(bound):
            break
        start = _extrapolated(history)
    return best, bounds


def _round(answers: Answers, start: State) -> tuple[State, float]:
    """One round from ``start``, and the evidence bound half-way through it, after the items' update."""
    updated, bound = _update_abilities(answers, _update_items(answers, start))
    return _standardise(answers, updated), bound


def _extrapolated(outcomes: Sequence[_Outcome]) -> State:
    """The combination of rounds' outcomes whose combined change is least (Anderson 1965; Walker and Ni 2011)."""
    changes = np.array([outcome.change for outcome in outcomes])
    gram = changes @ changes.T
    gram += np.diag(1e-8 * np.diagonal(gram) + 1e-30)  # rounds that change alike, or not at all, share equally
    shares = np.linalg.solve(gram, np.ones(len(gram)))
    shares /= shares.sum()
    states = [outcome.state for outcome in outcomes]

    def combined(parts: list[FloatArray]) -> FloatArray:
        return np.tensordot(shares, np.array(parts), axes=1)

    return states[-1]._replace(
        abilities=combined([s.abilities for s in states]),
        items=combined([s.items for s in states]),
        prior_mean=combined([s.prior_mean for s in states]),
        prior_covariance=_from_log_cholesky(combined([outcome.log_cholesky for outcome in outcomes])),
    )


def _first(answers: Answers, abilities: FloatArray) -> State:
    n_models, n_dimensions = abilities.shape
    n_patterns = len(answers.counts)
    mean = np.zeros(n_dimensions + 1)
    mean[0], mean[-1] = 1.0, -accuracy_logits(answers).mean()
    covariance = np.diag([0.5] * n_dimensions + [2.0])
    return State(
        abilities,
        np.tile(0.1 * np.eye(n_dimensions), (n_models, 1, 1)),
        np.tile(mean, (n_patterns, 1)),
        np.tile(covariance, (n_patterns, 1, 1)),
        mean,
        covariance,
    )


def _update_items(answers: Answers, state: State) -> State:
    prior_precision = np.linalg.inv(state.prior_covariance)
    of_items, of_models = _flat(state.item_moments()), _flat(state.ability_moments())
    precision = np.empty_like(of_items)
    for block in answers.blocks():
        xi = _touching(of_items[block], of_models)
        precision[block] = (_curvature(xi, np.exp(-xi)) * answers.known[block]) @ of_models
    covariance = _inverse(precision.reshape(state.item_covariance.shape) + prior_precision)
    pull = answers.centred @ design(state.abilities) + prior_precision @ state.prior_mean
    return state._replace(items=_apply(covariance, pull), item_covariance=covariance)


def _update_abilities(answers: Answers, state: State) -> tuple[State, float]:
    """The state with new abilities, and the evidence bound of the old one, which has its quantities in common."""
    n_models, n_dimensions = state.abilities.shape
    of_items, of_models = _flat(state.item_moments()), _flat(state.ability_moments())
    sums = np.zeros((n_models, of_items.shape[1]))
    log_terms = np.empty(len(of_items))
    for block in answers.blocks():
        known = answers.known[block]
        xi = _touching(of_items[block], of_models)
        decay = np.exp(-xi)
        log_terms[block] = 0.5 * (xi * known).sum(axis=1) + _sum_log1p(decay * known)
        sums += (_curvature(xi, decay) * known).T @ (of_items[block] * answers.counts[block, None])
    moments = sums.reshape(n_models, n_dimensions + 1, n_dimensions + 1)
    covariance = _inverse(moments[:, :-1, :-1] + np.eye(n_dimensions))
    pull = answers.centred.T @ (state.items[:, :-1] * answers.counts[:, None]) + moments[:, :-1, -1]
    linear = (state.items * (answers.centred @ design(state.abilities))).sum(axis=1)
    of_prior = _divergence(state.items, state.item_covariance, state.prior_mean, state.prior_covariance)
    unit = np.eye(n_dimensions)
    of_abilities = _divergence(state.abilities, state.ability_covariance, np.zeros(n_dimensions), unit)
    bound = float(answers.counts @ (linear - log_terms - of_prior) - of_abilities.sum())
    return state._replace(abilities=_apply(covariance, pull), ability_covariance=covariance), bound


def _standardise(answers: Answers, state: State) -> State:
    """The same logits with abilities of mean 0 and second moment I, as their prior asks for, and the items' prior anew.

    The prior has the moments of the items' posteriors (the M step of empirical Bayes). Without the change of scale,
    which the answers cannot see, the updates would creep towards it.
    """
    centre = state.abilities.mean(axis=0)
    centred = state.abilities - centre
    root = np.linalg.cholesky(centred.T @ centred / len(centred) + state.ability_covariance.mean(axis=0))
    inverse = np.linalg.inv(root)
    change = np.eye(len(root) + 1)
    change[:-1, :-1] = root.T
    change[-1, :-1] = -centre
    items, covariance = state.items @ change.T, change @ state.item_covariance @ change.T
    mean = np.average(items, axis=0, weights=answers.counts)
    spread = np.average(_outer(items - mean) + covariance, axis=0, weights=answers.counts)
    return State(centred @ inverse.T, inverse @ state.ability_covariance @ inverse.T, items, covariance, mean, spread)


def _touching(of_items: FloatArray, of_models: FloatArray) -> FloatArray:
    """sqrt(E[logit^2]), shape (patterns, n_models): where the quadratic bound of the likelihood is tightest."""
    return np.sqrt(np.maximum(of_items @ of_models.T, 1e-12))


def _curvature(xi: FloatArray, decay: FloatArray) -> FloatArray:
    """Curvature tanh(xi / 2) / (2 xi) of that bound, from ``decay`` = exp(-xi)."""
    return (1.0 - decay) / ((1.0 + decay) * (2.0 * xi))


def _sum_log1p(decay: FloatArray) -> FloatArray:
    """Sum of log(1 + decay) over the models, for decay in [0, 1]: one logarithm for each thousand of them."""
    products = np.multiply.reduceat(1.0 + decay, np.arange(0, decay.shape[1], 1000), axis=1)
    return np.log(products).sum(axis=1)


def _divergence(mean: FloatArray, covariance: FloatArray, prior_mean: FloatArray, prior: FloatArray) -> FloatArray:
    """Kullback-Leibler divergence of each normal (n, p), (n, p, p) from the prior, in nats, shape (n,)."""
    precision, gap = np.linalg.inv(prior), mean - prior_mean
    quadratic = ((gap @ precision) * gap).sum(axis=1) + _flat(covariance) @ precision.ravel()
    log_volumes = np.linalg.slogdet(prior)[1] - np.linalg.slogdet(covariance)[1]
    return np.asarray(0.5 * (quadratic - len(prior_mean) + log_volumes), dtype=np.float64)


def accuracy_logits(answers: Answers) -> FloatArray:
    """Logit of each model's mean score, (right + 1/2) / (asked + 1), so that it is finite; shape (n_models,)."""
    right = answers.counts @ np.where(answers.known, answers.patterns, 0.0)
    asked = answers.counts @ answers.known
    return np.log((right + 0.5) / (asked - right + 0.5))


def design(abilities: FloatArray) -> FloatArray:
    """(theta, -1), so that the logit is its product with (a, b)."""
    return np.hstack([abilities, np.full((len(abilities), 1), -1.0)])


def _log_cholesky(covariance: FloatArray) -> FloatArray:
    """Its Cholesky factor with the diagonal's logarithm, flat: any such vector is a covariance again."""
    root = np.asarray(np.linalg.cholesky(covariance), dtype=np.float64)
    root.flat[:: len(root) + 1] = np.log(np.diagonal(root))
    return root.ravel()


def _from_log_cholesky(vector: FloatArray) -> FloatArray:
    size = int(np.sqrt(len(vector)))
    root = vector.reshape(size, size).copy()
    root.flat[:: size + 1] = np.exp(np.diagonal(root))
    return root @ root.T


def _inverse(matrices: FloatArray) -> FloatArray:
    return np.asarray(np.linalg.inv(matrices), dtype=np.float64)


def _outer(rows: FloatArray) -> FloatArray:
    return rows[:, :, None] * rows[:, None, :]


def _flat(matrices: FloatArray) -> FloatArray:
    return matrices.reshape(len(matrices), -1)


def _apply(matrices: FloatArray, vectors: FloatArray) -> FloatArray:
    return (matrices @ vectors[:, :, None])[:, :, 0]
