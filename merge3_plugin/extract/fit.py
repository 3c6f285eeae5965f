"""Item parameters from a response matrix: 2PL in D dimensions, maximum a posteriori under empirical-Bayes priors.

With a handful of models each item rests on a handful of answers. Items are therefore integrated out while abilities and
priors are found (`merge3_plugin.extract.evidence`): joint maximisation makes one model an outlier and bends every item
to it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from merge3_plugin import irt
from merge3_plugin.domain import FloatArray, ItemParameters, ResponseMatrix
from merge3_plugin.errors import ConfigError, DataError
from merge3_plugin.extract.evidence import Answers, State, accuracy_logits, design, maximise_evidence
from merge3_plugin.extract.patterns import distinct_rows

MAX_DIMENSIONS = 5


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
        design(state.abilities),
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


def _collapse(values: FloatArray) -> tuple[Answers, NDArray[np.intp]]:
    """The distinct columns, and which of them each column is. Items of one pattern have one fit, so this is exact."""
    patterns, pattern_of, counts = distinct_rows(values.T)
    return Answers(patterns, counts.astype(np.float64)), pattern_of


def _fit(answers: Answers, n_dimensions: int) -> State:
    start = _standardised(accuracy_logits(answers)[:, None])
    if n_dimensions == 1:
        return maximise_evidence(answers, start)[0]
    state = maximise_evidence(answers, start, tolerance=1e-3)[0]
    components = _residual_components(answers, state, n_dimensions - 1)
    return maximise_evidence(answers, np.hstack([state.abilities, components]))[0]


def _residual_components(answers: Answers, state: State, n_components: int) -> FloatArray:
    """Leading principal components (n_models, n_components) of what a fit leaves, of variance 1; 0 beyond the rank."""
    expected = irt.sigmoid(state.items @ design(state.abilities).T)
    residuals = np.where(answers.known, answers.patterns - expected, 0.0)
    vectors = np.linalg.eigh((residuals.T * answers.counts) @ residuals)[1][:, ::-1]
    rank = min(n_components, len(vectors) - 1)
    components = np.zeros((len(vectors), n_components))
    components[:, :rank] = _standardised(vectors[:, :rank])
    return components


def _standardised(columns: FloatArray) -> FloatArray:
    centred = columns - columns.mean(axis=0)
    spread = centred.std(axis=0)
    return np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 1e-9)
