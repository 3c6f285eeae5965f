"""Which items an adaptive test asks, against brute force, and how its answers are combined."""

from __future__ import annotations

import numpy as np
import pytest

from merge3_plugin import irt
from merge3_plugin.domain import ItemParameters
from merge3_plugin.estimate.adaptive import (
    ABILITY,
    ACCURACY,
    CANDIDATES,
    LIMIT,
    MOST_ADAPTIVE,
    AdaptiveTest,
    Latent,
    Policy,
    combined,
    probability_order,
)

N = 120


@pytest.fixture
def items() -> ItemParameters:
    rng = np.random.default_rng(3)
    return ItemParameters(
        np.column_stack([rng.lognormal(0.3, 0.4, N), rng.normal(0.0, 0.8, N)]), rng.normal(0.0, 1.3, N)
    )


def make_test(latent: Latent, policy: Policy, seed: int = 0) -> AdaptiveTest:
    n = len(latent.offset)
    return AdaptiveTest(latent, np.full(n, 1 / n), policy, np.random.default_rng(seed))


def answer(test: AdaptiveTest, answers: np.ndarray, *sizes: int) -> None:
    for size in sizes:
        chosen = test.choose(size)
        test.tell(chosen, answers[chosen])


def draw(items: ItemParameters, ability: np.ndarray, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).random(N) < irt.probabilities(items, ability)).astype(float)


def test_every_head_of_the_order_draws_each_item_by_its_weight():
    rng = np.random.default_rng(0)
    weights = rng.uniform(0.5, 2.0, 60)
    weights /= weights.sum()
    expected = rng.random(60)
    draws = 6000
    counts = np.zeros(60)
    for _ in range(draws):
        order = probability_order(expected, weights, rng)
        assert sorted(order) == list(range(60))
        counts[order[:12]] += 1
    chance = 12 * weights
    # Five standard errors of a share over 6,000 draws.
    assert (np.abs(counts / draws - chance) < 5 * np.sqrt(chance * (1 - chance) / draws)).all()


def test_the_sample_is_spread_over_the_expected_scores():
    rng = np.random.default_rng(1)
    expected, weights = rng.random(400), np.full(400, 1 / 400)
    heads = [expected[probability_order(expected, weights, rng)[:16]] for _ in range(300)]
    assert all(len(np.unique(np.searchsorted(np.quantile(expected, np.arange(1, 16) / 16), h))) == 16 for h in heads)
    means = np.array([head.mean() for head in heads])
    assert abs(means.mean() - expected.mean()) < 5 * means.std() / np.sqrt(300)
    assert means.std() < 0.2 * expected.std() / np.sqrt(16)


def test_without_answers_the_posterior_is_the_prior(items):
    own = make_test(Latent.of_ability(items, precision=4.0), Policy(0.5))
    np.testing.assert_allclose(own.posterior.mean, 0.0, atol=1e-12)
    np.testing.assert_allclose(own.posterior.covariance, np.eye(2) / 4)
    merge = make_test(Latent.of_merge(items, np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 2.0]])), Policy(0.5))
    np.testing.assert_allclose(merge.posterior.mean, 1 / 3)
    assert own.terms().residual == 0 and own.terms().noise == np.inf


def test_information_is_what_the_posterior_expects_of_an_answer(items):
    latent = Latent.of_ability(items)
    posterior = latent.posterior(np.arange(20), draw(items, np.array([0.5, -0.5]), 0)[:20])
    expected, information = latent.expected(posterior)
    assert (information > 0).all() and (information <= 0.25).all()
    abilities = np.random.default_rng(0).multivariate_normal(posterior.mean, posterior.covariance, 20_000)
    chances = irt.probabilities(items, abilities)
    np.testing.assert_allclose(expected, chances.mean(axis=0), atol=0.01)
    np.testing.assert_allclose(information, (chances * (1 - chances)).mean(axis=0), atol=0.005)


def best_by_brute_force(test: AdaptiveTest, given: list[int]) -> list[int]:
    """The items whose information, beside that of ``given``, adds most to the aim, by matrices in full."""
    design = test.latent.design
    _, information = test.latent.expected(test.posterior)
    gradient = (test.weights * information) @ design
    precision = np.linalg.inv(test.posterior.covariance)
    for item in given:
        precision = precision + information[item] * np.outer(design[item], design[item])
    gains = {}
    for item in np.flatnonzero(np.isnan(test.scores)):
        more = precision + information[item] * np.outer(design[item], design[item])
        if test.policy.aim == ABILITY:
            gains[item] = np.linalg.slogdet(more)[1]
        else:
            gains[item] = -gradient @ np.linalg.solve(more, gradient)
    left = [item for item in gains if item not in given]
    return sorted(left, key=gains.__getitem__, reverse=True)


@pytest.mark.parametrize("aim", [ABILITY, ACCURACY])
@pytest.mark.parametrize("parents", [None, np.array([[1.5, 0.2], [-0.3, 1.0], [0.4, 0.4]])])
def test_a_batch_is_chosen_jointly_among_the_best(items, aim, parents):
    latent = Latent.of_ability(items) if parents is None else Latent.of_merge(items, parents)
    test = make_test(latent, Policy(1.0, aim))
    answer(test, draw(items, np.array([0.4, 0.3]), 1), 8)
    chosen = [int(item) for item in test.choose(10)]
    for place, item in enumerate(chosen):
        assert item in best_by_brute_force(test, chosen[:place])[:CANDIDATES]


