import numpy as np
import pytest

from merge3_plugin.api import calibrate, estimate
from merge3_plugin.calibrate import restrict
from merge3_plugin.domain import ResponseMatrix
from merge3_plugin.errors import ConfigError, DataError
from merge3_plugin.estimate.base import CROSS_VALIDATION
from merge3_plugin.testing import simulate_merges, simulate_responses


@pytest.fixture(scope="module")
def world():
    return simulate_responses(9, 200, rng=np.random.default_rng(0))


@pytest.fixture(scope="module")
def calibration(world):
    return calibrate(world, 20, seed=3)


def test_holds_what_estimates_need(world, calibration):
    assert calibration.item_ids == world.item_ids and len(calibration.anchors) == 20
    assert calibration.items.n_dimensions == 2 and calibration.anchors.method == "kd"
    assert set(calibration.errors) >= {"mean", "weighted", "p-irt", "gp-irt"} and "gmp-irt" not in calibration.errors
    record = calibration.provenance[CROSS_VALIDATION]
    assert record["models"] == 9 and 0 < record["misfit"]["p-irt"] < min(calibration.errors.values())
    assert record["auto"]["alone"] in calibration.errors and calibration.anchors.method in record["designs"]
    assert [fit.n_dimensions for fit in calibration.alternatives] == [1, 3]
    assert calibration.provenance["seed"] == 3
    assert calibration.provenance["models"] == list(world.model_ids)
    few = calibrate(world.models(world.model_ids[:2]), 10, seed=np.int64(3))
    assert type(few.provenance["seed"]) is int, "a file holds plain JSON"


def test_the_seed_decides_and_nothing_else_does(world, calibration):
    np.random.seed(1)
    before = np.random.get_state()[1].copy()
    again, other = calibrate(world, 20, seed=3), calibrate(world, 20, seed=4, anchors="kd")
    assert (np.random.get_state()[1] == before).all()
    assert again.anchors.item_ids == calibration.anchors.item_ids and again.errors == calibration.errors
    assert (again.items.discrimination == calibration.items.discrimination).all()
    assert other.anchors.item_ids != calibration.anchors.item_ids


@pytest.mark.parametrize("method", ["random", "stratified", "kd"])
def test_the_order_of_the_items_does_not_matter(world, method):
    shuffled = world.items(np.random.default_rng(5).permutation(world.item_ids).tolist())
    first, second = (calibrate(responses, 20, seed=3, anchors=method) for responses in (world, shuffled))
    assert set(first.anchors.item_ids) == set(second.anchors.item_ids)
    assert second.errors == pytest.approx(first.errors)


@pytest.mark.parametrize("method", ["random", "stratified", "kd"])
def test_anchors_by_name(world, method):
    assert calibrate(world.models(world.model_ids[:3]), 10, seed=0, anchors=method).anchors.method == method


def test_unequal_clusters_give_way_with_a_warning(world, caplog):
    vectors = np.random.default_rng(0).normal(size=(200, 2))
    three = world.models(world.model_ids[:3])
    given = {"seed": 0, "anchors": "representation-clusters"}
    assert calibrate(three, 6, **given, embeddings=vectors).anchors.method == "representation-clusters"
    assert "too unequally" not in caplog.text
    vectors[:5] += 100 * np.arange(1, 6)[:, None]
    found = calibrate(three, 6, **given, embeddings=vectors)
    assert found.anchors.method == "kd" and found.anchors.inclusion == pytest.approx(6 / 200)
    assert "6 of 'representation-clusters' would count too unequally" in caplog.text and "by 'kd'" in caplog.text


def test_few_models(world):
    """Three can be left out one by one; of two, no item can be fitted to the one that stays."""
    three, two = (calibrate(world.models(world.model_ids[:n]), 10, seed=0) for n in (3, 2))
    assert three.provenance[CROSS_VALIDATION]["models"] == 3 and two.errors == {}
    for few in (three, two):
        assert few.items.n_dimensions == 1 and few.anchors.method == "stratified"


def test_models_that_leave_only_constant_ones_are_not_left_out(world):
    right, nearly = np.ones(200), np.where(np.arange(200) == 3, np.nan, 1.0)
    responses = ResponseMatrix(np.vstack([right, nearly, world.values[0]]), ["a", "b", "c"], world.item_ids)
    assert calibrate(responses, 10, seed=0).provenance[CROSS_VALIDATION]["models"] == 2


def test_copies_count_as_one_model(world, calibration):
    """Else the copy left in would tell all about the one left out."""
    doubled = world.joined(ResponseMatrix(world.values[:3], ["x", "y", "z"], world.item_ids))
    found = calibrate(doubled, 20, seed=3)
    assert found.responses.model_ids == world.model_ids and found.errors == calibration.errors
    pair = ResponseMatrix(world.values[[0, 0]], ["a", "b"], world.item_ids)
    assert calibrate(pair, 20, seed=0).responses.n_models == 2


def test_as_many_anchors_as_items(world):
    everything = calibrate(world.models(world.model_ids[:6]), 1000, seed=0)
    assert sorted(everything.anchors.item_ids) == sorted(world.item_ids)
    answers = dict(zip(world.item_ids, world.values[8], strict=True))
    found = estimate(everything, answers, estimator="gp-irt")
    assert found.accuracy == world.values[8].mean() and found.interval == (found.accuracy, found.accuracy)
    some = estimate(everything, dict(list(answers.items())[:50]), estimator="gp-irt")
    assert some.interval[0] < some.accuracy < some.interval[1]


