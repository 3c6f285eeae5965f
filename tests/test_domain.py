"""The value types: what they refuse, and what becomes of items, models, soft scores and weights in their parts."""

from __future__ import annotations

import numpy as np
import pytest

from merge3_plugin.domain import AnchorSet, Calibration, Estimate, ItemParameters, ResponseMatrix, check_scores
from merge3_plugin.errors import DataError

VALUES = np.array([[1.0, 0.0, np.nan, 0.5], [0.0, 1.0, 1.0, np.nan]])
SOFT = np.array([[0.9, 0.2, np.nan, np.nan], [0.1, 0.75, 0.5, np.nan]])
BALANCE = np.array([1.0, 3.0, 2.0, 2.0])


def matrix(**changes) -> ResponseMatrix:
    given = {"values": VALUES, "model_ids": ["a", "模型"], "item_ids": ["é", "w", "x", "y"], "item_groups": "LLRR"}
    return ResponseMatrix(**{**given, "soft": SOFT, "balance": BALANCE, **changes})


def test_accuracy_is_weighted_over_the_items_that_were_asked():
    assert matrix().accuracy() == pytest.approx([(1 + 0.5 * 2) / 6, (3 + 2) / 6])
    assert matrix(balance=None).accuracy() == pytest.approx([0.5, 2 / 3])
    assert matrix(balance=5 * BALANCE).item_weights == pytest.approx(BALANCE / 8)
    unasked = ResponseMatrix(np.full((1, 4), np.nan), ["m"], range(4), balance=BALANCE)
    assert np.isnan(unasked.accuracy()).all()


def test_parts_keep_what_belongs_to_their_models_and_items():
    part = matrix().models(["模型"]).items(["y", "é"])
    assert (part.model_ids, part.item_ids, part.item_groups) == (("模型",), ("y", "é"), ("R", "L"))
    np.testing.assert_array_equal(part.values, [[np.nan, 0.0]])
    np.testing.assert_array_equal(part.soft, np.array([[np.nan, 0.1]], dtype=np.float32))
    assert part.balance == pytest.approx([2.0, 1.0])


def test_joined_matrices_know_no_soft_scores_of_models_that_have_none():
    other = matrix(model_ids=["c", "d"], soft=None, balance=None, item_groups=None)
    for first, second, known in ((matrix(), other, [0, 1]), (other, matrix(), [2, 3])):
        both = first.joined(second)
        assert both.model_ids == (*first.model_ids, *second.model_ids)
        assert [row for row in range(4) if not np.isnan(both.soft[row]).all()] == known
        assert (both.balance is None) == (first.balance is None) and both.item_groups == first.item_groups
    assert other.joined(matrix(soft=None)).soft is None
    with pytest.raises(DataError, match="same items in the same order"):
        matrix().joined(matrix(item_ids="wxyz"))


def test_arrays_are_owned_and_read_only():
    values = VALUES.copy()
    made = matrix(values=values)
    values[0, 0] = 0.0
    assert made.values[0, 0] == 1.0
    for array in (made.values, made.soft, made.balance):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"values": VALUES[0]}, "response matrix: expected 2 dimension"),
        ({"values": VALUES.T}, r"expected shape \(models, items\) = \(2, 4\), got \(4, 2\)"),
        ({"values": VALUES + 0.6}, r"expected scores in \[0, 1\], got 1.6"),
        ({"values": [["a"]]}, "expected numbers in 2 dimension"),
        ({"model_ids": ["a", "a"]}, "model ids: expected distinct ids, got 'a' more than once"),
        ({"item_ids": [1, "1", 2, 3]}, "item ids: expected distinct ids, got '1' more than once"),
        ({"item_ids": ["é", "w", "x", "\ud800"]}, "item ids: expected text, got a lone surrogate"),
        ({"item_groups": "LR"}, "item groups: expected 4, one for each item, got 2"),
        ({"soft": SOFT[:1]}, r"soft scores: expected the shape of the scores, \(2, 4\), got \(1, 4\)"),
        ({"soft": -SOFT}, r"soft scores: expected scores in \[0, 1\], got -0.9"),
        ({"balance": BALANCE[:3]}, "balance: expected 4 weights, one for each item, got 3"),
        ({"balance": BALANCE - 1}, "balance: expected positive finite weights"),
        ({"balance": BALANCE * np.inf}, "balance: expected positive finite weights"),
    ],
)
def test_matrices_that_cannot_be(changes, line):
    with pytest.raises(DataError, match=line) as error:
        matrix(**changes)
    assert "\n" not in str(error.value)


