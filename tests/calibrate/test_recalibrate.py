"""Recalibration in worlds whose parameters are known."""

from dataclasses import replace

import numpy as np
import pytest

from merge3_plugin import irt
from merge3_plugin.calibrate.recalibrate import RECALIBRATED, answer_weights, recalibrate
from merge3_plugin.domain import ItemParameters, ResponseMatrix
from merge3_plugin.errors import DataError
from merge3_plugin.testing import simulate_merges, simulate_responses
from tests.estimate.worlds import quick_calibration

N_ITEMS = 300


def world(rng, n_models=24):
    """A 1-D calibration, its true items, and a function that draws the answers of further models."""
    true = ItemParameters(rng.lognormal(0.0, 0.3, (N_ITEMS, 1)), rng.normal(0.0, 1.2, N_ITEMS))
    ids = [f"q{j}" for j in range(N_ITEMS)]

    def answers(n, prefix, items=true):
        abilities = rng.normal(size=(n, 1))
        right = rng.random((n, N_ITEMS)) < irt.probabilities(items, abilities)
        return ResponseMatrix(right, [f"{prefix}{m}" for m in range(n)], ids)

    return quick_calibration(answers(n_models, "old"), 60), true, answers


def on_anchors(calibration, answers):
    values = np.full(answers.values.shape, np.nan)
    places = calibration.anchor_positions()
    values[:, places] = answers.values[:, places]
    return ResponseMatrix(values, answers.model_ids, answers.item_ids)


def test_no_data_changes_nothing():
    calibration, _, _ = world(np.random.default_rng(0))
    nothing = ResponseMatrix(np.full((2, N_ITEMS), np.nan), ["a", "b"], calibration.item_ids)
    assert recalibrate(calibration, nothing) is calibration
    assert recalibrate(calibration, calibration.responses) is calibration, "models it has already say nothing new"


def test_imported_parameters_stay_as_published():
    """No model is behind them here: any few answers would seem to know more."""
    calibration, _, answers = world(np.random.default_rng(0))
    imported = replace(calibration, responses=calibration.responses.models([]), provenance={})
    assert recalibrate(imported, on_anchors(imported, answers(6, "new"))) is imported


def test_items_that_nobody_was_asked_stay_bit_for_bit():
    calibration, _, answers = world(np.random.default_rng(1))
    calibration = replace(calibration, errors={"p-irt": 0.03})
    refined = recalibrate(calibration, on_anchors(calibration, answers(30, "new")))
    others = np.setdiff1d(np.arange(N_ITEMS), calibration.anchor_positions())
    for before, after in zip(
        (calibration.items, *calibration.alternatives), (refined.items, *refined.alternatives), strict=True
    ):
        assert (after.discrimination[others] == before.discrimination[others]).all()
        assert (after.difficulty[others] == before.difficulty[others]).all()
        assert (after.difficulty != before.difficulty).any()
    assert refined.responses is calibration.responses, "models of a few answers teach no regression on full ones"
    assert refined.anchors is calibration.anchors and refined.errors == calibration.errors
    record = refined.provenance[RECALIBRATED]
    assert record["models"] == [f"new{m}" for m in range(30)] and record["answers"] == 30 * 60
    assert len(record["drifted"]) <= 2, "of 60 that have not drifted"


def test_the_scale_stays():
    calibration, _, answers = world(np.random.default_rng(2))
    new = answers(60, "new")
    refined = recalibrate(calibration, new)
    fresh = answers(40, "later").values
    before, after = (irt.fit_ability(c.items, fresh).mean for c in (calibration, refined))
    # The same models on the refined items: no shift, no stretch, beyond what refined items know better.
    slope, intercept = np.polyfit(before[:, 0], after[:, 0], 1)
    assert abs(intercept) < 0.1 and abs(slope - 1) < 0.1
    p_before, p_after = (
        irt.probabilities(c.items, a).mean(axis=1) for c, a in ((calibration, before), (refined, after))
    )
    assert np.abs(p_before - p_after).max() < 0.03


def test_full_answers_bring_the_items_nearer_to_the_truth():
    calibration, true, answers = world(np.random.default_rng(3), n_models=10)
    refined = recalibrate(calibration, answers(60, "new"))
    probe = answers(50, "probe")

    def error(items):
        abilities = irt.fit_ability(items, probe.values).mean
        return np.abs(
            irt.probabilities(items, abilities) - irt.probabilities(true, irt.fit_ability(true, probe.values).mean)
        )

    assert error(refined.items).mean() < 0.8 * error(calibration.items).mean()
    assert refined.responses.model_ids == (*calibration.responses.model_ids, *(f"new{m}" for m in range(60)))


