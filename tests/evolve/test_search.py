"""Ranks and costs of assessed candidates; whole searches are in test_run."""

import math

import numpy as np
import pytest

from merge3_plugin.evolve.evaluate import Candidate
from merge3_plugin.evolve.objectives import Assessment
from merge3_plugin.evolve.search import Scored, costs, ranked

# Few values, so that ties are many; two of them are neighbours, and two differ by next to nothing.
FITNESS = [None, -1.0, 0.0, 0.25, 0.7, 1 / 3, math.nextafter(0.7, 1), 1e-300, 2.0]


def scored(number, fitness, tie_breaker=0.0):
    assessment = None if fitness is None else Assessment({}, {}, fitness, 0.0, tie_breaker)
    return Scored(Candidate(str(number)), np.zeros(1), assessment)


@pytest.mark.parametrize("seed", range(50))
def test_costs_rank_by_fitness_and_then_by_the_tie_breaker(seed):
    rng = np.random.default_rng(seed)
    drawn = [(FITNESS[rng.integers(len(FITNESS))], round(rng.random(), 1)) for _ in range(20)]
    found = costs([scored(n, *pair) for n, pair in enumerate(drawn)])
    assert [cost is None for cost in found] == [fitness is None for fitness, _ in drawn]
    told = [(cost, pair) for cost, pair in zip(found, drawn, strict=True) if cost is not None]
    for cost, pair in told:
        for other_cost, other in told:
            assert (cost < other_cost) == (pair > other), "less cost exactly where the rank is higher"
        # To whoever looks at the values, equals are equal.
        assert abs(cost + pair[0]) <= 20 * math.ulp(max(abs(pair[0]), 1.0))


def test_without_ties_the_costs_are_the_fitness():
    assert costs([scored(0, 0.3, 0.1), scored(1, None), scored(2, 0.5, 0.0)]) == [-0.3, None, -0.5]


def test_ranked_names_every_candidate_once_best_first():
    entries = [scored(0, 0.5, 0.2), scored(1, 0.5, 0.9), scored(2, None), scored(1, 0.5, 0.9), scored(3, 0.6)]
    assert [s.candidate.id for s in ranked([*entries, scored(4, 0.5, 0.2)])] == ["3", "1", "0", "4"]
