import numpy as np
import pytest

from merge3_plugin.errors import ConfigError
from tests.evolve.optimizers.worlds import MIXED, choices, integers, made, reals


def whole(variables, budget, seed=0, **settings):
    """The grid, asked three at a time, until it says that it is done."""
    search = made("grid", variables, seed, budget=budget, **settings)
    trials = []
    while not search.stop():
        trials += search.ask(3)
    assert not search.ask(3) and search.stop() == {"grid": len(trials)}
    return np.array([trial.vector for trial in trials])


def test_every_combination_comes_once_as_fine_as_the_budget_allows():
    grid = whole([*reals(2), *choices(1, 3)], 50)
    assert len(grid) == 4 * 4 * 3 == len(np.unique(grid, axis=0))
    assert np.unique(grid[:, 0]) == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert np.unique(grid[:, 2]).tolist() == [0, 1, 2]


def test_integers_have_all_their_values_where_that_is_affordable():
    assert np.unique(whole([*integers(1, 4), *reals(1)], 40)[:, 0]).tolist() == [0, 1, 2, 3, 4]
    assert len(whole(integers(2, 3), 1000)) == 16
    assert np.unique(whole([*integers(1, 9), *reals(1)], 9)[:, 0]).tolist() == [0, 5, 9]


def test_a_grid_that_is_broken_off_is_no_corner():
    grid = whole(reals(3), 1000)
    assert grid[:100].mean(axis=0) == pytest.approx([0.5] * 3, abs=0.1)
    assert not np.array_equal(grid, whole(reals(3), 1000, seed=1))


def test_too_small_a_budget_is_an_error_that_says_how_many_are_needed():
    assert len(whole(reals(5), 32)) == 32
    with pytest.raises(ConfigError, match="grid needs 32 candidates for two values each of 5 genes, got 31"):
        made("grid", reals(5), budget=31)
    with pytest.raises(ConfigError, match=r"grid needs 1\.60694e\+60 candidates"):
        made("grid", reals(200), budget=1000)
    assert len(whole(MIXED, 400)) == 2**7 * 3


def test_known_vectors_leave_it_the_rest_of_the_budget():
    assert len(whole(reals(2), 12, known=3)) == 9 and len(whole(reals(2), 12, known=4)) == 4
    with pytest.raises(ConfigError, match="for two values each of 2 genes, got 3 of 12, less 9 known merges; raise"):
        made("grid", reals(2), budget=12, known=9)
