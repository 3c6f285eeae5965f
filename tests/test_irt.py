"""The 2PL model: values against its definition, fits against their optimality conditions."""

from __future__ import annotations

import numpy as np
import pytest

from merge3_plugin import irt
from merge3_plugin.domain import ItemParameters
from merge3_plugin.errors import DataError


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def make_items(rng: np.random.Generator, n: int = 200, dimensions: int = 2) -> ItemParameters:
    return ItemParameters(rng.normal(0.8, 0.6, (n, dimensions)), rng.normal(0.0, 1.2, n))


def draw(rng: np.random.Generator, items: ItemParameters, abilities: np.ndarray) -> np.ndarray:
    chances = irt.probabilities(items, abilities)
    return (rng.random(chances.shape) < chances).astype(float)


def test_probabilities_follow_the_convention():
    items = ItemParameters([[2.0, -1.0]], [0.5])
    logit = 2.0 * 0.3 - 1.0 * 0.4 - 0.5
    assert irt.probabilities(items, [[0.3, 0.4]])[0, 0] == pytest.approx(1 / (1 + np.exp(-logit)))


def test_extreme_logits_stay_finite():
    items = ItemParameters([[1000.0], [-1000.0]], [0.0, 0.0])
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        assert irt.probabilities(items, [5.0]).tolist() == [1.0, 0.0]
        assert irt.log_likelihood(items, [5.0], [0.0, 0.0]) == pytest.approx(-5000.0)


def test_gradient_and_information_are_the_derivatives(rng):
    items, ability = make_items(rng, 50), np.array([0.4, -0.7])
    scores = rng.random(50)
    scores[:5] = np.nan
    step = 1e-6 * np.eye(2)
    numeric = [
        (irt.log_likelihood(items, ability + e, scores) - irt.log_likelihood(items, ability - e, scores)) / 2e-6
        for e in step
    ]
    assert irt.gradient(items, ability, scores) == pytest.approx(numeric, rel=1e-6)
    full = rng.random(50)
    curvature = [(irt.gradient(items, ability - e, full) - irt.gradient(items, ability + e, full)) / 2e-6 for e in step]
    assert irt.information(items, ability) == pytest.approx(np.array(curvature), rel=1e-6)


def test_information_of_one_item_peaks_at_its_difficulty():
    items = ItemParameters([[1.7]], [1.7 * 0.6])
    grid = np.linspace(-3, 3, 601)[:, None]
    information = irt.information(items, grid)[:, 0, 0]
    assert (information >= 0).all()
    assert grid[information.argmax(), 0] == pytest.approx(0.6)


def test_ability_is_recovered_within_its_standard_error(rng):
    items, truth = make_items(rng, 600), rng.normal(size=(300, 2))
    fit = irt.fit_ability(items, draw(rng, items, truth))
    z = (fit.mean - truth) / np.sqrt(np.diagonal(fit.covariance, axis1=1, axis2=2))
    assert 0.9 < np.sqrt((z**2).mean()) < 1.1


def test_ability_mode_is_stationary(rng):
    items = make_items(rng)
    scores = rng.random((4, 200))
    scores[:, ::3] = np.nan
    mean, precision = np.array([0.5, -1.0]), np.array([[2.0, 0.3], [0.3, 1.0]])
    fit = irt.fit_ability(items, scores, mean=mean, precision=precision)
    slope = irt.gradient(items, fit.mean, scores) - (fit.mean - mean) @ precision
    assert np.abs(slope).max() < 1e-8
    partial = items.take(np.flatnonzero(~np.isnan(scores[0])))
    curvature = irt.information(partial, fit.mean[0]) + precision
    assert np.linalg.inv(fit.covariance[0]) == pytest.approx(curvature)


@pytest.mark.parametrize("answer", [0.0, 1.0])
def test_uniform_answers_give_a_finite_ability(rng, answer):
    items = ItemParameters(rng.lognormal(0.5, 0.5, (50, 1)), rng.normal(size=50))
    ability = irt.fit_ability(items, np.full(50, answer)).mean[0]
    assert 1.0 < (ability if answer else -ability) < 10.0


def test_no_answers_give_the_prior(rng):
    items = make_items(rng)
    fit = irt.fit_ability(items, np.full(200, np.nan), mean=[1.0, 2.0], precision=4.0)
    assert fit.mean.tolist() == [1.0, 2.0]
    assert fit.covariance == pytest.approx(np.eye(2) / 4.0)


