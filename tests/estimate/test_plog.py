import numpy as np
import pytest

from merge3_plugin.domain import ItemParameters, ResponseMatrix
from merge3_plugin.estimate.builtin import MP_IRT, P_IRT
from merge3_plugin.estimate.plog import Plog, fit_parents, parent_logistic, parent_model
from merge3_plugin.irt import sigmoid
from merge3_plugin.testing import simulate_merges, simulate_responses
from tests.estimate.worlds import evidence_of, quick_calibration, soft_family


def errors(worlds, n_parents, n, *estimates, n_models):
    """Mean absolute error of each of ``estimates`` (of evidence) on the models after the first ``n_models``."""
    found = []
    for seed, world in enumerate(worlds):
        family = world.models(world.model_ids[:n_parents])
        calibration = quick_calibration(
            world.models(world.model_ids[:n_models]), n, seed=seed, method="random", dimensions=(2,)
        )
        for answers, truth in zip(world.values[n_models:], world.accuracy()[n_models:], strict=True):
            evidence = evidence_of(calibration, answers, parents=family)
            found.append([abs(estimate(evidence) - truth) for estimate in estimates])
    return np.mean(found, axis=0)


def by(estimator):
    return lambda evidence: evidence.completed(estimator.probabilities(evidence))


def weighted_mean(evidence):
    return float(evidence.weights @ evidence.scores)


def test_planted_coefficients_are_recovered():
    """Ability, level and the parents' multiples, from a model that is just such a regression, at every scale."""
    rng = np.random.default_rng(0)
    n_items = 20_000
    items = ItemParameters(rng.lognormal(0.0, 0.4, (n_items, 1)), rng.normal(0.0, 1.0, n_items))
    right = rng.random((2, n_items)) < sigmoid([[1.0], [-0.5]] * items.discrimination.T - items.difficulty)
    parents = ResponseMatrix(right, ["a", "b"], range(n_items))
    model = parent_model(items, parents, 1.0)
    planted = np.array([0.3, 0.1, 1.6, 0.4])
    answers = (rng.random(n_items) < sigmoid(model.design @ planted - items.difficulty)).astype(float)
    fit = fit_parents(model, items.difficulty, np.arange(n_items), answers)
    assert fit.coefficients == pytest.approx(np.tile(planted, (3, 1)), abs=0.15)
    assert fit.chances.sum() == pytest.approx(1.0)


def test_a_merge_far_from_its_parents_widens_the_prior():
    rng = np.random.default_rng(1)
    items = ItemParameters(rng.lognormal(0.0, 0.3, (500, 1)), rng.normal(0.0, 1.0, 500))
    right = rng.random((2, 500)) < sigmoid(np.array([[0.2], [0.0]]) * items.discrimination.T - items.difficulty)
    model = parent_model(items, ResponseMatrix(right, ["a", "b"], range(500)), 1.0)
    for ability, likeliest in ((0.1, 0), (2.5, 2)):
        answers = (rng.random(500) < sigmoid(items.discrimination[:, 0] * ability - items.difficulty)).astype(float)
        assert np.argmax(fit_parents(model, items.difficulty, np.arange(100), answers[:100]).chances) == likeliest


@pytest.fixture(scope="module")
def merges():
    """Three parents, eight unrelated models, and merges of the parents."""
    return [soft_family(800, rng=np.random.default_rng(seed), n_unrelated=8) for seed in range(6)]


@pytest.mark.parametrize(("n", "floor"), [(20, 0.5), (50, 0.65), (100, 0.75)])
def test_merges_are_estimated_better_than_by_their_answers_or_abilities(merges, n, floor):
    plog, mp_irt, p_irt, mean = errors(merges, 3, n, parent_logistic, by(MP_IRT), by(P_IRT), weighted_mean, n_models=11)
    assert plog < floor * mean and plog < min(mp_irt, p_irt)


def test_useless_parents_do_little_harm():
    """Parents whom the candidates do not come from: no worse than the mean by more than a tenth."""
    worlds = [simulate_responses(34, 300, rng=np.random.default_rng(seed), misfit=0.5) for seed in range(6)]
    for n in (20, 50, 100):
        plog, mean = errors(worlds, 2, n, parent_logistic, weighted_mean, n_models=14)
        assert plog < 1.1 * mean


def test_many_parents():
    worlds = [simulate_merges(6, 8, 300, rng=np.random.default_rng(seed)) for seed in range(4)]
    plog, mean = errors(worlds, 6, 40, parent_logistic, weighted_mean, n_models=6)
    assert plog < 0.9 * mean


def test_two_identical_parents(family, family_calibration):
    twins = ResponseMatrix(family.values[[0, 0]], ["a", "b"], family.item_ids)
    single = ResponseMatrix(family.values[[0]], ["a"], family.item_ids)
    answers = family.values[9]
    found = [parent_logistic(evidence_of(family_calibration, answers, parents=who)) for who in (twins, single)]
    assert found[0] == pytest.approx(found[1], abs=0.03)


def test_the_order_of_the_parents_does_not_matter(family, family_calibration):
    answers = family.values[10]
    found = [
        Plog().estimate(evidence_of(family_calibration, answers, parents=family.models(ids))).accuracy
        for ids in (["p0", "p1", "p2"], ["p2", "p0", "p1"])
    ]
    assert found[0] == pytest.approx(found[1], abs=1e-6)
