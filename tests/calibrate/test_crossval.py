"""What cross-validation says of a model comes from calibrations that have not seen it."""

import numpy as np
import pytest

from merge3_plugin.calibrate.crossval import cross_validate, draws_for
from merge3_plugin.calibrate.folds import MOST_LEFT_OUT, fit_folds, look_like_merges
from merge3_plugin.domain import ResponseMatrix
from merge3_plugin.estimate.interval import variance_unit
from merge3_plugin.irt import fit_ability, probabilities
from merge3_plugin.testing import simulate_responses


@pytest.fixture(scope="module")
def world():
    return simulate_responses(8, 200, rng=np.random.default_rng(0))


@pytest.fixture(scope="module")
def outcome(world):
    return cross_validate(fit_folds(world, seed=0), 20, "random")


def test_a_left_out_model_leaves_no_trace(world):
    """Its own answers change nothing in the calibration that estimates it."""
    flipped = np.array(world.values)
    flipped[5] = 1 - flipped[5]
    both = (ResponseMatrix(values, world.model_ids, world.item_ids) for values in (world.values, flipped))
    folds, others = (fit_folds(responses, seed=7).folds for responses in both)
    for fold, other in zip(folds, others, strict=True):
        for fit, again in zip(fold.fits, other.fits, strict=True):
            assert (fit.difficulty == again.difficulty).all() == (5 in fold.left_out)


def test_every_model_is_left_out_once_with_another_one(world, outcome):
    assert sorted(row for fold in outcome.folds.folds for row in fold.left_out) == list(range(8))
    assert all(len(fold.left_out) == 2 and fold.training.n_models == 6 for fold in outcome.folds.folds)
    five = fit_folds(world.models(world.model_ids[:5]), seed=0).folds
    assert [len(fold.left_out) for fold in five] == [1] * 5


def test_the_order_of_models_and_items_does_not_matter(world):
    rng = np.random.default_rng(3)
    turned = world.models(rng.permutation(world.model_ids)).items(rng.permutation(world.item_ids))
    first, second = (cross_validate(fit_folds(w, seed=1, max_items=150), 20, "kd").findings() for w in (world, turned))
    assert first.errors == pytest.approx(second.errors) and first.record["items"] == 150


def test_errors_without_a_fold_are_those_of_the_others(world, outcome):
    points = np.array([[e.accuracy for e in draws] for draws in outcome.estimates["gp-irt"]])
    squares = (points - world.accuracy()[:, None]) ** 2
    assert outcome.findings().errors["gp-irt"] == pytest.approx(np.sqrt(squares.mean()))
    assert points.shape == (8, draws_for(8))
    without = outcome.findings(without=2)
    others = ~np.isin(np.arange(8), outcome.folds.folds[2].left_out)
    assert without.errors["gp-irt"] == pytest.approx(np.sqrt(squares[others].mean()))
    assert without.record["models"] == 6


def test_ratios_are_multiples_of_a_random_samples_variance(world, outcome):
    """The plain mean of random anchors errs as random samples do, and its error is nobody's own."""
    accuracy = (world.accuracy() * 200 + 0.5) / 201
    expected = (accuracy * (1 - accuracy)).mean() * variance_unit(20, 200)
    record = outcome.findings().record
    assert record["ratios"]["mean"] == pytest.approx(outcome.findings().errors["mean"] ** 2 / expected)
    many = cross_validate(fit_folds(simulate_responses(40, 300, rng=np.random.default_rng(1)), seed=0), 30, "random")
    found = many.findings().record
    assert 0.6 < found["ratios"]["mean"] < 1.5 and found["floors"]["mean"] < 0.4
    assert found["degrees"]["mean"] < many.scored.size


def test_differences_are_those_of_models_left_out_together(world, outcome):
    found = outcome.findings().record["differences"]
    squares, variances = [], []
    for fold in outcome.folds.folds:
        i, j = (int(np.searchsorted(outcome.rows, row)) for row in sorted(fold.left_out))
        apart = world.accuracy()[i] - world.accuracy()[j]
        for one, two in zip(outcome.estimates["gd"][i], outcome.estimates["gd"][j], strict=True):
            squares.append((one.accuracy - two.accuracy - apart) ** 2)
        spread = (world.values[outcome.rows[i]] - world.values[outcome.rows[j]]).var()
        variances.append((200 * spread + 0.5) / 201 * variance_unit(20, 200))
    assert found["models"] == 4 and found["ratios"]["gd"] == pytest.approx(np.mean(squares) / np.mean(variances))


def test_misfit_is_what_all_answers_do_not_remove(world, outcome):
    for fold in outcome.folds.folds:
        for row in fold.left_out:
            ability = fit_ability(fold.items, world.values[row]).mean
            expected = probabilities(fold.items, ability).mean() - world.values[row].mean()
            assert outcome.misfits["p-irt"][row] == pytest.approx(expected)


def test_intervals_come_from_the_other_folds(world):
    with_intervals = cross_validate(fit_folds(world, seed=0), 20, "stratified", with_intervals=True)
    without = cross_validate(with_intervals.folds, 20, "stratified")
    for name in ("core", "gd"):
        one, other = with_intervals.estimates[name][0][0], without.estimates[name][0][0]
        assert one.accuracy == pytest.approx(other.accuracy) and one.interval != other.interval


def test_of_many_models_and_items_a_part_is_enough():
    many = simulate_responses(MOST_LEFT_OUT + 20, 60, rng=np.random.default_rng(0))
    folds = fit_folds(many, seed=0, max_items=40)
    assert len(folds.rows) == MOST_LEFT_OUT and folds.responses.n_items == 40
    assert all(fold.training.n_models == many.n_models - len(fold.left_out) for fold in folds.folds)


def test_merges_lie_between_their_parents():
    rng = np.random.default_rng(0)
    parents = simulate_responses(2, 400, rng=rng, misfit=2.0)
    taken = rng.random((6, 400)) < 0.5
    merges = ResponseMatrix(
        np.where(taken, parents.values[0], parents.values[1]), [f"x{m}" for m in range(6)], parents.item_ids
    )
    assert look_like_merges(merges, np.arange(6), parents)
    unrelated = simulate_responses(8, 400, rng=rng, misfit=2.0)
    assert not look_like_merges(unrelated, np.arange(2, 8), unrelated.models(["m0", "m1"]))
    assert not look_like_merges(merges, np.arange(6), parents.models(["m0"])), "one parent has no between"
