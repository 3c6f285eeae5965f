import numpy as np
import pytest

from merge3_plugin.calibrate import build_calibration
from merge3_plugin.domain import AnchorSet, Calibration, ItemParameters
from merge3_plugin.errors import DataError
from merge3_plugin.estimate.base import find_estimator, gather, run_estimator
from merge3_plugin.estimate.interval import moderated
from merge3_plugin.estimate.paired import Estimated, estimated_difference, paired_difference
from merge3_plugin.testing import simulate_merges, simulate_responses


def answers(values, task="t"):
    return {task: {f"i{n}": float(v) for n, v in enumerate(values)}}


def test_by_hand():
    # 20 items, 6 right for the first only, 2 for the second only: Agresti and Min's interval for b = 6, c = 2, n = 20.
    first, second = answers([1] * 6 + [0] * 2 + [1] * 12), answers([0] * 6 + [1] * 2 + [1] * 12)
    found = paired_difference(first, second, weights={"t": 1.0})
    n, b, c = 22, 6.5, 2.5
    error = ((b + c) - (b - c) ** 2 / n) ** 0.5 / n
    assert found.difference == pytest.approx(0.2)
    assert found.standard_error == pytest.approx(error)
    assert found.interval == pytest.approx(((b - c) / n - 1.959964 * error, (b - c) / n + 1.959964 * error))


@pytest.mark.parametrize("discordance", [0.02, 0.2, 0.6])
@pytest.mark.parametrize("n_items", [50, 300])
def test_the_interval_covers(discordance, n_items):
    rng = np.random.default_rng(3)
    truth, hits, repeats = 0.3 * discordance, 0, 2000
    outcomes, chances = [(1, 0), (0, 1), (1, 1)], [0.65 * discordance, 0.35 * discordance, 1 - discordance]
    for _ in range(repeats):
        drawn = np.array(outcomes)[rng.choice(3, n_items, p=chances)]
        low, high = paired_difference(answers(drawn[:, 0]), answers(drawn[:, 1]), weights={"t": 2.0}).interval
        hits += low <= truth <= high
    # Three standard errors of a share near 0.95 over 2,000 repeats are 0.015; the small-sample interval is wider.
    assert 0.935 <= hits / repeats <= (0.965 if n_items * discordance > 20 else 1.0)


def test_tasks_count_by_their_weights():
    first = answers([1, 1, 1, 1], "a") | answers([0, 0], "b")
    second = answers([0, 0, 0, 0], "a") | answers([1, 1], "b")
    found = paired_difference(first, second, weights={"a": 3.0, "b": 1.0})
    assert found.difference == pytest.approx(0.5) and found.n_items == 6


def test_items_count_by_their_balance():
    rng = np.random.default_rng(7)
    first, second = (answers(rng.random(60) < share) for share in (0.7, 0.4))
    plain = paired_difference(first, second, weights={"t": 1.0})
    alike = paired_difference(first, second, weights={"t": 1.0}, balance={"t": {f"i{n}": 3.0 for n in range(60)}})
    assert alike.difference == pytest.approx(plain.difference) and alike.interval == pytest.approx(plain.interval)
    counts = {f"i{n}": 1.0 + 4 * (n < 12) for n in range(60)}
    found = paired_difference(first, second, weights={"t": 1.0}, balance={"t": counts})
    deltas = {item: first["t"][item] - second["t"][item] for item in counts}
    expected = sum(counts[item] * deltas[item] for item in counts) / sum(counts.values())
    assert found.difference == pytest.approx(expected) and expected != pytest.approx(plain.difference)
    assert found.standard_error > plain.standard_error, "a few items that count much know less than as many alike"


