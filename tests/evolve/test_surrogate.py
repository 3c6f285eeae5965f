"""The model of a search's results, where the truth is known."""

import math
from dataclasses import replace

import numpy as np
import pytest

from merge3_plugin.evolve.evaluate import Candidate
from merge3_plugin.evolve.fidelity.ladder import Place
from merge3_plugin.evolve.objectives import Assessment
from merge3_plugin.evolve.search import Scored
from merge3_plugin.evolve.spaces.variables import Kind, Variable, When
from merge3_plugin.evolve.surrogate import FEWEST, Surrogate, surrogate

GENES, BATCHES, SIZE = 6, 12, 16
BEST = np.full(GENES, 0.4)


def truth(vectors):
    return 0.7 - 0.3 * ((np.atleast_2d(vectors) - BEST) ** 2).sum(axis=1)


def searched(seed):
    """Vectors ever nearer to the best one, values and anchors: each batch has a slope and a shift of its own."""
    rng = np.random.default_rng(seed)
    vectors, values = [], []
    for batch in range(BATCHES):
        spread = 0.35 * (1 - batch / BATCHES) + 0.05
        drawn = np.clip(BEST + rng.normal(0, spread, (SIZE, GENES)), 0, 1)
        peculiar = 0.02 * rng.normal() + (drawn - BEST) @ rng.normal(0, 0.1, GENES)
        vectors.append(drawn)
        values.append(truth(drawn) + peculiar + rng.normal(0, 0.01, SIZE))
    return np.concatenate(vectors), np.concatenate(values), np.kron(np.eye(BATCHES), np.ones((SIZE, 1)))


def scored(vectors, values, anchors):
    return [
        Scored(Candidate(str(i)), vector, assessment(value), Place(tuple(np.flatnonzero(row).tolist())))
        for i, (vector, value, row) in enumerate(zip(vectors, values, anchors, strict=True))
    ]


def assessment(fitness, violation=0.0):
    return Assessment({}, {}, float(fitness), 0.05, 0.0, violation=violation)


VARIABLES = [Variable(f"g{i}", 0.0, 1.0, 0.5) for i in range(GENES)]


def test_the_peak_is_better_than_the_best_observed_and_than_nearly_all():
    for seed in range(5):
        vectors, values, anchors = searched(seed)
        true, peak = truth(vectors), truth(Surrogate(vectors, values, anchors).peak)[0]
        assert peak > true[values.argmax()]
        assert peak > np.quantile(true, 0.9)


def test_the_peak_is_among_the_results_and_the_same_again_bit_for_bit():
    vectors, values, anchors = searched(0)
    # A slope without end: the best of what is modelled is out of all that was tried.
    values = vectors.sum(axis=1)
    found = Surrogate(vectors, values, anchors).peak
    assert (found >= vectors.min(axis=0)).all() and (found <= vectors.max(axis=0)).all()
    assert found.tobytes() == Surrogate(vectors, values, anchors).peak.tobytes()


def test_what_is_peculiar_to_anchors_is_told_apart_by_other_anchors_only():
    vectors, values, anchors = searched(1)
    apart, together = Surrogate(vectors, values, anchors), Surrogate(vectors, values, np.ones((len(values), 1)))
    errors = [np.abs(model.posterior(vectors).mean - truth(vectors)).mean() for model in (apart, together)]
    assert errors[0] < errors[1]


def test_differences_lie_as_far_from_the_truth_as_it_says():
    z = []
    for seed in range(30):
        vectors, values, anchors = searched(seed)
        model = Surrogate(vectors, values, anchors)
        places = np.clip(BEST + np.random.default_rng([1, seed]).normal(0, 0.15, (2, GENES)), 0, 1)
        mean, covariance = model.posterior(places)
        error = math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
        z.append((mean[0] - mean[1] - np.subtract(*truth(places))) / error)
    assert 0.6 < math.sqrt(np.mean(np.square(z))) < 1.5


def test_elsewhere_differences_are_smaller_and_less_sure_and_nothing_is_better_than_the_peak():
    vectors, values, anchors = searched(5)
    values[7] += 0.3  # luck
    model = Surrogate(vectors, values, anchors)
    places = np.array([model.peak, vectors[7], np.full(GENES, 0.1), np.full(GENES, 0.2)])
    here, elsewhere = model.posterior(places), model.elsewhere(places)
    assert elsewhere.mean[0] == elsewhere.mean.max()
    assert 0 < elsewhere.mean[3] - elsewhere.mean[2] < here.mean[3] - here.mean[2]
    apart = np.array([0, 0, 1.0, -1.0])
    signals = [(apart @ found.mean) ** 2 / (apart @ found.covariance @ apart) for found in (here, elsewhere)]
    assert signals[1] < signals[0]


def test_the_likelihoods_gradient_is_that_of_its_values():
    model, step = Surrogate(*searched(2)), 1e-5 * np.eye(4)
    for shape in (np.zeros(4), np.array([0.7, -1.0, 1.0, -2.0])):
        found = model._unlikelihood(shape)[1]
        numeric = [(model._unlikelihood(shape + e)[0] - model._unlikelihood(shape - e)[0]) / 2e-5 for e in step]
        assert found == pytest.approx(numeric, rel=1e-4, abs=1e-4)


def test_candidates_count_by_their_batches_and_only_those_that_may_be_the_best():
    vectors, values, anchors = searched(3)
    anchors[-1] = anchors[0] / 2 + anchors[-1] / 2  # an incumbent, scored on the anchors of two batches
    entries = scored(vectors, values, anchors)
    strange = np.full(GENES, 0.9)
    others = [
        Scored(Candidate("failed"), strange, None),
        Scored(Candidate("breaks a floor"), strange, assessment(9.0, violation=0.1)),
        Scored(Candidate("on fewer items"), strange, assessment(9.0), Place((0,), -1)),
    ]
    found = surrogate([*others, *entries], VARIABLES)
    assert found.peak.tobytes() == Surrogate(vectors, values, anchors).peak.tobytes()


@pytest.mark.parametrize(
    "variables",
    [
        [*VARIABLES[1:], replace(VARIABLES[0], kind=Kind.CATEGORICAL, high=1.0, choices=("a", "b"))],
        [*VARIABLES[1:], replace(VARIABLES[0], kind=Kind.INTEGER)],
        [*VARIABLES[1:], replace(VARIABLES[0], when=When("g1", frozenset({"a"})))],
    ],
)
def test_there_is_none_where_near_is_not_alike(variables):
    assert surrogate(scored(*searched(0)), variables) is None


def test_there_is_none_of_few_results_or_of_equal_ones():
    vectors, values, anchors = searched(0)
    entries = scored(vectors, values, anchors)
    assert surrogate(entries[:FEWEST], VARIABLES) is not None
    assert surrogate(entries[: FEWEST - 1], VARIABLES) is None
    assert surrogate(entries[: 2 * GENES * 10], VARIABLES * 11) is None
    assert surrogate(scored(vectors, np.full(len(values), 0.5), anchors), VARIABLES) is None


def test_a_gene_that_has_one_value_is_no_hindrance():
    vectors, values, anchors = searched(4)
    vectors = np.column_stack([vectors, np.full(len(vectors), 0.3)])
    assert Surrogate(vectors, values, anchors).peak[-1] == 0.3
