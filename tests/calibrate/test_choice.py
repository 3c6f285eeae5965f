"""The default is only left for what is surely better."""

import numpy as np
import pytest

from merge3_plugin.api import calibrate, estimate
from merge3_plugin.calibrate.choice import chosen_design, chosen_estimator, default_design, honest_ratio, surely_best
from merge3_plugin.calibrate.study import study
from merge3_plugin.domain import ResponseMatrix
from merge3_plugin.estimate.auto import resolve
from merge3_plugin.estimate.base import CROSS_VALIDATION
from merge3_plugin.testing import simulate_merges, simulate_responses
from tests.estimate.worlds import soft_family

rng = np.random.default_rng(0)


def test_luck_is_not_enough():
    """Twelve rivals that are no better: the least of their mean errors is below the default's nearly always."""
    left = below = 0
    for _ in range(300):
        errors = {f"e{k}": 1.0 + 0.2 * rng.normal(size=8) for k in range(13)}
        means = {name: of_folds.mean() for name, of_folds in errors.items()}
        left += surely_best("e0", errors) != "e0"
        below += min(means, key=means.__getitem__) != "e0"
    assert below / 300 > 0.85 and left / 300 < 0.3


def test_a_clear_gain_is_taken():
    shared = 0.3 * rng.normal(size=8)
    errors = {"default": 1 + shared, "better": 0.8 + shared + 0.05 * rng.normal(size=8), "worse": 1.5 + shared}
    assert surely_best("default", errors) == "better"
    assert surely_best("default", {name: few[:2] for name, few in errors.items()}) == "default"


class TestOfAStudy:
    made = study(simulate_responses(12, 300, rng=np.random.default_rng(2), misfit=1.0), seed=0)
    outcomes = made.outcomes(30)

    def test_tries_what_the_data_allow(self):
        assert set(self.outcomes) == {"stratified", "kd", "mixed", "irt-clusters", "correctness-clusters"}
        embedded = study(self.made.responses, seed=0, embeddings=np.random.default_rng(0).normal(size=(300, 4)))
        assert "representation-clusters" in embedded.outcomes(30)

    def test_leaves_out_the_fold_it_is_asked_to(self):
        """A rival that is far better in one fold, and nowhere else, is not chosen for that fold by its own answers."""
        outcome = self.outcomes["kd"]
        found = chosen_estimator(outcome, parents_known=False, without=0)
        outcome.deviations["core"][outcome.fold_of == 0] += 10.0
        try:
            assert chosen_estimator(outcome, parents_known=False, without=0) == found
        finally:
            outcome.deviations["core"][outcome.fold_of == 0] -= 10.0

    def test_choosing_errs_as_the_folds_that_did_not_choose_show(self):
        found = honest_ratio(self.outcomes, "kd", parents_known=False, soft_known=False)
        by_hand = []
        for fold in range(6):
            outcome = self.outcomes[chosen_design(self.outcomes, "kd", without=fold)]
            name = chosen_estimator(outcome, parents_known=False, without=fold)
            here = outcome.fold_of == fold
            by_hand.append((outcome.deviations[name][here] ** 2, outcome.variances[here]))
        squares, variances = (np.concatenate(part) for part in zip(*by_hand, strict=True))
        assert found == pytest.approx(squares.mean() / variances.mean())

    def test_what_auto_stands_for_carries_that_ratio(self):
        calibration = self.made.calibration(30)
        record = calibration.provenance[CROSS_VALIDATION]
        honest = honest_ratio(self.outcomes, "kd", parents_known=False, soft_known=False)
        assert record["ratios"][record["auto"]["alone"]] >= honest
        assert resolve("auto", calibration, parents_known=False).name == record["auto"]["alone"]


def test_a_useless_default_is_left():
    """Items that one ability does not explain at all, and few anchors: core must not be kept against all evidence."""
    world = simulate_responses(24, 400, rng=np.random.default_rng(3), misfit=0.3)
    outcome = study(world, seed=0).outcome(40, "stratified")
    outcome.deviations["core"][:] *= 5.0
    assert chosen_estimator(outcome, parents_known=False) != "core"


def test_parents_make_the_default():
    family = simulate_merges(2, 6, 200, rng=np.random.default_rng(1))
    parents = family.models(["p0", "p1"])
    calibration = calibrate(family, 20, seed=0, parents=parents)
    assert calibration.anchors.method == "neyman"
    scores = dict.fromkeys(calibration.anchors.item_ids, 1.0)
    assert estimate(calibration, scores, parents=parents).method == "plog"
    assert estimate(calibration, scores).method == calibration.provenance[CROSS_VALIDATION]["auto"]["alone"]


def test_soft_scores_of_merges_and_parents_make_another_default():
    family = simulate_merges(2, 6, 200, rng=np.random.default_rng(1))
    soft = 0.2 + 0.6 * family.values
    graded = ResponseMatrix(family.values, family.model_ids, family.item_ids, soft=soft)
    for merges in (family.model_ids, family.model_ids[:4]):  # too few of them to choose by, in the second case
        calibration = calibrate(graded.models(merges), 20, seed=0, parents=graded.models(["p0", "p1"]))
        known = {"parents_known": True, "soft_known": True}
        chosen = calibration.provenance.get(CROSS_VALIDATION, {}).get("auto", {})
        assert resolve("auto", calibration, **known).name == chosen.get("parents+soft", "plog")
        assert chosen.get("parents+soft", "factor-soft") == "factor-soft"
        assert resolve("auto", calibration, parents_known=True).name == "plog"


def test_auto_reads_soft_scores_only_where_enough_of_them_are_known():
    world = soft_family(200, rng=np.random.default_rng(0), n_unrelated=8)
    calibration = calibrate(world.models(world.model_ids[:11]), 20, seed=0)
    calibration.provenance[CROSS_VALIDATION]["auto"]["alone+soft"] = "factor-soft"
    at = [world.item_ids.index(item) for item in calibration.anchors.item_ids]
    scores = {world.item_ids[j]: world.values[20, j] for j in at}
    soft = {world.item_ids[j]: world.soft[20, j] for j in at}
    assert estimate(calibration, scores, soft=soft).method == "factor-soft"
    few = dict(list(soft.items())[:5])
    assert estimate(calibration, scores, soft=few).method == calibration.provenance[CROSS_VALIDATION]["auto"]["alone"]


def test_a_choice_that_is_not_installed_any_more():
    world = simulate_responses(6, 100, rng=np.random.default_rng(0))
    calibration = calibrate(world, 10, seed=0)
    calibration.provenance[CROSS_VALIDATION]["auto"]["alone"] = "from-a-plug-in"
    assert resolve("auto", calibration, parents_known=False).name == "core"


def test_clusters_are_for_models_enough():
    """Pitfall of k-means with few models: a few large clusters, whose weights leave few anchors that count."""
    assert [default_design(n, parents_known=False) for n in (4, 12, 16)] == ["stratified", "kd", "correctness-clusters"]
    assert [default_design(n, parents_known=True) for n in (4, 12, 16)] == ["neyman", "neyman", "mixed"]
