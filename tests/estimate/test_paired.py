import numpy as np
import pytest

from merge3_plugin.errors import DataError
from merge3_plugin.estimate.paired import paired_difference


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