def test_the_interval_of_items_that_do_not_count_alike_covers():
    rng, hits, repeats = np.random.default_rng(6), 0, 2000
    chances = np.array([0.2, -0.1])  # of being right for the first only, less for the second only, by sub-task
    counts = np.repeat([3.0, 1.0], [60, 180])
    balance = {"t": {f"i{n}": w for n, w in enumerate(counts)}}
    truth = chances.mean()  # 60 items that count 3 each and 180 that count 1: the sub-tasks count alike
    for _ in range(repeats):
        draws = rng.random(240)
        first = np.where(counts == 3.0, draws < 0.3, draws < 0.1)
        second = np.where(counts == 3.0, draws > 0.9, draws > 0.8)
        low, high = paired_difference(answers(first), answers(second), weights={"t": 1.0}, balance=balance).interval
        hits += low <= truth <= high
    assert 0.935 <= hits / repeats <= 0.985


def test_metrics_of_the_same_items_are_no_independent_evidence():
    rng = np.random.default_rng(8)
    first, second = rng.random(100) < 0.6, rng.random(100) < 0.5
    alone = paired_difference(answers(first), answers(second), weights={"t": 1.0})
    doubled = [answers(of, "t:a") | answers(of, "t:b") for of in (first, second)]
    weights = {"t:a": 1.0, "t:b": 3.0}
    together = paired_difference(*doubled, weights=weights, same_items=dict.fromkeys(weights, "t"))
    assert together.difference == pytest.approx(alone.difference)
    assert together.standard_error == pytest.approx(alone.standard_error)
    assert paired_difference(*doubled, weights=weights).standard_error < 0.8 * alone.standard_error


def test_equal_answers_do_not_make_certainty():
    same = answers([1, 0] * 20)
    found = paired_difference(same, same, weights={"t": 1.0})
    low, high = found.interval
    assert found.difference == 0 and low == pytest.approx(-high) and 0.03 < high < 0.08
    wider = paired_difference(same, same, weights={"t": 1.0}, confidence=0.99)
    assert wider.interval[1] > high


@pytest.mark.parametrize("n", [1, 3, 50])
def test_all_discordant(n):
    found = paired_difference(answers([1] * n), answers([0] * n), weights={"t": 1.0})
    low, high = found.interval
    assert found.difference == 1 == high and low < 1 and found.standard_error > 0
    assert (low > 0) == (n > 1), "one item alone shows nothing"


def test_other_items_are_an_error():
    with pytest.raises(DataError, match="same items"):
        paired_difference(answers([1, 1]), answers([1]), weights={"t": 1.0})


def estimated(calibration, answers, estimator="mean"):
    """The answers on the anchors, and the estimate from them, as the estimator `name` makes it."""
    places = calibration.anchor_positions()
    evidence = gather(calibration, {calibration.item_ids[j]: float(answers[j]) for j in places})
    return Estimated(evidence, run_estimator(find_estimator(estimator), evidence))


def plain_calibration(responses, n_anchors, rng):
    """One whose anchors are a simple random sample; nothing was cross-validated."""
    drawn = sorted(rng.choice(responses.n_items, n_anchors, replace=False))
    anchors = AnchorSet(tuple(responses.item_ids[j] for j in drawn), np.full(n_anchors, 1 / n_anchors), "random")
    items = ItemParameters(np.ones((responses.n_items, 1)), np.zeros(responses.n_items))
    return Calibration(responses.item_ids, items, anchors, responses)


def test_a_difference_of_estimates_by_hand():
    responses = simulate_responses(2, 90, rng=np.random.default_rng(0))
    calibration = plain_calibration(responses, 20, np.random.default_rng(1))
    first, second = (estimated(calibration, row) for row in responses.values)
    found = estimated_difference({"t": first}, {"t": second}, weights={"t": 2.0})
    deltas = first.evidence.scores - second.evidence.scores
    assert found.difference == pytest.approx(deltas.mean()) and found.n_items == 20
    # Agresti and Min's half items, the finite population, and no cross-validation: the prior's ratio of 1.
    variance = ((deltas**2).sum() + 1) / 22 - (deltas.sum() / 22) ** 2
    error = (variance / 20 * (90 - 20) / (90 - 1)) ** 0.5
    assert found.standard_error == pytest.approx(error)
    half = moderated(1.0, 0).quantile * error
    assert found.interval == pytest.approx((found.difference - half, found.difference + half))


