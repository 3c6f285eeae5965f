from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest

from merge3_plugin.api import estimate
from merge3_plugin.domain import AnchorSet, Calibration, ItemParameters, ResponseMatrix
from merge3_plugin.errors import ConfigError, DataError
from merge3_plugin.estimate.base import CROSS_VALIDATION, gather
from merge3_plugin.estimate.builtin import ESTIMATORS
from merge3_plugin.irt import fit_ability, fit_lambda, sigmoid
from tests.estimate.worlds import on_anchors, quick_calibration, row, with_anchors

PLAIN = ("mean", "weighted", "p-irt", "gp-irt", "difference", "gd", "ridge", "core")
MERGE_AWARE = ("mp-irt", "gmp-irt", "gmp-irt-half", "plog")
ALL = PLAIN + MERGE_AWARE


@pytest.fixture(scope="module")
def by_hand():
    """Four items, of which q0 and q2 are anchors of weight 3/4 and 1/4; three models; errors as if from ten."""
    items = ItemParameters(np.array([[1.0], [2.0], [0.5], [1.5]]), np.array([-1.0, 0.0, 0.5, 1.0]))
    values = np.array([[1, 1, 0, 0], [1, 0, 1, 1], [0, 1, 0, 0]], dtype=float)
    ids = ("q0", "q1", "q2", "q3")
    return Calibration(
        ids,
        items,
        AnchorSet(("q0", "q2"), np.array([0.75, 0.25]), "kd"),
        ResponseMatrix(values, ["a", "b", "c"], ids),
        errors={"p-irt": 0.1, "gp-irt": 0.08, "mp-irt": 0.06, "gmp-irt": 0.05},
        provenance={CROSS_VALIDATION: {"models": 10, "misfit": {"p-irt": 0.03, "mp-irt": 0.02}}},
    )


class TestFormulas:
    """Each estimator against its formula, written out for two answers: q0 right, q2 wrong."""

    scores = MappingProxyType({"q0": 1.0, "q2": 0.0})
    parents = ResponseMatrix([[1, 1, 0, 0], [1, 0, 1, 1]], ["a", "b"], ["q0", "q1", "q2", "q3"])

    def unseen(self, calibration, ability):
        logits = calibration.items.discrimination @ ability - calibration.items.difficulty
        return sigmoid(logits)[[1, 3]].mean()

    def trust(self, b):
        # Accuracies 1/2, 3/4 and 1/4 of the three models: v = mean of p (1 - p), over 4 n = 8.
        v = (0.25 + 0.1875 + 0.1875) / 3 / 8
        return b**2 / (b**2 + v)

    def test_means(self, by_hand):
        assert estimate(by_hand, self.scores, estimator="mean").accuracy == 0.5
        assert estimate(by_hand, self.scores, estimator="weighted").accuracy == 0.75

    def test_irt(self, by_hand):
        anchors = ItemParameters(by_hand.items.discrimination[[0, 2]], by_hand.items.difficulty[[0, 2]])
        model = 0.5 * 0.5 + 0.5 * self.unseen(by_hand, fit_ability(anchors, [1.0, 0.0]).mean)
        assert estimate(by_hand, self.scores, estimator="p-irt").accuracy == pytest.approx(model)
        c = self.trust(0.03)
        assert estimate(by_hand, self.scores, estimator="gp-irt").accuracy == pytest.approx(c * 0.75 + (1 - c) * model)

    def test_merge_aware(self, by_hand):
        anchors = ItemParameters(by_hand.items.discrimination[[0, 2]], by_hand.items.difficulty[[0, 2]])
        abilities = fit_ability(by_hand.items, self.parents.values).mean
        mix = fit_lambda(anchors, [1.0, 0.0], abilities, precision=2.0, bounds=(-np.inf, np.inf)).mean
        model = 0.5 * 0.5 + 0.5 * self.unseen(by_hand, mix @ abilities)
        found = {name: estimate(by_hand, self.scores, estimator=name, parents=self.parents) for name in MERGE_AWARE}
        c = self.trust(0.02)
        assert found["mp-irt"].accuracy == pytest.approx(model)
        assert found["gmp-irt"].accuracy == pytest.approx(c * 0.75 + (1 - c) * model)
        assert found["gmp-irt-half"].accuracy == pytest.approx((0.75 + model) / 2)

    def test_half_where_errors_are_unknown(self, by_hand):
        unknown = replace(by_hand, errors={}, provenance={})
        model = estimate(unknown, self.scores, estimator="p-irt").accuracy
        assert estimate(unknown, self.scores, estimator="gp-irt").accuracy == pytest.approx((0.75 + model) / 2)

    def test_an_item_beside_the_anchors_stands_for_itself(self, by_hand):
        # q3 counts a quarter, the anchors share the rest three to one.
        found = estimate(by_hand, {"q0": 1.0, "q2": 0.0, "q3": 1.0}, estimator="weighted")
        assert found.accuracy == pytest.approx(0.25 + 0.75 * 0.75)

    def test_no_anchor_at_all_is_a_plain_mean(self, by_hand):
        assert estimate(by_hand, {"q1": 1.0, "q3": 0.0}, estimator="weighted").accuracy == 0.5