class TestParents:
    family = simulate_merges(3, 6, 200, rng=np.random.default_rng(1))
    parents = family.models(["p0", "p1", "p2"])

    def test_only_merges_are_left_out(self):
        calibration = calibrate(self.family, 20, seed=0, parents=self.parents)
        assert calibration.provenance[CROSS_VALIDATION]["models"] == 6
        assert calibration.provenance["parents"] == ["p0", "p1", "p2"]
        assert {"mp-irt", "gmp-irt"} <= set(calibration.errors)

    def test_absent_ones_join_the_responses(self):
        merges = self.family.models(self.family.model_ids[3:])
        calibration = calibrate(merges, 20, seed=0, parents=self.parents.items(reversed(self.parents.item_ids)))
        assert calibration.responses.model_ids == (*merges.model_ids, "p0", "p1", "p2")
        assert (calibration.responses.values[6:] == self.parents.values).all()

    def test_parents_alone_are_enough(self):
        calibration = calibrate(self.parents, 20, seed=0, parents=self.parents)
        scores = dict.fromkeys(calibration.anchors.item_ids, 1.0)
        found = estimate(calibration, scores, parents=self.parents)
        assert found.method == "plog" and found.interval[1] - found.interval[0] > 0.1

    def test_of_other_items(self):
        with pytest.raises(DataError, match="parents"):
            calibrate(self.family, 20, seed=0, parents=self.parents.items(self.parents.item_ids[:100]))


def test_unanswered_cells(world):
    values = np.array(world.values)
    values[np.random.default_rng(0).random(values.shape) < 0.05] = np.nan
    values[0, 20:] = np.nan
    torn = ResponseMatrix(values, world.model_ids, world.item_ids)
    calibration = calibrate(torn, 20, seed=3)
    assert calibration.provenance[CROSS_VALIDATION]["models"] == 8, (
        "the model that answered a tenth has no known accuracy"
    )
    assert all(np.isfinite(error) and 0 < error < 0.5 for error in calibration.errors.values())


def test_a_model_that_answered_none_of_the_drawn_anchors(world):
    values = np.array(world.values)
    values[np.random.default_rng(0).random(values.shape) < 0.05] = np.nan
    calibration = calibrate(ResponseMatrix(values, world.model_ids, world.item_ids), 1, seed=0)
    assert calibration.provenance[CROSS_VALIDATION]["models"] == 9
    assert all(0 < error < 1 for error in calibration.errors.values())


class TestRestrict:
    def test_is_the_calibration_of_those_items(self, calibration, world):
        keep = [i for i in reversed(world.item_ids) if i in calibration.anchors.item_ids or int(i[1:]) % 2]
        part = restrict(calibration, keep)
        assert set(part.item_ids) == set(keep) and part.errors == calibration.errors
        answers = dict(zip(world.item_ids, world.values[4], strict=True))
        whole = estimate(part, {item: answers[item] for item in keep})
        assert whole.accuracy == pytest.approx(np.mean([answers[item] for item in keep]))
        j, k = part.item_ids.index(keep[0]), calibration.item_ids.index(keep[0])
        assert part.items.difficulty[j] == calibration.items.difficulty[k]
        assert (part.responses.values[:, j] == calibration.responses.values[:, k]).all()

    def test_must_keep_the_anchors(self, calibration):
        lost = calibration.anchors.item_ids[0]
        with pytest.raises(DataError, match=f"'{lost}'"):
            restrict(calibration, [item for item in calibration.item_ids if item != lost])

    def test_unknown_item(self, calibration):
        with pytest.raises(DataError, match="'elsewhere'"):
            restrict(calibration, [*calibration.item_ids, "elsewhere"])


class TestBadInput:
    def refuses(self, values, match, n_anchors=2, **options):
        values = np.array(values, dtype=float)
        models, items = [f"m{m}" for m in range(values.shape[0])], [f"q{j}" for j in range(values.shape[1])]
        with pytest.raises(DataError, match=match) as caught:
            calibrate(ResponseMatrix(values, models, items), n_anchors, seed=0, **options)
        assert "\n" not in str(caught.value)

    def test_empty(self):
        self.refuses(np.zeros((0, 5)), "shape")
        self.refuses(np.zeros((3, 0)), "shape")

    def test_single_model(self):
        self.refuses([[1, 0, 1]], "at least 2 models")

    @pytest.mark.parametrize("value", [0.0, 1.0, 0.5])
    def test_constant(self, value):
        self.refuses(np.full((3, 4), value), "right and wrong")

    def test_silent_model(self):
        self.refuses([[1, 0, 1], [np.nan] * 3, [0, 1, 1]], "none from 'm1'")

    @pytest.mark.parametrize("n", [0, -3, 2.5])
    def test_no_anchors(self, n):
        self.refuses([[1, 0, 1], [0, 0, 1]], "at least 1", n_anchors=n)

    @pytest.mark.parametrize("seed", [-1, None, 0.5])
    def test_no_seed(self, world, seed):
        with pytest.raises(ConfigError, match="seed"):
            calibrate(world, 10, seed=seed)

    def test_unknown_method(self, world):
        with pytest.raises(ConfigError, match="stratified"):
            calibrate(world, 10, seed=0, anchors="stratifed")
