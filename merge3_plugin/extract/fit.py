"""Item parameters from a response matrix: 2PL in D dimensions, maximum a posteriori under empirical-Bayes priors."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from merge3_plugin import irt
from merge3_plugin.domain import FloatArray, ItemParameters, ResponseMatrix
from merge3_plugin.errors import DataError

MAX_DIMENSIONS = 5
_PRIOR_UPDATES = 10
_ASCENTS = 2


class ItemPrior(NamedTuple):
    """Independent normal priors of an item's (a_1 .. a_D, b): ``mean`` and ``variance``, each (D + 1,)."""

    mean: FloatArray
    variance: FloatArray


class Fit(NamedTuple):
    """Joint mode: ``items`` (n_items, D + 1) of (a, b) with ``covariance``, and ``abilities`` (n_models, D).

    ``log_posterior`` is that of the joint mode under the prior it was fitted with.
    """

    items: FloatArray
    covariance: FloatArray
    abilities: FloatArray
    log_posterior: float


def fit_items(responses: ResponseMatrix, n_dimensions: int) -> tuple[ItemParameters, FloatArray]:
    """Item parameters and the models' abilities (n_models, D), deterministic.

    Abilities have a standard normal prior, items normal priors whose means and variances are estimated from all
    items (empirical Bayes). Dimension 1 starts at the standardised logit of each model's accuracy, the others
    at the principal components of what it leaves; each dimension is turned so that its discriminations sum to a
    positive number. NaN answers are skipped; graded scores enter as fractional likelihood, so that fitted means are
    those of the scores. Items that every model answers alike stay in, held by the prior. Raises DataError for a single
    model, for answers that are all equal, and for D outside 1 to 5.
    """
    _check(responses, n_dimensions)
    patterns, counts, pattern_of = _collapse(responses.values)
    fit = _fit_patterns(patterns, counts, n_dimensions)
    turn = np.where(counts @ fit.items[:, :-1] < 0, -1.0, 1.0)
    items = fit.items[pattern_of]
    return ItemParameters(items[:, :-1] * turn, items[:, -1]), fit.abilities * turn


def _check(responses: ResponseMatrix, n_dimensions: int) -> None:
    if not 1 <= n_dimensions <= MAX_DIMENSIONS:
        raise DataError(f"item fit: expected 1 to {MAX_DIMENSIONS} dimensions, got {n_dimensions}")
    if responses.n_models < 2:
        raise DataError(f"item fit: expected answers of at least 2 models, got {responses.n_models}; add models")
    known = responses.values[~np.isnan(responses.values)]
    if not known.size:
        raise DataError("item fit: expected answered items, got none; check which models were scored on which items")
    if known.min() == known.max():
        raise DataError(
            f"item fit: expected some right and some wrong answers, got {known[0]:g} everywhere; check the metric"
        )


def _collapse(values: FloatArray) -> tuple[FloatArray, FloatArray, np.ndarray]:
    """Distinct columns as rows (patterns, n_models), how often each occurs, and the pattern of each column."""
    patterns, pattern_of, counts = np.unique(
        np.nan_to_num(values.T, nan=-1.0), axis=0, return_inverse=True, return_counts=True
    )
    return np.where(patterns < 0, np.nan, patterns), counts.astype(np.float64), pattern_of.reshape(-1)


def _fit_patterns(patterns: FloatArray, counts: FloatArray, n_dimensions: int) -> Fit:
    abilities = _standardised(_logit(_accuracies(patterns.T, counts))[:, None])
    fit = _empirical_bayes(patterns, counts, abilities)
    if n_dimensions == 1:
        return fit
    further = _residual_components(patterns, counts, fit, n_dimensions - 1)
    return _empirical_bayes(patterns, counts, np.hstack([fit.abilities, further]))


def _empirical_bayes(patterns: FloatArray, counts: FloatArray, abilities: FloatArray) -> Fit:
    """Alternate the joint mode under a prior and the prior that fits the items' posteriors; end on a joint mode."""
    prior = _first_prior(patterns, counts, abilities.shape[1])
    items = np.tile(prior.mean, (len(patterns), 1))
    for _ in range(_PRIOR_UPDATES):
        fit = ascend(patterns, counts, items, abilities, prior, max_rounds=2)
        items, covariance, abilities = _whiten(fit.items, fit.covariance, fit.abilities)
        prior = _update_prior(counts, items, covariance)
    return ascend(patterns, counts, items, abilities, prior, max_rounds=_ASCENTS)


