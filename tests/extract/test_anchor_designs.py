"""The parts of probability designs: draws with given probabilities, allocations, and what each design is for."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from merge3_plugin import irt
from merge3_plugin.domain import FloatArray, ItemParameters, ResponseMatrix
from merge3_plugin.extract.anchor_designs import (
    Pool,
    allocate,
    draw,
    kd,
    mixed,
    neyman,
    proportional,
    random,
    stratified,
)
from merge3_plugin.extract.fit import fit_items
from merge3_plugin.testing import simulate_responses


def pool_of(responses: ResponseMatrix, parents: ResponseMatrix | None = None) -> Pool:
    return Pool(responses, fit_items(responses, 2)[0], parents, None)


@pytest.fixture(scope="module")
def world() -> Pool:
    return pool_of(simulate_responses(20, 400, rng=np.random.default_rng(5)))


@pytest.mark.parametrize(
    "inclusion",
    [
        np.full(9, 1 / 3),
        np.full(10, 0.3),
        np.array([0.9, 0.2, 0.9, 0.5, 0.5]),
        np.array([1.0, 0.7, 0.7, 0.7, 0.9]),
        np.array([0.6, 1.0, 0.7, 1.0, 0.7, 1.0]),
        np.array([0.05, 0.05, 0.95, 0.95, 0.7, 0.3]),
    ],
)
def test_items_are_drawn_with_their_probabilities(inclusion):
    rng, draws = np.random.default_rng(0), 6000
    order = rng.permutation(len(inclusion))
    drawn = np.array([draw(order, inclusion, rng) for _ in range(draws)])
    assert drawn.shape[1] == round(inclusion.sum())
    assert (np.diff(np.sort(drawn, axis=1), axis=1) > 0).all()
    share = np.bincount(drawn.ravel(), minlength=len(inclusion)) / draws
    assert (np.abs(share - inclusion) <= 4 * np.sqrt(inclusion * (1 - inclusion) / draws)).all()


def test_each_stretch_of_the_order_gives_one():
    rng = np.random.default_rng(0)
    for n_items, n in ((60, 6), (100, 30), (7, 6)):
        order = rng.permutation(n_items)
        for _ in range(20):
            places = np.argsort(order)[draw(order, np.full(n_items, n / n_items), rng)]
            width = n_items / n
            for unit, place in enumerate(places):
                assert unit * width - 1 < place < (unit + 1) * width


def test_a_random_order_gives_a_simple_random_sample(world):
    """Every pair of items is drawn as often as any other."""
    small = Pool(world.responses.items(world.responses.item_ids[:8]), world.items.take(range(8)), None, None)
    rng, draws = np.random.default_rng(1), 8000
    pairs = np.zeros((8, 8))
    for _ in range(draws):
        drawn = random(small, 3, rng).positions
        pairs[np.ix_(drawn, drawn)] += 1
    expected = 3 * 2 / (8 * 7)
    off_diagonal = pairs[np.triu_indices(8, 1)] / draws
    assert np.abs(off_diagonal - expected).max() < 4.5 * np.sqrt(expected * (1 - expected) / draws)


def test_probabilities_are_proportional_to_weights_up_to_certainty():
    assert proportional(np.ones(8), 2) == pytest.approx(np.full(8, 0.25))
    assert proportional(np.array([1.0, 1.0, 2.0, 4.0]), 2) == pytest.approx([0.25, 0.25, 0.5, 1.0])
    assert proportional(np.array([1.0, 1.0, 10.0, 30.0]), 3) == pytest.approx([0.5, 0.5, 1.0, 1.0])
    assert proportional(np.array([0.3, 5.0, 1.0]), 3).tolist() == [1.0, 1.0, 1.0]
    weights = np.random.default_rng(0).lognormal(0, 2, 300)
    for n in (1, 50, 299):
        inclusion = proportional(weights, n)
        assert inclusion.sum() == pytest.approx(n) and (inclusion <= 1).all()
        ratio = (inclusion / weights)[inclusion < 1]
        assert ratio.max() == pytest.approx(ratio.min())


@pytest.mark.parametrize("n", [3, 7, 12])
def test_allocations_are_the_best_whole_numbers(n):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        shares, sizes = rng.random(3), rng.integers(4, 9, 3)
        found = allocate(shares, sizes, n)
        assert found.sum() == n and (found >= 1).all() and (found <= sizes).all()
        every = [g for g in product(*(range(1, size + 1) for size in sizes)) if sum(g) == n]
        assert (shares**2 / found).sum() == pytest.approx(min((shares**2 / np.array(g)).sum() for g in every))


def heirs(answers: np.ndarray, rng: np.random.Generator, n: int) -> np.ndarray:
    """Merges that take each answer from one of the parents ``answers`` (2, n_items), and now and then learn another."""
    from_which = rng.integers(0, len(answers), (n, answers.shape[1]))
    taken = np.take_along_axis(answers, from_which, axis=0)
    return np.where(rng.random(taken.shape) < 0.05, 1 - taken, taken)


def test_neyman_looks_where_the_parents_differ(world):
    parents = world.responses.models(world.responses.model_ids[3:5])
    pool = world._replace(parents=parents)
    both, none = (parents.values.sum(axis=0) == count for count in (2, 0))
    rng = np.random.default_rng(2)
    share = 1 - (both | none).mean()
    counts = [int((~(both | none))[neyman(pool, 40, rng).positions].sum()) for _ in range(10)]
    assert len(set(counts)) == 1 and counts[0] > 1.1 * 40 * share
    truth = heirs(parents.values, rng, 60)

    def error(design) -> float:
        chosen = [design(pool, 40, rng) for _ in range(40)]
        return float(np.mean([(truth[:, c.positions] @ c.weights - truth.mean(axis=1)) ** 2 for c in chosen]))

    assert error(neyman) < 0.7 * min(error(stratified), error(kd))


@pytest.mark.parametrize("n_parents", [1, 2, 4])
def test_neyman_takes_some_of_each_cell(world, n_parents):
    pool = world._replace(parents=world.responses.models(world.responses.model_ids[:n_parents]))
    right = pool.parents.values.sum(axis=0)
    for seed in range(5):
        drawn = neyman(pool, 12, np.random.default_rng(seed)).positions
        assert set(right[drawn]) == set(right)


def test_neyman_orders_a_cell_by_difficulty(world):
    pool = world._replace(parents=world.responses.models(world.responses.model_ids[:1]))
    means = world.responses.values.mean(axis=0)
    chosen = neyman(pool, 40, np.random.default_rng(0)).positions
    for cell in (np.flatnonzero(pool.parents.values[0] == answer) for answer in (0, 1)):
        ranks = np.searchsorted(np.sort(means[cell]), means[[j for j in chosen if j in set(cell)]], side="right")
        assert np.abs(np.sort(ranks) / len(cell) - np.linspace(0, 1, len(ranks))).max() < 0.25


def test_neyman_of_parents_who_were_not_asked_all(world):
    values = world.responses.values[:2].copy()
    values[0, :100], values[:, 100:130] = np.nan, np.nan
    parents = ResponseMatrix(values, ["p", "q"], world.responses.item_ids)
    chosen = neyman(world._replace(parents=parents), 30, np.random.default_rng(0))
    assert len(chosen.positions) == 30 and chosen.weights.sum() == pytest.approx(1)
    # What one parent knows stands for both: the answer of the other is then taken for the same.
    right = np.where(np.isnan(values[0]), 2 * values[1], values.sum(axis=0))[chosen.positions]
    for count in (0, 1, 2):
        assert len(set(chosen.inclusion[right == count])) == 1, count


@pytest.fixture(scope="module")
def many_models() -> Pool:
    return pool_of(simulate_responses(120, 250, rng=np.random.default_rng(6)))


def test_mixed_takes_the_most_informative_items_for_certain(many_models):
    first, second = (mixed(many_models, 40, np.random.default_rng(seed)) for seed in (0, 1))
    certain = set(first.positions[first.inclusion == 1])
    assert len(certain) == 10 and certain == set(second.positions[second.inclusion == 1])
    assert set(first.positions) != set(second.positions)
    items = many_models.items
    abilities = irt.fit_ability(items, many_models.responses.values).mean
    chances = irt.probabilities(items, abilities)
    gradient = (chances * (1 - chances)) @ items.discrimination / 250

    def unknown(positions) -> float:
        """Posterior variance of the expected accuracy, averaged over the models."""
        covariance = np.linalg.inv(np.eye(2) + irt.information(items.take(positions), abilities))
        return float(np.einsum("mp,mpq,mq->m", gradient, covariance, gradient).mean())

    rng = np.random.default_rng(3)
    assert unknown(sorted(certain)) < 0.85 * min(unknown(rng.choice(250, 10, replace=False)) for _ in range(200))
    # One exchange can hardly better what was chosen one by one.
    swaps = [unknown([*(certain - {out}), into]) for out in certain for into in range(0, 250, 3) if into not in certain]
    assert unknown(sorted(certain)) < 1.02 * min(swaps)


@pytest.mark.parametrize("n", [20, 50])
def test_fitted_abilities_gain_from_mixed_anchors(n):
    """On models that took no part: p-IRT's mean squared error, and the weighted mean's, which does not gain."""
    world, rng = simulate_responses(60 + 90, 250, rng=np.random.default_rng(6)), np.random.default_rng(4)
    pool, truth = pool_of(world.models(world.model_ids[:60])), world.values[60:]

    def errors(design) -> FloatArray:
        found = []
        for _ in range(8):
            chosen = design(pool, n, rng)
            scores = np.full(truth.shape, np.nan)
            scores[:, chosen.positions] = truth[:, chosen.positions]
            expected = irt.probabilities(pool.items, irt.fit_ability(pool.items, scores).mean)
            completed = np.where(np.isnan(scores), expected, scores).mean(axis=1)
            weighted = truth[:, chosen.positions] @ chosen.weights
            found.append([np.mean((e - truth.mean(axis=1)) ** 2) for e in (completed, weighted)])
        return np.mean(found, axis=0)

    assert errors(mixed)[0] < 0.95 * errors(stratified)[0] < 0.95 * errors(mixed)[1]


def test_items_that_count_more_are_more_informative():
    """Of two sub-tasks with an ability each, the one that makes up nearly all of the accuracy gives the anchors."""
    discrimination = np.repeat(np.eye(2), 50, axis=0)
    items = ItemParameters(1.5 * discrimination, np.zeros(100))
    values = simulate_responses(6, 100, rng=np.random.default_rng(0)).values
    for heavy in (0, 1):
        responses = ResponseMatrix(values, range(6), range(100), balance=1 + 49 * discrimination[:, heavy])
        chosen = mixed(Pool(responses, items, None, None), 24, np.random.default_rng(0))
        certain = chosen.positions[chosen.inclusion == 1][:6]  # those that come first were taken as informative
        assert set(certain // 50) == {heavy}


def test_items_of_one_ability_are_informative_where_it_lies():
    items = ItemParameters(np.ones((50, 1)), np.linspace(-4, 4, 50))
    responses = simulate_responses(6, 50, rng=np.random.default_rng(0))
    chosen = mixed(Pool(responses, items, None, None), 8, np.random.default_rng(0))
    abilities = irt.fit_ability(items, responses.values).mean
    certain = chosen.positions[chosen.inclusion == 1]
    assert np.abs(items.difficulty[certain] - abilities.mean()).max() < 0.5
