"""Item parameters from a response matrix: 2PL in D dimensions, maximum a posteriori under empirical-Bayes priors.

With a handful of models each item rests on a handful of answers. Items are therefore integrated out while abilities and
priors are found: joint maximisation makes one model an outlier and bends every item to it. The integral is
the Gaussian variational one (Jaakkola and Jordan 2000; for IRT: Cho, Wang, Zhang, Xu 2021), with items and abilities
both uncertain: all updates are closed forms, and none of them lowers the evidence bound.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from merge3_plugin import irt
from merge3_plugin.domain import FloatArray, ItemParameters, ResponseMatrix
from merge3_plugin.errors import ConfigError, DataError

MAX_DIMENSIONS = 5
_MAX_ROUNDS = 200
_TOLERANCE = 1e-5


def fit_items(responses: ResponseMatrix, n_dimensions: int) -> tuple[ItemParameters, FloatArray]:
    """Item parameters, and the models' abilities (n_models, D) with items integrated out; deterministic.

    Abilities have the prior N(0, I); the normal prior of an item's (a, b) is estimated from all items (empirical
    Bayes), and the parameters are the posterior mode under it. Dimension 1 starts at the standardised logit of each
    model's accuracy, the others at the principal components of what it leaves; each is turned so that its
    discriminations sum to a positive number. NaN answers are skipped; graded scores enter as a fractional likelihood,
    whose fitted means are those of the scores. Items that all models answer alike stay in, held by the prior.
    Raises ConfigError for D outside 1 to 5, DataError for a single model and for answers that are all equal.
    """
    _check(responses, n_dimensions)
    answers, pattern_of = _collapse(responses.values)
    state = _fit(answers, n_dimensions)
    items = irt.fit_logistic(
        _design(state.abilities),
        0.0,
        answers.patterns,
        mean=state.prior_mean,
        precision=np.linalg.inv(state.prior_covariance),
        start=state.items,
    ).mean
    turn = np.where(answers.counts @ items[:, :-1] < 0, -1.0, 1.0)
    items = items[pattern_of]
    return ItemParameters(items[:, :-1] * turn, items[:, -1]), state.abilities * turn


def _check(responses: ResponseMatrix, n_dimensions: int) -> None:
    if not 1 <= n_dimensions <= MAX_DIMENSIONS:
        raise ConfigError(f"item fit: expected 1 to {MAX_DIMENSIONS} dimensions, got {n_dimensions}")
    if responses.n_models < 2:
        raise DataError(f"item fit: expected answers of at least 2 models, got {responses.n_models}; add models")
    known = responses.values[~np.isnan(responses.values)]
    if not known.size:
        raise DataError("item fit: expected answered items, got none; check which models were scored on which items")
    if known.min() == known.max():
        raise DataError(
            f"item fit: expected some right and some wrong answers, got {known[0]:g} everywhere; check the metric"
        )


class Answers(NamedTuple):
    """Distinct ``patterns`` (n_patterns, n_models), NaN = not asked, and how many items show each: ``counts``."""

    patterns: FloatArray
    counts: FloatArray

    @property
    def known(self) -> NDArray[np.bool_]:
        return ~np.isnan(self.patterns)

    @property
    def centred(self) -> FloatArray:
        """Score - 1/2, and 0 where not asked: what multiplies the logit in the likelihood's bound."""
        return np.where(self.known, self.patterns - 0.5, 0.0)


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
        moments = _outer(_design(self.abilities))
        moments[:, :-1, :-1] += self.ability_covariance
        return moments

    def item_moments(self) -> FloatArray:
        """E[(a, b) (a, b)^T], shape (n_patterns, D + 1, D + 1)."""
        return _outer(self.items) + self.item_covariance

    def root_mean_square_logits(self) -> FloatArray:
        """sqrt(E[logit^2]), shape (n_patterns, n_models): where the quadratic bound of the likelihood is tightest."""
        squares = _flat(self.item_moments()) @ _flat(self.ability_moments()).T
        return np.sqrt(np.maximum(squares, 1e-12))


def _collapse(values: FloatArray) -> tuple[Answers, NDArray[np.intp]]:
    """The distinct columns, and which of them each column is. Items of one pattern have one fit, so this is exact."""
    patterns, pattern_of, counts = np.unique(
        np.nan_to_num(values.T, nan=-1.0), axis=0, return_inverse=True, return_counts=True
    )
    return Answers(np.where(patterns < 0, np.nan, patterns), counts.astype(np.float64)), pattern_of.reshape(-1)


def _fit(answers: Answers, n_dimensions: int) -> State:
    state = maximise_evidence(answers, _standardised(_accuracy_logits(answers)[:, None]))[0]
    if n_dimensions == 1:
        return state
    components = _residual_components(answers, state, n_dimensions - 1)
    return maximise_evidence(answers, np.hstack([state.abilities, components]))[0]


def maximise_evidence(answers: Answers, abilities: FloatArray) -> tuple[State, list[float]]:
    """Posteriors and prior from the starting ``abilities`` (n_models, D), and the evidence bound after each round.

    The bound, in nats, is a lower one on the log probability of all answers; it never falls.
    """
    state = _start(answers, abilities)
    bounds = [-np.inf]
    for _ in range(_MAX_ROUNDS):
        state = _standardise(answers, _update_abilities(answers, _update_items(answers, state)))
        bounds.append(_evidence_bound(answers, state))
        if bounds[-1] - bounds[-2] < _TOLERANCE * abs(bounds[-1]):
            break
    return state, bounds[1:]


