import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merge3_plugin.errors import ConfigError
from merge3_plugin.evolve.optimizers.relaxed import Relaxed
from merge3_plugin.evolve.spaces.variables import Kind, Variable, draw, start
from tests.evolve.optimizers.worlds import MIXED, choices, integers, reals

LIMITS = st.tuples(st.floats(-50, 50), st.floats(0.01, 100)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@st.composite
def variable(draw_):
    kind = draw_(st.sampled_from(Kind))
    if kind is Kind.CATEGORICAL:
        k = draw_(st.integers(1, 6))
        return Variable("c", 0, k - 1, 0, kind, tuple("abcdef"[:k]))
    low, high = draw_(LIMITS)
    if kind is Kind.INTEGER:
        low, high = float(math.floor(low)), float(math.ceil(high))
    else:
        low, high = draw_(st.sampled_from([(low, high), (low, math.inf), (-math.inf, high), (-math.inf, math.inf)]))
    return Variable("x", low, high, low if math.isfinite(low) else 0.0, kind)


@settings(deadline=None)  # the first of them imports cma
@given(st.lists(variable(), min_size=1, max_size=6), st.integers(0, 2**32 - 1))
def test_every_point_has_a_vector_inside_all_limits_and_every_vector_a_point(variables, seed):
    if all(v.low == v.high for v in variables):
        return
    relaxed, rng = Relaxed(variables), np.random.default_rng(seed)
    far = relaxed.vector(rng.normal(0, 100, relaxed.size))
    assert far.tolist() == [v.settled(x) for v, x in zip(variables, far, strict=True)]
    lowest = np.array([v.low if math.isfinite(v.low) else -7.0 for v in variables])
    highest = np.array([v.high if math.isfinite(v.high) else 7.0 for v in variables])
    for vector in (draw(variables, rng), lowest, highest, far):
        for point in (relaxed.point(vector), relaxed.start(vector)):
            again = relaxed.vector(point)
            settled = np.array([v.settled(x) for v, x in zip(variables, vector, strict=True)])
            assert np.abs(again - settled).max() <= 1e-12 * max(1.0, np.abs(settled).max())
            assert (relaxed.inside(point) == point).all() and (relaxed.drawn(point) == point).all()


def test_limits_are_reached_exactly_and_not_passed():
    relaxed = Relaxed([Variable("x", 0.25, 2.0, 1.0), Variable("y", 0.0, math.inf, 1.0)])
    assert relaxed.vector(relaxed.point(np.array([2.0, 0.0]))).tolist() == [2.0, 0.0]
    assert relaxed.vector(relaxed.point(np.array([9.0, -9.0]))).tolist() == [2.0, 0.0]


def test_whole_numbers_share_a_line_evenly():
    relaxed = Relaxed(integers(1, 4))
    line = np.linspace(-0.5, 4.5, 1000, endpoint=False) + 0.0025
    found = [relaxed.vector(np.array([x, 0.0]))[0] for x in line]
    assert np.unique(found, return_counts=True)[1].tolist() == [200] * 5


def test_choices_are_far_from_each_other_alike():
    relaxed = Relaxed(choices(1, 4))
    points = [relaxed.point(np.array([float(choice)])) for choice in range(4)]
    distances = {round(float(np.linalg.norm(a - b)), 9) for i, a in enumerate(points) for b in points[:i]}
    assert len(distances) == 1


def test_a_settled_choice_can_still_change_but_seldom():
    relaxed, rng = Relaxed(choices(5, 4)), np.random.default_rng(0)
    settled = relaxed.point(start(choices(5, 4)))
    drawn = [
        relaxed.vector(settled + relaxed.least_deviations() * rng.standard_normal(relaxed.size)) for _ in range(4000)
    ]
    changed = np.mean(np.array(drawn) != 0)
    assert 0.3 < changed / (2 / (2 + relaxed.size + 5)) < 1.5, "as often as cma lets integers change"


def test_a_space_without_anything_to_vary_is_an_error():
    with pytest.raises(ConfigError, match="expected a gene that can vary"):
        Relaxed([Variable("x", 1.0, 1.0, 1.0), *choices(1, 1)])


def test_genes_of_one_value_have_no_coordinate():
    assert Relaxed([Variable("x", 1.0, 1.0, 1.0), *reals(3)]).size == 3
    assert Relaxed(MIXED).size == len(MIXED) + 2  # three choices are three coordinates
