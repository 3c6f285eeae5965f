"""Items that tell nothing, or mislead, are found, and chance is not taken for them."""

import numpy as np
import pytest

from merge3_plugin.domain import ResponseMatrix
from merge3_plugin.extract.odd_items import odd_items
from merge3_plugin.testing import simulate_responses


@pytest.mark.parametrize("n_models", [4, 12, 60])
def test_chance_is_not_taken_for_an_odd_item(n_models):
    worlds = [simulate_responses(n_models, 500, rng=np.random.default_rng(seed)) for seed in range(5)]
    # At most a twentieth of the findings may be false, and here every one would be: they are rare.
    assert sum(len(odd_items(world).negative) > 0 for world in worlds) <= 1


def test_wrong_keys_are_found():
    world = simulate_responses(120, 500, rng=np.random.default_rng(0))
    telling = np.argsort(np.abs(world.values.mean(axis=0) - 0.5))[
        :10
    ]  # of the others there are few answers of one kind
    flipped = np.array(world.values)
    flipped[:, telling] = 1 - flipped[:, telling]
    found = odd_items(ResponseMatrix(flipped, world.model_ids, world.item_ids))
    names = [item.item_id for item in found.negative]
    wrong = {world.item_ids[j] for j in telling}
    assert len(wrong & set(names)) >= 8 and len(set(names) - wrong) <= 1
    assert found.n_negative >= len(names)
    worst = found.negative[0]
    place = world.item_ids.index(worst.item_id)
    others = np.delete(flipped, place, axis=1).mean(axis=1)
    assert worst.correlation == pytest.approx(np.corrcoef(flipped[:, place], others)[0, 1])
    assert worst.accuracy == pytest.approx(flipped[:, place].mean())
    assert all(a.correlation <= b.correlation for a, b in zip(found.negative, found.negative[1:], strict=False))


def test_items_that_all_models_answer_alike():
    world = simulate_responses(8, 100, rng=np.random.default_rng(1))
    values = np.array(world.values)
    values[:, 3], values[:, 4], values[:, 5] = 1.0, 0.0, 0.5
    values[2, 3] = values[5, 4] = np.nan  # not asked, and the others agree
    values[:, 6], values[1:, 7] = np.nan, np.nan  # asked of nobody, and of one
    found = odd_items(ResponseMatrix(values, world.model_ids, world.item_ids))
    assert "q3" in found.all_right and "q4" in found.all_wrong
    assert not {"q5", "q6", "q7"} & {*found.all_right, *found.all_wrong}
    right = [j for j in range(100) if j not in (3, 4, 5, 6, 7) and values[:, j].min() == 1]
    assert set(found.all_right) == {"q3", *(f"q{j}" for j in right)}


def test_holes_do_not_count_as_wrong():
    world = simulate_responses(40, 300, rng=np.random.default_rng(2))
    holes = np.where(np.random.default_rng(3).random(world.values.shape) < 0.4, np.nan, world.values)
    assert odd_items(ResponseMatrix(holes, world.model_ids, world.item_ids)).negative == ()