def test_tasks_and_exact_parts_add_up():
    responses = simulate_responses(2, 60, rng=np.random.default_rng(2))
    calibration = plain_calibration(responses, 15, np.random.default_rng(3))
    pair = [{name: estimated(calibration, row) for name in ("a", "b")} for row in responses.values]
    alone = estimated_difference({"a": pair[0]["a"]}, {"a": pair[1]["a"]}, weights={"a": 1.0})
    both = estimated_difference(*pair, weights={"a": 3.0, "b": 1.0}, exact=0.25)
    assert both.difference == pytest.approx(alone.difference + 0.25)
    assert both.standard_error == pytest.approx(alone.standard_error * (10 / 16) ** 0.5)
    same = estimated_difference(*pair, weights={"a": 3.0, "b": 1.0}, same_items={"a": "t", "b": "t"})
    assert same.standard_error == pytest.approx(alone.standard_error)


def test_all_items_scored_leave_nothing_to_estimate():
    responses = simulate_responses(2, 40, rng=np.random.default_rng(4))
    calibration = plain_calibration(responses, 40, np.random.default_rng(5))
    first, second = ({"t": estimated(calibration, row)} for row in responses.values)
    found = estimated_difference(first, second, weights={"t": 1.0})
    truth = responses.accuracy()[0] - responses.accuracy()[1]
    assert found.difference == pytest.approx(truth) and found.interval == (found.difference, found.difference)


def test_of_estimates_from_other_items_nothing_cancels_out():
    responses = simulate_responses(2, 400, rng=np.random.default_rng(6))
    first, second = responses.values
    truth, hits = first.mean() - second.mean(), 0
    for seed in range(200):
        calibrations = [plain_calibration(responses, 50, np.random.default_rng([seed, of])) for of in (7, 8)]
        pair = [{"t": estimated(c, row)} for c, row in zip(calibrations, (first, second), strict=True)]
        found = estimated_difference(*pair, weights={"t": 3.0})
        errors = [of["t"].estimate.standard_error for of in pair]
        assert found.standard_error == pytest.approx(np.hypot(*errors))
        hits += found.interval[0] <= truth <= found.interval[1]
    assert hits >= 0.93 * 200


def test_the_interval_of_merges_on_shared_anchors_covers():
    hits = []
    for seed in range(5):
        world = simulate_merges(3, 24, 400, rng=np.random.default_rng(seed))
        parents = world.models(["p0", "p1", "p2"])
        calibration = build_calibration(
            world.models([f"m{m}" for m in range(12)]), 40, seed=seed, parents=parents, anchors="kd"
        )
        new = world.models([f"m{m}" for m in range(12, 24)])
        found = [estimated(calibration, row, "gp-irt") for row in new.values]
        truths = new.accuracy()
        for one in range(0, 12, 2):
            pair = {"t": found[one]}, {"t": found[one + 1]}
            difference = estimated_difference(*pair, weights={"t": 1.0})
            low, high = difference.interval
            hits.append(low <= truths[one] - truths[one + 1] <= high)
    # 30 pairs, six of a world: three standard errors are 0.12, a little more as those of a world share their anchors.
    assert np.mean(hits) >= 0.83


def test_what_differs_between_the_items_cancels_out_of_relatives():
    rng = np.random.default_rng(9)
    responses = simulate_responses(2, 500, rng=rng)
    calibration = plain_calibration(responses, 100, rng)
    parent = responses.values[0]
    child = np.where(rng.random(500) < 0.1, 1 - parent, parent)
    first, second = ({"t": estimated(calibration, row)} for row in (parent, child))
    paired = estimated_difference(first, second, weights={"t": 1.0}).standard_error
    apart = np.hypot(*(of["t"].estimate.standard_error for of in (first, second)))
    assert paired < 0.6 * apart