def _start(answers: Answers, abilities: FloatArray) -> State:
    n_models, n_dimensions = abilities.shape
    n_patterns = len(answers.counts)
    mean = np.zeros(n_dimensions + 1)
    mean[0], mean[-1] = 1.0, -_accuracy_logits(answers).mean()
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
    weights = _bound_weights(answers, state)
    moments = state.ability_moments()
    precision = prior_precision + (weights @ _flat(moments)).reshape(-1, *prior_precision.shape)
    pull = answers.centred @ _design(state.abilities) + prior_precision @ state.prior_mean
    covariance = np.asarray(np.linalg.inv(precision), dtype=np.float64)
    return state._replace(items=_apply(covariance, pull), item_covariance=covariance)


def _update_abilities(answers: Answers, state: State) -> State:
    n_dimensions = state.abilities.shape[1]
    weights = (_bound_weights(answers, state) * answers.counts[:, None]).T
    moments = state.item_moments()
    of_a, of_ab = moments[:, :-1, :-1], moments[:, :-1, -1]
    precision = np.eye(n_dimensions) + (weights @ _flat(of_a)).reshape(-1, n_dimensions, n_dimensions)
    pull = (answers.centred * answers.counts[:, None]).T @ state.items[:, :-1] + weights @ of_ab
    covariance = np.asarray(np.linalg.inv(precision), dtype=np.float64)
    return state._replace(abilities=_apply(covariance, pull), ability_covariance=covariance)


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


def _evidence_bound(answers: Answers, state: State) -> float:
    logits = state.items @ _design(state.abilities).T
    xi = state.root_mean_square_logits()
    likelihood = np.where(answers.known, answers.centred * logits - np.logaddexp(0.0, -xi) - 0.5 * xi, 0.0).sum(axis=1)
    of_items = _divergence(state.items, state.item_covariance, state.prior_mean, state.prior_covariance)
    n_dimensions = state.abilities.shape[1]
    of_abilities = _divergence(state.abilities, state.ability_covariance, np.zeros(n_dimensions), np.eye(n_dimensions))
    return float(answers.counts @ (likelihood - of_items) - of_abilities.sum())


def _bound_weights(answers: Answers, state: State) -> FloatArray:
    """Curvature tanh(xi / 2) / (2 xi) of the likelihood's quadratic bound, shape (n_patterns, n_models)."""
    xi = state.root_mean_square_logits()
    return np.where(answers.known, np.tanh(0.5 * xi) / (2.0 * xi), 0.0)


def _divergence(mean: FloatArray, covariance: FloatArray, prior_mean: FloatArray, prior: FloatArray) -> FloatArray:
    """Kullback-Leibler divergence of each normal (n, p), (n, p, p) from the prior, in nats, shape (n,)."""
    precision, gap = np.linalg.inv(prior), mean - prior_mean
    quadratic = np.einsum("np,pq,nq->n", gap, precision, gap) + np.einsum("pq,nqp->n", precision, covariance)
    log_volumes = np.linalg.slogdet(prior)[1] - np.linalg.slogdet(covariance)[1]
    return np.asarray(0.5 * (quadratic - len(prior_mean) + log_volumes), dtype=np.float64)


def _residual_components(answers: Answers, state: State, n_components: int) -> FloatArray:
    """Leading principal components (n_models, n_components) of what a fit leaves, of variance 1; 0 beyond the rank."""
    expected = irt.sigmoid(state.items @ _design(state.abilities).T)
    residuals = np.where(answers.known, answers.patterns - expected, 0.0)
    vectors = np.linalg.eigh((residuals.T * answers.counts) @ residuals)[1][:, ::-1]
    rank = min(n_components, len(vectors) - 1)
    components = np.zeros((len(vectors), n_components))
    components[:, :rank] = _standardised(vectors[:, :rank])
    return components


def _accuracy_logits(answers: Answers) -> FloatArray:
    """Logit of each model's mean score, (right + 1/2) / (asked + 1), so that it is finite; shape (n_models,)."""
    right = answers.counts @ np.where(answers.known, answers.patterns, 0.0)
    asked = answers.counts @ answers.known
    return np.log((right + 0.5) / (asked - right + 0.5))


def _standardised(columns: FloatArray) -> FloatArray:
    centred = columns - columns.mean(axis=0)
    spread = centred.std(axis=0)
    return np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 1e-9)


def _design(abilities: FloatArray) -> FloatArray:
    """(theta, -1), so that the logit is its product with (a, b)."""
    return np.hstack([abilities, np.full((len(abilities), 1), -1.0)])


def _outer(rows: FloatArray) -> FloatArray:
    return rows[:, :, None] * rows[:, None, :]


def _flat(matrices: FloatArray) -> FloatArray:
    return matrices.reshape(len(matrices), -1)


def _apply(matrices: FloatArray, vectors: FloatArray) -> FloatArray:
    return np.asarray(np.einsum("npq,nq->np", matrices, vectors), dtype=np.float64)
