import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from merge3_plugin.evolve.optimizers import Result
from merge3_plugin.evolve.optimizers.generations import Generations, costs


def result(trial, value, violation=0.0, tie_breaker=0.0):
    values = None if value is None else (value,)
    return Result(trial, np.zeros(1), values, violation=violation, tie_breaker=tie_breaker)


# Few values, so that ties are many; two of them are neighbours, and two differ by next to nothing.
VALUES = st.sampled_from([None, -1.0, 0.0, 0.25, 0.7, 1 / 3, math.nextafter(0.7, 1), 1e-300, 2.0])
OUTCOMES = st.lists(st.tuples(VALUES, st.sampled_from([0.0, 0.0, 0.1, 3.0]), st.sampled_from([0.0, 0.1, 0.2])))


def rank(outcome):
    value, violation, tie_breaker = outcome
    if value is None:
        return (2, 0.0, 0.0)
    return (1, violation, 0.0) if violation else (0, -value, -tie_breaker)


@given(OUTCOMES)
def test_costs_rank_values_then_tie_breakers_then_broken_constraints_then_failures(outcomes):
    found = costs([result(n, *outcome) for n, outcome in enumerate(outcomes)])
    assert all(math.isfinite(cost) for cost in found)
    for cost, outcome in zip(found, outcomes, strict=True):
        for other_cost, other in zip(found, outcomes, strict=True):
            assert (cost < other_cost) == (rank(outcome) < rank(other))
        if outcome[0] is not None and not outcome[1]:  # to whoever looks at the values, equals are equal
            assert abs(cost + outcome[0]) <= 50 * math.ulp(max(abs(outcome[0]), 1.0))


def test_without_ties_the_costs_are_the_values():
    assert costs([result(0, 0.3, 0.0, 0.1), result(1, 0.5)]) == [-0.3, -0.5]


def test_a_generation_is_the_first_results_in_whatever_order_they_come():
    generations = Generations()
    generations.add([result(4, 0.4), result(1, 0.1)])
    assert generations.take(3) is None
    generations.add([result(7, 0.7), result(0, 0.0)])
    assert [r.trial for r in generations.take(3)] == [4, 1, 7]
    assert generations.take(3) is None
    generations.add([result(5, 0.5), result(6, 0.6)])
    assert [r.trial for r in generations.take(3)] == [0, 5, 6]


def test_a_later_result_replaces_one_that_waits_and_is_late_for_one_that_is_gone():
    generations = Generations()
    generations.add([result(0, 0.1), result(1, 0.2), result(0, 0.9)])
    assert [(r.trial, r.values) for r in generations.take(2)] == [(0, (0.9,)), (1, (0.2,))]
    generations.add([result(0, 0.5), result(2, 0.3)])
    assert generations.take(2) is None


@pytest.mark.parametrize("beside", [None, 0.5])
def test_results_of_no_trial_go_with_the_next_generation_that_teaches_something(beside):
    generations = Generations()
    generations.add([result(None, beside), result(0, None), result(1, None)])
    first = generations.take(2)
    assert [r.trial for r in first] == ([] if beside is None else [0, 1, None])
    generations.add([result(2, 0.5), result(3, None)])
    assert [r.trial for r in generations.take(2)] == ([2, 3, None] if beside is None else [2, 3])