def test_unasked_items_do_not_count(rng):
    items, scores = make_items(rng), rng.integers(0, 2, 200).astype(float)
    asked = np.arange(0, 200, 4)
    sparse = np.full(200, np.nan)
    sparse[asked] = scores[asked]
    assert irt.fit_ability(items, sparse).mean == pytest.approx(irt.fit_ability(items.take(asked), scores[asked]).mean)


def test_ability_does_not_depend_on_item_order_or_company(rng):
    items, scores = make_items(rng), rng.integers(0, 2, (6, 200)).astype(float)
    order = rng.permutation(200)
    together = irt.fit_ability(items, scores).mean
    assert irt.fit_ability(items.take(order), scores[:, order]).mean == pytest.approx(together)
    assert irt.fit_ability(items, scores[2]).mean == pytest.approx(together[2])


def test_lambda_is_recovered_on_simulated_merges(rng):
    items = ItemParameters(rng.normal(0.9, 0.5, (3000, 3)), rng.normal(size=3000))
    parents, truth = rng.normal(size=(3, 3)) * 1.5, np.array([0.6, 0.1, 0.3])
    fit = irt.fit_lambda(items, draw(rng, items, np.tile(truth @ parents, (40, 1))), parents)
    assert fit.mean.mean(axis=0) == pytest.approx(truth, abs=0.03)


@pytest.mark.parametrize("answer", [0.0, 1.0])
def test_uniform_answers_give_lambdas_inside_the_bounds(rng, answer):
    items = make_items(rng, 30)
    fit = irt.fit_lambda(items, np.full(30, answer), rng.normal(size=(4, 2)))
    assert ((fit.mean >= 0) & (fit.mean <= 1)).all()


def test_bounded_lambda_is_the_constrained_optimum(rng):
    from scipy.optimize import minimize

    items, parents = make_items(rng, 40), rng.normal(size=(3, 2))
    answers = draw(rng, items, rng.normal(size=(25, 2)) * 2)
    found = irt.fit_lambda(items, answers, parents).mean
    assert (found == 0).any() and (found == 1).any()
    for scores, lambdas in zip(answers, found, strict=True):

        def loss(x, scores=scores):
            return 0.5 * ((x - 1 / 3) ** 2).sum() - irt.log_likelihood(items, x @ parents, scores)

        reference = minimize(loss, np.full(3, 1 / 3), bounds=[(0, 1)] * 3, tol=1e-12)
        assert loss(lambdas) <= reference.fun + 1e-9


def test_equal_parents_share_lambda_equally(rng):
    items, parent = make_items(rng), np.array([1.0, 0.5])
    fit = irt.fit_lambda(items, draw(rng, items, parent), np.stack([parent, parent]))
    assert fit.mean[0] == pytest.approx(fit.mean[1])


def test_weights_count_repeated_answers(rng):
    items, scores = make_items(rng, 30), rng.random(30)
    counts = rng.integers(1, 4, 30)
    repeated = irt.fit_ability(items.take(np.repeat(np.arange(30), counts)), np.repeat(scores, counts))
    weighted = irt.fit_logistic(items.discrimination, -items.difficulty, scores, weights=counts)
    assert weighted.mean == pytest.approx(repeated.mean)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda items: irt.fit_ability(items, np.ones(3)), "expected one for each of 200 items"),
        (lambda items: irt.fit_ability(items, np.full(200, 1.5)), r"in \[0, 1\]"),
        (lambda items: irt.fit_ability(items, np.ones(200), precision=0.0), "prior precision"),
        (lambda items: irt.fit_lambda(items, np.ones(200), np.ones((2, 3))), "parents' abilities"),
    ],
)
def test_misuse_is_one_line(rng, call, message):
    with pytest.raises(DataError, match=message) as caught:
        call(make_items(rng))
    assert "\n" not in str(caught.value)


def test_without_items_the_ability_is_the_priors():
    none = ItemParameters(np.zeros((0, 2)), np.zeros(0))
    posterior = irt.fit_ability(none, np.zeros(0), mean=[0.3, -0.2], precision=4.0)
    np.testing.assert_allclose(posterior.mean, [0.3, -0.2])
    np.testing.assert_allclose(posterior.covariance, np.eye(2) / 4)
    assert irt.fit_ability(none, np.zeros((5, 0))).mean.shape == (5, 2)
