"""Parameters as points of a cube, and back."""

from __future__ import annotations

import numpy as np
import pytest

optuna = pytest.importorskip("optuna")

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution  # noqa: E402

from merge3_plugin.evolve.optimizers.cube import Cube  # noqa: E402

KINDS = [
    CategoricalDistribution(("a", "b", "c")),
    FloatDistribution(-2, 6),
    IntDistribution(3, 20),
    IntDistribution(4, 4),
]
CUBE = Cube(KINDS)


def inside(coordinates):
    assert coordinates[0] in (0, 1, 2) and -2 <= coordinates[1] <= 6
    assert coordinates[2] in range(3, 21) and coordinates[3] == 4


def test_there_and_back_is_where_one_was():
    coordinates = np.array([[0, -2, 3, 4], [2, 1.5, 20, 4], [1, 6, 11, 4.0]])
    points = CUBE.points(coordinates)
    assert points.shape == (3, len(CUBE.owner)) and points.min() == 0 and points.max() == 1
    np.testing.assert_allclose([CUBE.coordinates(point) for point in points], coordinates)


def test_any_two_choices_are_one_apart():
    points = CUBE.points(np.array([[0, 0, 3, 4], [1, 0, 3, 4], [2, 0, 3, 4.0]]))
    apart = ((points[:, None] - points) ** 2).sum(axis=-1)
    np.testing.assert_allclose(apart, 1 - np.eye(3))
    assert CUBE.owner.tolist() == [1, 2, 3, 0, 0, 0] and CUBE.reals == 1


def test_draws_are_all_over_the_cube():
    drawn = np.array([CUBE.coordinates(point) for point in CUBE.draws(np.random.default_rng(0), 400)])
    for coordinates in drawn:
        inside(coordinates)
    assert len(np.unique(drawn[:, 0])) == 3 and len(np.unique(drawn[:, 2])) == 18
    assert drawn[:, 1].min() < -1.8 and drawn[:, 1].max() > 5.8


def test_neighbours_differ_in_one_parameter_that_is_no_real():
    here = np.array([1, 0.5, 5, 4.0])
    (point,) = CUBE.points(here[None])
    near = np.vstack([CUBE.neighbours(point, columns) for columns in CUBE.discrete])
    found = np.array([CUBE.coordinates(each) for each in near])
    for coordinates in found:
        inside(coordinates)
        assert (~np.isclose(coordinates, here)).sum() == 1
    assert sorted(found[found[:, 0] != 1][:, 0]) == [0, 2]
    assert sorted(found[found[:, 2] != 5][:, 2]) == [3, 4, 6, 7, 9, 13]
    assert not Cube([FloatDistribution(0, 1)]).discrete


def test_corners_are_within_the_limits_to_the_last_bit():
    low, high = np.sort(np.random.default_rng(0).normal(size=(200, 2)), axis=1).T
    highest = Cube([FloatDistribution(*limits) for limits in zip(low, high, strict=True)]).coordinates(np.ones(200))
    assert (highest <= high).all() and np.allclose(highest, high)
