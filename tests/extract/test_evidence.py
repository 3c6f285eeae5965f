"""The evidence bound: it never falls, and its maximisation is exact in what it claims to be."""

from __future__ import annotations

import numpy as np
import pytest

from merge3_plugin.extract.evidence import Answers, _first, _round, maximise_evidence
from merge3_plugin.testing import simulate_responses


def answers_of(n_models: int, n_items: int, kind: str = "binary", seed: int = 4) -> Answers:
    rng = np.random.default_rng(seed)
    values = simulate_responses(n_models, n_items, rng=rng).values.T
    if kind == "graded":
        values = rng.random(values.shape)
    if kind == "missing":
        values = np.where(rng.random(values.shape) < 0.4, np.nan, values)
    return Answers(values, np.ones(n_items))


@pytest.mark.parametrize("kind", ["binary", "graded", "missing"])
@pytest.mark.parametrize("dimensions", [1, 2, 4])
def test_it_never_falls(kind, dimensions):
    answers = answers_of(9, 120, kind)
    _, bounds = maximise_evidence(answers, np.random.default_rng(1).normal(size=(9, dimensions)))
    assert len(bounds) > 5
    assert (np.diff(bounds) >= 0).all()
    state, plain = _first(answers, np.random.default_rng(1).normal(size=(9, dimensions))), []
    for _ in range(30):
        state, bound = _round(answers, state)
        plain.append(bound)
    assert (np.diff(plain) >= -1e-9 * np.abs(plain[:-1])).all()


@pytest.mark.parametrize(("n_models", "n_items"), [(5, 100), (12, 300), (40, 200)])
@pytest.mark.parametrize("dimensions", [1, 2])
def test_acceleration_gets_further_than_three_times_the_rounds(n_models, n_items, dimensions):
    answers = answers_of(n_models, n_items)
    start = np.random.default_rng(2).normal(size=(n_models, dimensions))
    _, bounds = maximise_evidence(answers, start)
    state = _first(answers, start)
    for _ in range(3 * len(bounds)):
        state, bound = _round(answers, state)
    assert bounds[-1] > bound - 1e-6 * abs(bound)


@pytest.mark.parametrize("dimensions", [1, 3])
def test_it_is_a_bound_of_the_likelihood_under_the_posterior(dimensions):
    """By sampling: E[log likelihood] under the posteriors less their divergences from the priors, less the slack."""
    answers = answers_of(8, 60)
    state, bounds = maximise_evidence(answers, np.random.default_rng(0).normal(size=(8, dimensions)))
    rng = np.random.default_rng(1)
    draws = []
    for _ in range(300):
        theta = [rng.multivariate_normal(m, c) for m, c in zip(state.abilities, state.ability_covariance, strict=True)]
        items = [rng.multivariate_normal(m, c) for m, c in zip(state.items, state.item_covariance, strict=True)]
        logits = np.array(items)[:, :-1] @ np.array(theta).T - np.array(items)[:, -1:]
        draws.append((answers.patterns * logits - np.logaddexp(0, logits)).sum())
    normal = [
        divergence(m, c, state.prior_mean, state.prior_covariance)
        for m, c in zip(state.items, state.item_covariance, strict=True)
    ] + [
        divergence(m, c, np.zeros(dimensions), np.eye(dimensions))
        for m, c in zip(state.abilities, state.ability_covariance, strict=True)
    ]
    evidence = np.mean(draws) - np.sum(normal)
    assert bounds[-1] < evidence + 3 * np.std(draws) / np.sqrt(300)
    assert bounds[-1] == pytest.approx(evidence, rel=0.05)


def divergence(mean: np.ndarray, covariance: np.ndarray, prior_mean: np.ndarray, prior: np.ndarray) -> float:
    inverse, gap = np.linalg.inv(prior), mean - prior_mean
    volumes = np.log(np.linalg.det(prior) / np.linalg.det(covariance))
    return 0.5 * float(np.trace(inverse @ covariance) + gap @ inverse @ gap - len(mean) + volumes)


def test_equal_items_count_by_their_number():
    patterns, pattern_of = np.unique(answers_of(6, 200).patterns, axis=0, return_inverse=True)
    start = np.linspace(-1, 1, 6)[:, None]
    collapsed, bounds = maximise_evidence(Answers(patterns, np.bincount(pattern_of).astype(float)), start)
    expanded, one_by_one = maximise_evidence(Answers(patterns[pattern_of], np.ones(200)), start)
    assert len(patterns) < 64 and bounds[-1] == pytest.approx(one_by_one[-1], rel=1e-9)
    assert collapsed.abilities == pytest.approx(expanded.abilities, abs=1e-5)
    assert collapsed.items[pattern_of] == pytest.approx(expanded.items, abs=1e-4)


def test_thousands_of_models_do_not_overflow():
    answers = answers_of(2500, 12)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        state, bounds = maximise_evidence(answers, np.random.default_rng(0).normal(size=(2500, 1)))
    assert np.isfinite(bounds).all() and np.isfinite(state.items).all()