def test_the_information_of_a_merges_lambdas_is_that_of_the_ability_between_the_parents(items):
    parents = np.array([[1.0, 0.3], [-0.5, 0.9], [0.2, -1.0]])
    latent, answers = Latent.of_merge(items, parents), draw(items, np.array([0.3, 0.1]), 2)
    posterior = latent.posterior(np.arange(N), answers)
    by_ability = irt.information(items, posterior.mean @ parents)
    np.testing.assert_allclose(
        np.linalg.inv(posterior.covariance), parents @ by_ability @ parents.T + 3 * np.eye(3), rtol=1e-6
    )


@pytest.mark.parametrize("aim", [ABILITY, ACCURACY])
def test_adaptive_items_find_the_ability_better_than_random_ones(items, aim):
    """Root mean squared error over 150 models of the coefficient that the aim is about, after 24 items."""
    rng = np.random.default_rng(5)
    adaptive, random = [], []
    for model, ability in enumerate(rng.normal(size=(150, 2))):
        answers = draw(items, ability, model)
        test = make_test(Latent.of_ability(items), Policy(1.0, aim), model)
        answer(test, answers, 8, 8, 8)
        drawn = rng.permutation(N)[:24]
        by_chance = irt.fit_ability(items.take(drawn), answers[drawn]).mean
        truth = irt.probabilities(items, ability).mean()
        if aim == ABILITY:
            adaptive.append(np.linalg.norm(test.posterior.mean - ability))
            random.append(np.linalg.norm(by_chance - ability))
        else:
            adaptive.append(irt.probabilities(items, test.posterior.mean).mean() - truth)
            random.append(irt.probabilities(items, by_chance).mean() - truth)
    assert np.sqrt(np.mean(np.square(adaptive))) < 0.92 * np.sqrt(np.mean(np.square(random)))


def test_exposure_control_asks_different_models_different_items(items):
    first = {int(make_test(Latent.of_ability(items), Policy(1.0), seed).choose(1)[0]) for seed in range(100)}
    assert len(first) == CANDIDATES
    batches = [set(make_test(Latent.of_ability(items), Policy(1.0), seed).choose(8)) for seed in range(100)]
    assert max(sum(item in batch for batch in batches) for item in range(N)) < 95


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_the_share_of_adaptive_items(items, share):
    answers = draw(items, np.zeros(2), 0)
    test = make_test(Latent.of_ability(items), Policy(share))
    first = test.choose(8)
    assert share == 1 or list(first) == list(test.sample)
    test.tell(first, answers[first])
    for n_asked in (16, 24, 32, 40):
        answer(test, answers, 8)
        assert len(test.asked) == n_asked
        # Adaptive items that the sample came to later belong to it as well.
        assert len(test.sample) >= (1 - share) * n_asked if share < 1 else not len(test.sample)
    assert not np.isnan(test.scores[test.sample]).any()


def test_no_more_adaptive_items_than_the_ability_needs(items):
    answers = draw(items, np.zeros(2), 0)
    test = make_test(Latent.of_ability(items), Policy(1.0))
    answer(test, answers, *[10] * (MOST_ADAPTIVE // 10))
    assert len(test.sample) == 0
    answer(test, answers, 10)
    assert len(test.sample) >= 10
    answer(test, answers, N)
    assert len(test.asked) == N and combined(test.terms(), 0.1) == pytest.approx(answers.mean())


def test_the_sample_ends_where_it_was_drawn_to(items):
    """Adaptive items right behind it are no part of it: they are there because of what was answered."""
    answers = draw(items, np.zeros(2), 0)
    for seed in range(30):
        test = make_test(Latent.of_ability(items), Policy(0.5), seed)
        sampled = test.choose(8)
        test.tell(sampled, answers[sampled])
        for _ in range(3):
            before = len(test.sample)
            chosen = test.choose(8)
            test.tell(chosen, answers[chosen])
            assert len(test.sample) == before or test.sample[-1] in chosen


def test_the_residual_counts_as_far_as_it_is_known():
    def accuracy(misfit: float, noise: float = 0.0025, residual: float = 0.08) -> float:
        return float(combined((0.5, 0.8, residual, noise), misfit))

    assert accuracy(0.0) == pytest.approx(0.5)
    assert accuracy(np.inf) == pytest.approx(0.5 + 0.8 * 0.08)
    assert accuracy(0.05) == pytest.approx(0.5 + 0.8 * 0.04)
    # A residual of eight standard errors is no noise, whatever other models are like.
    assert accuracy(0.0, residual=0.4) == pytest.approx(0.5 + 0.8 * (0.4 - LIMIT * 0.05))
    assert accuracy(0.0, np.inf, 0.0) == 0.5 and accuracy(0.1, np.inf, 0.0) == 0.5
    assert accuracy(np.inf, residual=-0.9) == 0.0