@pytest.mark.parametrize("name", ALL)
def test_the_order_of_answers_and_items_does_not_matter(name, family, family_calibration):
    parents = family.models(["p0", "p1", "p2"])
    scores = on_anchors(family_calibration, row(family, "m9"))
    found = estimate(family_calibration, scores, estimator=name, parents=parents)
    shuffled = dict(reversed(scores.items()))
    assert estimate(family_calibration, shuffled, estimator=name, parents=parents) == found

    order = np.random.default_rng(0).permutation(family_calibration.n_items)
    ids = tuple(family_calibration.item_ids[j] for j in order)
    items = family_calibration.items
    moved = replace(
        family_calibration,
        item_ids=ids,
        items=items.take(order),
        alternatives=tuple(fit.take(order) for fit in family_calibration.alternatives),
        responses=family_calibration.responses.items(ids),
    )
    again = estimate(moved, shuffled, estimator=name, parents=parents.items(reversed(ids)))
    assert again.accuracy == pytest.approx(found.accuracy, abs=1e-9)
    assert again.interval == pytest.approx(found.interval, abs=1e-9)


def test_every_estimator_is_tried_here():
    assert {estimator.name for estimator in ESTIMATORS} == {*ALL, "factor-soft"}


@pytest.mark.parametrize("name", ALL)
def test_all_items_scored_is_exactly_the_mean(name, family, family_calibration):
    answers = row(family, "m9")
    parents = family.models(["p0", "p1", "p2"])
    found = estimate(family_calibration, answers, estimator=name, parents=parents)
    mean = np.mean(list(answers.values()))
    assert found.accuracy == mean and found.interval == (mean, mean) and found.standard_error == 0


@pytest.fixture(scope="module")
def weighted_family(family):
    """The family on a benchmark whose items count differently, and its kd anchors without cross-validation."""
    balance = np.random.default_rng(8).choice([0.5, 1.0, 3.0], family.n_items)
    world = ResponseMatrix(family.values, family.model_ids, family.item_ids, balance=balance)
    return world, quick_calibration(world.models(world.model_ids[:9]), 40)


@pytest.mark.parametrize("name", ALL)
def test_items_count_by_their_weights(name, weighted_family):
    world, calibration = weighted_family
    parents = world.models(["p0", "p1", "p2"])
    truth = world.accuracy()[world.model_ids.index("m9")]
    full = estimate(calibration, row(world, "m9"), estimator=name, parents=parents)
    assert full.accuracy == pytest.approx(truth, abs=1e-12) and full.standard_error == 0
    # All heavy items right and all light ones wrong: 40 anchors must see that heavy items count.
    heavy = {item: float(weight > 1) for item, weight in zip(world.item_ids, world.balance, strict=True)}
    share = float(world.item_weights[world.balance > 1].sum())
    found = estimate(calibration, on_anchors(calibration, heavy), estimator=name, parents=parents)
    assert abs(found.accuracy - share) < 0.15 < share - np.mean(list(heavy.values()))


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("name", ALL)
def test_a_few_anchors_give_a_wide_interval(name, n, family, family_calibration):
    few = with_anchors(family_calibration, family_calibration.anchors.item_ids[:n])
    parents = family.models(["p0", "p1", "p2"])
    for score in (0.0, 1.0):
        found = estimate(few, dict.fromkeys(few.anchors.item_ids, score), estimator=name, parents=parents)
        assert 0 <= found.interval[0] <= found.accuracy <= found.interval[1] <= 1
        assert found.interval[1] - found.interval[0] > 0.15


