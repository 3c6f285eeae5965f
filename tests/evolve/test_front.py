"""Fronts: what dominates what, how members are spread, and the volume below them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from merge3_plugin.evolve.evaluate import Candidate
from merge3_plugin.evolve.front import crowding, front, hypervolume, non_dominated, spread
from merge3_plugin.evolve.objectives import Assessment
from merge3_plugin.evolve.search import Scored

# Few levels, so that equal values and shared coordinates are common.
POINTS = st.tuples(st.integers(1, 12), st.integers(1, 4)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.integers(0, 4).map(lambda level: level / 4))
)


def dominates(a, b):
    return bool((a >= b).all() and (a > b).any())


def scored(values, violations=None, ties=None):
    found = []
    for i, of in enumerate(values):
        violation = 0.0 if violations is None else violations[i]
        tie = 0.0 if ties is None else ties[i]
        assessment = Assessment({}, {}, float(sum(of)), 0.0, tie, tuple(of), (0.0,) * len(of), violation)
        found.append(Scored(Candidate(f"c{i}"), np.array([float(i)]), assessment))
    return found


def values_of(entries):
    return [entry.assessment.values for entry in entries]


@given(POINTS)
def test_no_member_is_dominated_and_all_others_are_dominated_or_equal(values):
    members = [np.array(of) for of in values_of(front(scored(values)))]
    assert members
    assert not any(dominates(a, b) for a in members for b in members)
    assert len({tuple(m) for m in members}) == len(members)
    assert all(any(dominates(m, of) or (m == of).all() for m in members) for of in values)


@given(POINTS, st.randoms(use_true_random=False))
def test_the_front_does_not_depend_on_the_order_of_scoring(values, draw):
    shuffled = list(values)
    draw.shuffle(shuffled)
    assert set(values_of(front(scored(values)))) == set(values_of(front(scored(shuffled))))


@given(POINTS)
def test_the_extremes_come_first(values):
    members = np.array(values_of(front(scored(values))))
    objectives = members.shape[1]
    # Each objective's best is among the extremes, of which there are two an objective at most.
    assert (members[: 2 * objectives].max(axis=0) == members.max(axis=0)).all()


def test_a_head_of_the_front_is_spread_evenly():
    along = np.linspace(0, 1, 33)
    order = spread(np.column_stack([along, 1 - along]))
    assert np.sort(along[order[:3]]).tolist() == [0, 0.5, 1]
    assert np.sort(along[order[:5]]).tolist() == [0, 0.25, 0.5, 0.75, 1]
    # Distances taken once, of all points, leave larger gaps than distances taken again among those left.
    gaps = []
    for seed in range(20):
        along = np.random.default_rng(seed).random(40)
        values = np.column_stack([along, 1 - along])
        heads = spread(values)[:6], np.argsort(-crowding(values))[:6]
        gaps.append([np.diff(np.sort(along[head])).max() for head in heads])
    again, once = np.mean(gaps, axis=0)
    assert again < 0.8 * once


def test_crowding_is_the_gap_between_neighbours_in_shares_of_the_range():
    # By hand: range 4 in both, neighbours of (1, 3) are (0, 4) and (3, 1).
    distance = crowding(np.array([[0.0, 4.0], [1.0, 3.0], [3.0, 1.0], [4.0, 0.0]]))
    assert distance.tolist() == [np.inf, 3 / 4 + 3 / 4, 3 / 4 + 3 / 4, np.inf]


def test_constraints_go_before_values():
    values = [(0.9, 0.9), (0.1, 0.5), (0.5, 0.1), (0.2, 0.2)]
    assert values_of(front(scored(values, violations=[0.01, 0, 0, 0]))) == [(0.1, 0.5), (0.5, 0.1), (0.2, 0.2)]
    assert values_of(front(scored(values, violations=[0.3, 0.02, 0.1, 0.02]))) == [(0.1, 0.5), (0.2, 0.2)]


def test_of_equal_candidates_the_tie_breaker_chooses():
    (only,) = front(scored([(0.5, 0.5)] * 3, ties=[0.1, 0.3, 0.2]))
    assert only.candidate.id == "c1"


def test_failures_are_not_on_a_front():
    failed = Scored(Candidate("broken"), np.zeros(1), None)
    assert front([failed]) == []
    assert [s.candidate.id for s in front([failed, *scored([(0.1, 0.2)])])] == ["c0"]


@given(POINTS)
def test_hypervolume_is_pymoos(values):
    hv = pytest.importorskip("pymoo.indicators.hv").HV
    reference = np.full(values.shape[1], 0.25)
    expected = hv(ref_point=-reference)(-values)
    assert hypervolume(values, reference) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_hypervolume_is_the_share_of_random_points_that_are_dominated(objectives):
    rng = np.random.default_rng(objectives)
    values, reference = rng.random((12, objectives)), np.full(objectives, 0.1)
    drawn = 0.1 + 0.9 * rng.random((40_000, objectives))
    share = (drawn[:, None] <= values[None]).all(axis=2).any(axis=1).mean()
    error = 4 * np.sqrt(share * (1 - share) / len(drawn))
    assert hypervolume(values, reference) == pytest.approx(share * 0.9**objectives, abs=error)


@settings(max_examples=50)
@given(POINTS, st.data())
def test_volume_grows_by_points_that_are_not_dominated_only(values, data):
    reference = np.full(values.shape[1], -0.25)
    more = data.draw(arrays(np.float64, values.shape[1], elements=st.integers(0, 4).map(lambda level: level / 4)))
    before, after = hypervolume(values, reference), hypervolume(np.vstack([values, more]), reference)
    covered = bool((values >= more).all(axis=1).any())
    assert after == pytest.approx(before, abs=1e-12) if covered else after > before


def test_points_that_do_not_pass_the_reference_have_no_volume():
    assert hypervolume(np.array([[0.2, 0.9], [0.9, 0.2]]), np.array([0.3, 0.3])) == 0.0
    assert hypervolume(np.empty((0, 3)), np.zeros(3)) == 0.0


def test_non_dominated_keeps_equal_points():
    assert non_dominated(np.array([[1.0, 0.0], [1.0, 0.0], [0.5, 0.0]])).tolist() == [True, True, False]
