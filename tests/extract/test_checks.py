"""Models whose answers look wrong are named, with what they cost."""

import numpy as np
import pytest

from merge3_plugin.domain import ResponseMatrix
from merge3_plugin.errors import DataError
from merge3_plugin.extract.checks import check_shared_items, duplicate_models, odd_models
from merge3_plugin.testing import simulate_responses


@pytest.fixture(scope="module")
def world():
    return simulate_responses(8, 300, rng=np.random.default_rng(0))


def with_rows(world, **rows):
    return ResponseMatrix(
        np.vstack([world.values, *rows.values()]), [*world.model_ids, *rows], world.item_ids, world.item_groups
    )


def test_a_sound_matrix_has_nothing_odd(world):
    assert odd_models(world) == []
    holes = np.where(np.random.default_rng(1).random(world.values.shape) < 0.3, np.nan, world.values)
    assert odd_models(ResponseMatrix(holes, world.model_ids, world.item_ids)) == []


def test_models_with_equal_answers_count_as_one(world):
    twice = with_rows(world, twin=world.values[2], third=world.values[2], other=world.values[5])
    assert duplicate_models(twice) == [("m2", "twin", "third"), ("m5", "other")]
    first, second = odd_models(twice)
    assert first.startswith("m2, twin, third: gave the same answers to all 300 items, so they count as one")
    assert second.startswith("m5, other: ")
    nearly = np.array(world.values[2])
    nearly[0] = 1 - nearly[0]
    assert duplicate_models(with_rows(world, twin=nearly)) == []


def test_a_few_items_are_answered_alike_by_chance(world):
    few = with_rows(world, twin=world.values[2]).items(world.item_ids[:20])
    assert odd_models(few) == []


def test_models_that_say_nothing_of_single_items(world):
    odd = with_rows(world, wrong=np.zeros(300), right=np.ones(300), silent=np.full(300, np.nan))
    lines = odd_models(odd)
    assert [line.split(":")[0] for line in lines] == ["silent", "wrong", "right"]
    assert "scored 0 on every item" in lines[1] and "scored 1 on every item" in lines[2]


def test_a_model_whose_items_are_in_another_order(world):
    shuffled = np.random.default_rng(0).permutation(world.values[3])
    (line,) = odd_models(with_rows(world, shuffled=shuffled))
    assert line.startswith("shuffled: its answers have nothing to do with the other models'")
    flipped = np.where(np.arange(8)[:, None] == 3, 1 - world.values, world.values)
    (line,) = odd_models(ResponseMatrix(flipped, world.model_ids, world.item_ids))
    assert line.startswith("m3: ") and "correlation -0." in line


def test_items_that_are_named_otherwise(world):
    values = np.full((4, 400), np.nan)
    values[:3, :200], values[3, 200:] = world.values[:3, :200], world.values[3, 100:300]
    names = [f"q{j}" for j in range(200)] + [f"x{j}" for j in range(200)]
    (line,) = odd_models(ResponseMatrix(values, "abcd", names))
    assert line.startswith("d: 200 of its 200 items were asked of no other model")
    check_shared_items(ResponseMatrix(values, "abcd", names))
    with pytest.raises(
        DataError, match="expected items that several models answered, got none, but 'q0' of 'c' and 'x0' of 'd'"
    ):
        check_shared_items(ResponseMatrix(values[2:], "cd", names))


def test_a_run_of_fewer_items_is_not_odd(world):
    values = np.array(world.values)
    values[2:, 60:] = np.nan  # --limit 60
    values[1, 200:] = np.nan
    lines = odd_models(ResponseMatrix(values, world.model_ids, world.item_ids))
    assert lines == []


def test_two_models_are_not_held_against_each_other(world):
    pair = ResponseMatrix(np.vstack([world.values[0], 1 - world.values[0]]), "ab", world.item_ids)
    assert odd_models(pair) == []