@pytest.mark.parametrize("name", ALL)
def test_close_to_all_items_is_close_to_the_mean(name, family, family_calibration):
    """MERGE3's first theorem, as far as it goes: what is left to guess vanishes with the items that are left."""
    answers = row(family, "m9")
    parents = family.models(["p0", "p1", "p2"])
    truth = np.mean(list(answers.values()))
    most = dict(list(answers.items())[:-8])
    found = estimate(with_anchors(family_calibration, most), most, estimator=name, parents=parents)
    assert abs(found.accuracy - truth) < 8 / 400


@pytest.mark.parametrize("name", MERGE_AWARE)
def test_what_a_parent_was_not_asked_says_nothing(name, family, family_calibration):
    scores = on_anchors(family_calibration, row(family, "m9"))
    values = family.models(["p0", "p1", "p2"]).values.copy()
    whole = estimate(family_calibration, scores, estimator=name, parents=family.models(["p0", "p1", "p2"]))
    values[1, 7:40] = np.nan
    torn = ResponseMatrix(values, ["p0", "p1", "p2"], family.item_ids)
    assert abs(estimate(family_calibration, scores, estimator=name, parents=torn).accuracy - whole.accuracy) < 0.03


@pytest.mark.parametrize("score", [0.0, 1.0])
@pytest.mark.parametrize("name", ALL)
def test_all_right_and_all_wrong_stay_finite(name, score, family, family_calibration):
    parents = family.models(["p0", "p1", "p2"])
    scores = dict.fromkeys(family_calibration.anchors.item_ids, score)
    found = estimate(family_calibration, scores, estimator=name, parents=parents)
    low, high = found.interval
    assert 0 <= low <= found.accuracy <= high <= 1 and high - low > 0.01
    assert abs(found.accuracy - score) < 0.5


@pytest.mark.parametrize("name", ALL)
def test_few_answers_widen_the_interval(name, family, family_calibration):
    parents = family.models(["p0", "p1", "p2"])
    scores = on_anchors(family_calibration, row(family, "m9"))
    some = dict(list(scores.items())[::4])
    full = estimate(family_calibration, scores, estimator=name, parents=parents)
    few = estimate(family_calibration, some, estimator=name, parents=parents)
    assert few.n_scored == 10 and few.standard_error > 1.5 * full.standard_error


def test_lambdas_are_recovered(family, family_calibration):
    """A merge's mixed ability predicts its answers as well as the ability fitted to all of them."""
    from merge3_plugin.estimate.ability import merged_probabilities

    parents = family.models(["p0", "p1", "p2"])
    answers = row(family, "m9")
    mixed = merged_probabilities(gather(family_calibration, on_anchors(family_calibration, answers), parents))
    own = sigmoid(
        fit_ability(family_calibration.items, list(answers.values())).mean @ family_calibration.items.discrimination.T
        - family_calibration.items.difficulty
    )
    assert np.abs(mixed - own).mean() < 0.06