def ascend(
    patterns: FloatArray,
    counts: FloatArray,
    items: FloatArray,
    abilities: FloatArray,
    prior: ItemPrior,
    max_rounds: int,
) -> Fit:
    """Joint mode by turns: items given abilities, abilities given items; the log posterior never decreases."""
    value = -np.inf
    for _ in range(max_rounds):
        design = np.hstack([abilities, np.full((len(abilities), 1), -1.0)])
        items, covariance = irt.fit_logistic(
            design, 0.0, patterns, mean=prior.mean, precision=1.0 / prior.variance, start=items
        )
        abilities, _ = irt.fit_logistic(items[:, :-1], -items[:, -1], patterns.T, weights=counts, start=abilities)
        before, value = value, _log_posterior(patterns, counts, items, abilities, prior)
        if value - before < 1e-8 * abs(value):
            break
    return Fit(items, covariance, abilities, value)


def _log_posterior(
    patterns: FloatArray, counts: FloatArray, items: FloatArray, abilities: FloatArray, prior: ItemPrior
) -> float:
    parameters = ItemParameters(items[:, :-1], items[:, -1])
    likelihood = irt.log_likelihood(parameters, abilities, patterns.T, weights=counts).sum()
    of_items = counts @ (((items - prior.mean) ** 2) / prior.variance).sum(axis=1)
    return float(likelihood - 0.5 * of_items - 0.5 * (abilities**2).sum())


def _first_prior(patterns: FloatArray, counts: FloatArray, n_dimensions: int) -> ItemPrior:
    mean, variance = np.zeros(n_dimensions + 1), np.full(n_dimensions + 1, 0.5)
    mean[0] = 1.0
    mean[-1], variance[-1] = -_logit(_accuracies(patterns.T, counts)).mean(), 2.0
    return ItemPrior(mean, variance)


def _update_prior(counts: FloatArray, items: FloatArray, covariance: FloatArray) -> ItemPrior:
    """Means and variances of the items' posteriors: the M step of expectation maximisation (Laplace)."""
    mean = np.average(items, axis=0, weights=counts)
    spread = (items - mean) ** 2 + np.diagonal(covariance, axis1=1, axis2=2)
    return ItemPrior(mean, np.maximum(np.average(spread, axis=0, weights=counts), 1e-3))


def _whiten(
    items: FloatArray, covariance: FloatArray, abilities: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The same logits with uncorrelated abilities of mean 0 and variance 1, as their prior asks for.

    Left to the alternation, scale and angle would drift there over hundreds of rounds. Each dimension
    keeps what the ones before it do not explain (Gram-Schmidt), so dimension 1 stays what it was.
    """
    centre = abilities.mean(axis=0)
    whitened = abilities - centre
    basis = np.eye(abilities.shape[1])
    for k in range(abilities.shape[1]):
        for earlier in range(k):
            overlap = whitened[:, earlier] @ whitened[:, k] / len(whitened)
            whitened[:, k] -= overlap * whitened[:, earlier]
            basis[:, k] -= overlap * basis[:, earlier]
        spread = whitened[:, k].std()
        if spread > 1e-6:
            whitened[:, k] /= spread
            basis[:, k] /= spread
    change = np.eye(len(basis) + 1)
    change[:-1, :-1] = np.linalg.inv(basis)
    change[-1, :-1] = -centre
    return items @ change.T, change @ covariance @ change.T, whitened


def _residual_components(patterns: FloatArray, counts: FloatArray, fit: Fit, n_components: int) -> FloatArray:
    """Leading principal components (n_models, n_components) of what a fit leaves unexplained, of unit variance."""
    parameters = ItemParameters(fit.items[:, :-1], fit.items[:, -1])
    residuals = np.nan_to_num(patterns.T - irt.probabilities(parameters, fit.abilities), nan=0.0)
    vectors = np.linalg.eigh((residuals * counts) @ residuals.T)[1][:, ::-1]
    components = np.zeros((len(vectors), n_components))
    found = vectors[:, : min(n_components, len(vectors) - 1)]
    components[:, : found.shape[1]] = _standardised(found)
    return components


def _accuracies(values: FloatArray, counts: FloatArray) -> FloatArray:
    """Weighted mean of the known scores of each row, drawn a little towards 1/2 so that its logit is finite."""
    known = ~np.isnan(values)
    return ((np.nan_to_num(values) * counts).sum(axis=1) + 0.5) / ((known * counts).sum(axis=1) + 1.0)


def _logit(p: FloatArray) -> FloatArray:
    return np.log(p / (1.0 - p))


def _standardised(columns: FloatArray) -> FloatArray:
    centred = columns - columns.mean(axis=0)
    spread = centred.std(axis=0)
    return np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 1e-9)
