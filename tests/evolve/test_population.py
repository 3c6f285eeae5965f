import pytest

from merge3_plugin.errors import DataError
from merge3_plugin.evolve.population import split_items

ITEMS = [f"i{n}" for n in range(300)]


def test_a_third_of_the_items_that_are_no_anchors_is_held_out():
    anchors = ITEMS[:30]
    split = split_items(ITEMS, anchors=anchors, fraction=1 / 3, seed=0)
    assert len(split.held_out) == 90
    assert not set(split.held_out) & set(split.search) and set(split.held_out) | set(split.search) == set(ITEMS)
    assert set(anchors) <= set(split.search)


def test_the_draw_depends_on_ids_and_seed_only():
    split = split_items(ITEMS, fraction=1 / 3, seed=0)
    assert set(split_items(ITEMS[::-1], fraction=1 / 3, seed=0).held_out) == set(split.held_out)
    other = set(split_items(ITEMS, fraction=1 / 3, seed=1).held_out)
    # Two independent thirds share a ninth: 33 of 300, with a standard deviation of about 4.7.
    assert 14 < len(other & set(split.held_out)) < 53


def test_only_items_that_can_be_estimated_are_searched_any_can_be_held_out():
    split = split_items(ITEMS, searchable=ITEMS[:100], fraction=1 / 3, seed=0)
    assert split.held_out == split_items(ITEMS, fraction=1 / 3, seed=0).held_out
    assert set(split.search) == set(ITEMS[:100]) - set(split.held_out)


def test_limit_keeps_a_random_part_of_the_search_items_and_every_anchor():
    full = split_items(ITEMS, anchors=ITEMS[:30], fraction=1 / 3, seed=0)
    part = split_items(ITEMS, anchors=ITEMS[:30], fraction=1 / 3, seed=0, limit=80)
    assert part.held_out == full.held_out and len(part.search) == 80
    assert set(ITEMS[:30]) <= set(part.search) <= set(full.search)
    assert part.search != full.search[:80]


def test_what_cannot_be_split_is_an_error():
    with pytest.raises(DataError, match="'x'; the calibration is of other data"):
        split_items(ITEMS, anchors=["x"], fraction=1 / 3, seed=0)
    with pytest.raises(DataError, match="enough items"):
        split_items(["a"], fraction=1 / 3, seed=0)
    with pytest.raises(DataError, match="enough items"):
        split_items(ITEMS, anchors=ITEMS, fraction=1 / 3, seed=0)


def test_each_sub_task_gives_its_share_to_both_sets():
    groups = ["small" if n < 12 else "large" for n in range(300)]
    for seed in range(20):
        split = split_items(ITEMS, groups=groups, fraction=1 / 3, seed=seed, limit=50)
        assert len(split.held_out) == 100 and len(split.search) == 50
        assert len(set(split.held_out) & set(ITEMS[:12])) == 4
        assert len(set(split.search) & set(ITEMS[:12])) == 2