@pytest.mark.parametrize("name", ["mp-irt", "gmp-irt", "difference"])
def test_parents_are_placed_on_the_scale_of_the_parameters(name, family, family_calibration):
    """Abilities ten times as large, as imported parameters may have them, under a prior that says so: nothing changes.

    A tenth of the parents' answers is not known, so that their abilities stand in for them.
    """
    items, answers = family_calibration.items, row(family, "m9")
    known = family.models(["p0", "p1", "p2"])
    values = np.where(np.arange(400) % 10 == 0, np.nan, known.values)
    parents = ResponseMatrix(values, known.model_ids, known.item_ids)
    spread = replace(
        family_calibration,
        items=ItemParameters(items.discrimination / 10.0, items.difficulty),
        provenance={**family_calibration.provenance, "ability_precision": 0.01},
    )
    ours, theirs = (
        estimate(made, on_anchors(made, answers), estimator=name, parents=parents).accuracy
        for made in (family_calibration, spread)
    )
    assert theirs == pytest.approx(ours, abs=1e-6)


def test_drawn_anchors_keep_their_weights_when_one_is_not_scored(weighted_family):
    """Items of more weight are drawn more often: to weigh the mean by it once more would count them twice."""
    world, calibration = weighted_family
    some = dict(list(on_anchors(calibration, row(world, "m9")).items())[1:])
    mean, weighted = (estimate(calibration, some, estimator=name).accuracy for name in ("mean", "weighted"))
    assert mean == pytest.approx(weighted)
    evidence = gather(calibration, some)
    assert abs(mean - np.average(evidence.scores, weights=evidence.item_weights[evidence.positions])) > 0.005


def test_graded_scores_are_kept(calibration, newcomer):
    halved = {item: 0.5 * score for item, score in on_anchors(calibration, newcomer).items()}
    full = estimate(calibration, on_anchors(calibration, newcomer), estimator="mean")
    assert estimate(calibration, halved, estimator="mean").accuracy == pytest.approx(full.accuracy / 2)
    assert estimate(calibration, halved, estimator="gp-irt").accuracy < 0.75 * full.accuracy


class TestBadInput:
    def test_unknown_item(self, calibration):
        with pytest.raises(DataError, match="'q999'"):
            estimate(calibration, {"q999": 1.0})

    @pytest.mark.parametrize("score", [1.2, -0.1, float("nan"), float("inf"), None, "right", [1, 0]])
    def test_bad_score(self, calibration, score):
        with pytest.raises(DataError, match=r"\[0, 1\]"):
            estimate(calibration, {"q0": score})

    def test_no_scores(self, calibration):
        with pytest.raises(DataError, match="at least one"):
            estimate(calibration, {})

    @pytest.mark.parametrize("name", MERGE_AWARE)
    def test_parents_missing(self, calibration, newcomer, name):
        with pytest.raises(DataError, match="parents"):
            estimate(calibration, on_anchors(calibration, newcomer), estimator=name)

    def test_parents_of_other_items(self, calibration, newcomer):
        parents = ResponseMatrix([[1.0, 0.0]], ["p"], ["q0", "q1"])
        with pytest.raises(DataError, match="298 "):
            estimate(calibration, on_anchors(calibration, newcomer), estimator="gmp-irt", parents=parents)

    def test_no_parents_at_all(self, calibration, newcomer):
        nobody = ResponseMatrix(np.ones((0, 300)), [], calibration.item_ids)
        with pytest.raises(DataError, match="got none"):
            estimate(calibration, on_anchors(calibration, newcomer), parents=nobody)

    def test_parents_with_holes(self, calibration, newcomer):
        values = np.ones((2, 300))
        values[1, :50] = np.nan
        parents = ResponseMatrix(values, ["whole", "torn"], calibration.item_ids)
        with pytest.raises(DataError, match="83% from 'torn'"):
            estimate(calibration, on_anchors(calibration, newcomer), parents=parents)
        values[1, :50:2] = 1.0
        nearly = ResponseMatrix(values, ["whole", "torn"], calibration.item_ids)
        assert estimate(calibration, on_anchors(calibration, newcomer), estimator="mp-irt", parents=nearly).accuracy > 0

    def test_unknown_estimator(self, calibration, newcomer):
        with pytest.raises(ConfigError, match="did you mean 'gp-irt'"):
            estimate(calibration, on_anchors(calibration, newcomer), estimator="gpirt")