def test_drifted_anchors_are_mended_by_answers_on_the_anchors_alone():
    rng = np.random.default_rng(4)
    calibration, true, answers = world(rng, n_models=48)
    # Middling items, of which a drift makes a difference that can be seen.
    places = calibration.anchor_positions()
    drifted = places[np.argsort(np.abs(true.difficulty[places]))[:4]]
    difficulty = true.difficulty.copy()
    difficulty[drifted] += 3.0
    now = ItemParameters(true.discrimination, difficulty)
    refined = recalibrate(calibration, on_anchors(calibration, answers(80, "new", now)))
    found = refined.provenance[RECALIBRATED]["drifted"]
    assert len(found) >= 3 and set(found) <= {calibration.item_ids[j] for j in drifted}
    probe = answers(200, "probe", now).values

    def gap(items):
        chance = irt.probabilities(items, irt.fit_ability(items, probe).mean)
        return np.abs((chance - probe).mean(axis=0)[drifted])

    assert gap(calibration.items).mean() > 0.25
    assert gap(refined.items).mean() < 0.5 * gap(calibration.items).mean()


def test_relatives_count_as_few():
    rng = np.random.default_rng(5)
    calibration, _, answers = world(rng)
    independent = answers(40, "new")
    one = answers(1, "one").values
    copies = np.where(rng.random((40, N_ITEMS)) < 0.05, rng.random((40, N_ITEMS)) < 0.5, one)
    relatives = ResponseMatrix(copies, [f"r{m}" for m in range(40)], calibration.item_ids)
    weights = [np.median(answer_weights(calibration.items, of.values).weights) for of in (independent, relatives)]
    assert weights[0] > 0.25 and weights[1] < 1 / 25
    single = recalibrate(calibration, ResponseMatrix(one, ["one"], calibration.item_ids))
    many = recalibrate(calibration, relatives)
    moved = [np.abs(c.items.difficulty - calibration.items.difficulty).mean() for c in (single, many)]
    assert moved[1] < 2 * moved[0], "forty copies of a model know little more than the model"


def test_parents_whom_the_calibration_lacks_join():
    everyone = simulate_merges(3, 12, 200, rng=np.random.default_rng(6))
    parents = everyone.models(["p0", "p1", "p2"])
    calibration = quick_calibration(everyone.models([f"m{m}" for m in range(10)]), 30)
    new = everyone.models(["m10", "m11"])
    refined = recalibrate(calibration, new, parents)
    assert refined.responses.model_ids[-5:] == ("m10", "m11", "p0", "p1", "p2")


def test_items_may_be_some_and_in_any_order():
    calibration, _, answers = world(np.random.default_rng(7))
    new = answers(20, "new")
    some = [item for number, item in enumerate(new.item_ids) if number % 3 == 0]
    holes = new.values.copy()
    holes[:, [number for number in range(N_ITEMS) if number % 3]] = np.nan
    wide = recalibrate(calibration, ResponseMatrix(holes, new.model_ids, new.item_ids))
    narrow = recalibrate(calibration, new.items(some[::-1]))
    assert narrow.items.difficulty == pytest.approx(wide.items.difficulty, abs=1e-9)


def test_foreign_items_are_an_error():
    calibration, _, _ = world(np.random.default_rng(8))
    with pytest.raises(DataError, match="got 'elsewhere', which it does not hold"):
        recalibrate(calibration, ResponseMatrix([[1.0]], ["new"], ["elsewhere"]))


def test_a_misspecified_world_is_not_bent():
    """Where all items misfit, the estimates of later models are no worse for the answers of their relatives."""
    from merge3_plugin.api import estimate

    errors = []
    for seed in range(4):
        world_ = simulate_responses(40, 400, rng=np.random.default_rng(seed), misfit=1.0)
        calibration = quick_calibration(world_.models([f"m{m}" for m in range(12)]), 50, seed=seed)
        refined = recalibrate(calibration, on_anchors(calibration, world_.models([f"m{m}" for m in range(12, 26)])))
        later = world_.models([f"m{m}" for m in range(26, 40)])
        places = calibration.anchor_positions()
        for row, truth in zip(later.values, later.accuracy(), strict=True):
            scores = {calibration.item_ids[j]: float(row[j]) for j in places}
            errors.append([estimate(c, scores, estimator="p-irt").accuracy - truth for c in (calibration, refined)])
    before, after = np.abs(errors).mean(axis=0)
    assert after < 1.03 * before