def test_an_unknown_model_or_item_names_the_nearest():
    with pytest.raises(
        DataError, match="expected a known model id, got 'model', .* among the 1; did you mean 'models'"
    ):
        matrix(values=VALUES[:1], soft=None, model_ids=["models"]).models(["model"])
    with pytest.raises(DataError, match="expected a known item id, got 'q', .* among the 4; known: w, x, y, é"):
        matrix().items(["w", "q"])


@pytest.mark.parametrize(
    ("ids", "weights", "inclusion", "line"),
    [
        ([], [], None, "expected at least one item"),
        (["x", "y"], [1.0], None, "anchor weights: expected 2, one for each anchor, got 1"),
        (["x", "y"], [1.5, -0.5], None, "expected finite, non-negative, of sum 1"),
        (["x", "y"], [0.5, 0.4], None, "got sum 0.9"),
        (range(40), np.full(40, 1 / 40), np.full(39, 0.5), "inclusion probabilities: expected 40, .* got 39"),
        (range(40), np.full(40, 1 / 40), np.zeros(40), r"inclusion probabilities: expected numbers in \(0, 1\], got 0"),
        (["x"], [1.0], [np.nan], "got nan"),
        (["x"], [1.0], [1.25], "got 1.25"),
    ],
)
def test_anchor_sets_that_cannot_be(ids, weights, inclusion, line):
    with pytest.raises(DataError, match=line) as error:
        AnchorSet(ids, weights, "kd", inclusion)
    assert "\n" not in str(error.value)


def test_a_calibrations_parts_must_be_of_the_same_items():
    items, anchors = ItemParameters(np.ones((4, 2)), np.zeros(4)), AnchorSet(("x",), np.ones(1), "kd")
    made = Calibration(matrix().item_ids, items, anchors, matrix(), alternatives=(items,))
    assert made.anchor_positions().tolist() == [2]
    for changes, line in (
        ({"items": items.take([0, 1])}, "expected parameters for 4 items, got 2"),
        ({"alternatives": (items, items.take([0]))}, "expected parameters for 4 items, got 1"),
        ({"responses": matrix(item_ids="wxyz")}, "expected the responses' items to be the calibration's"),
        ({"item_hashes": ("h",)}, "expected 4 item hashes, got 1"),
        ({"anchors": AnchorSet(("z",), np.ones(1), "kd")}, "expected a known anchor id, got 'z'"),
    ):
        given = {"item_ids": made.item_ids, "items": items, "anchors": anchors, "responses": made.responses}
        with pytest.raises(DataError, match=line):
            Calibration(**{**given, **changes})


@pytest.mark.parametrize(
    ("accuracy", "error", "interval", "line"),
    [
        (0.5, np.nan, (0.4, 0.6), "expected finite numbers"),
        (0.5, -0.1, (0.4, 0.6), "expected finite numbers"),
        (0.5, 0.1, (0.6, 0.7), "expected the interval to hold 0.5"),
    ],
)
def test_estimates_that_cannot_be(accuracy, error, interval, line):
    with pytest.raises(DataError, match=line):
        Estimate(accuracy, error, interval, "mean", 1, 4)


def test_scores_are_of_known_items_and_in_range():
    assert check_scores({1: 1, "2": 0.25}, ["1", "2", "3"]) == {"1": 1.0, "2": 0.25}
    for scores, line in (
        ({"4": 1.0}, "expected items of the calibration, got '4'"),
        ({"1": "right"}, "expected a number in .* for item '1', got 'right'"),
        ({"1": float("nan")}, "for item '1', got nan"),
        ({"1": 1.5}, "for item '1', got 1.5"),
        ({}, "expected at least one answered item, got none"),
    ):
        with pytest.raises(DataError, match=line):
            check_scores(scores, {"1", "2", "3"})
