import numpy as np
import pytest

from merge3_plugin.evolve.confirm import BETTER, NOT_SHOWN, WORSE, Scale, judge, pooled
from merge3_plugin.evolve.surrogate import Posterior

SCALE = Scale({"a": 2.0, "b": 1.0})


def model(label, accuracy_a, accuracy_b, n=400, backwards=False):
    """Right on the first items, or on the last: two such models differ on few items, or on most."""

    def answers(accuracy):
        return {f"i{k}": float((n - 1 - k if backwards else k) < accuracy * n) for k in range(n)}

    return SCALE.confirmed(label, label, {"a": answers(accuracy_a), "b": answers(accuracy_b)})


def test_a_confirmed_model_has_its_weighted_accuracy_and_intervals_of_a_sample():
    entry = model("m", 0.6, 0.3)
    assert entry.overall == pytest.approx(0.5)
    low, high = entry.accuracies["a"].interval
    # Wilson's interval of 240 of 400.
    assert (low, high) == pytest.approx((0.5513, 0.6468), abs=2e-4)


def test_items_of_a_group_count_as_in_its_score():
    few, many = {f"few/{k}": 1.0 for k in range(50)}, {f"many/{k}": 0.0 for k in range(350)}
    scale = Scale({"a": 1.0}, {"a": {**dict.fromkeys(few, 4.0), **dict.fromkeys(many, 4 / 7)}})
    entry = scale.confirmed("m", "m", {"a": {**few, **many}})
    assert entry.overall == entry.accuracies["a"].accuracy == pytest.approx(0.5)
    other = scale.confirmed("p", "p", {"a": {**dict.fromkeys(few, 0.0), **dict.fromkeys(many, 0.0)}})
    assert judge([entry], [other], None, scale).against_parent.difference == pytest.approx(0.5)


@pytest.mark.parametrize(("accuracy", "verdict"), [(0.9, BETTER), (0.605, NOT_SHOWN), (0.3, WORSE)])
def test_the_verdict_is_against_the_best_parent(accuracy, verdict):
    parents = [model("weak", 0.1, 0.1), model("strong", 0.6, 0.6)]
    found = judge([model("best 1", accuracy, accuracy)], parents, model("uniform", 0.2, 0.2), SCALE)
    assert found.text == verdict and found.best_parent.label == "strong"
    assert found.against_parent.difference == pytest.approx(accuracy - 0.6, abs=3e-3)
    assert found.against_uniform.difference == pytest.approx(accuracy - 0.2, abs=3e-3)


def test_choosing_among_more_finalists_widens_the_interval():
    parents, winner = [model("p", 0.5, 0.5)], model("best 1", 0.55, 0.55)
    alone = judge([winner], parents, None, SCALE)
    among = judge([winner, model("best 2", 0.5, 0.5), model("mean", 0.4, 0.4)], parents, None, SCALE)
    assert among.winner.label == "best 1" and alone.against_uniform is None
    assert among.against_parent.confidence == pytest.approx(1 - 0.05 / 3)
    assert np.ptp(among.against_parent.interval) > np.ptp(alone.against_parent.interval)


def test_who_keeps_to_the_constraints_goes_before_who_is_better():
    best, second = model("best 1", 0.9, 0.1), model("best 2", 0.5, 0.5)
    parents = [model("p", 0.4, 0.4)]
    assert judge([best, second], parents, None, SCALE).winner is best
    assert judge([best, second], parents, None, SCALE, lambda m: m.accuracies["b"].accuracy > 0.3).winner is second
    assert judge([best, second], parents, None, SCALE, lambda m: False).winner is best


def test_a_winner_of_many_equals_is_seldom_called_better():
    rng, n, called = np.random.default_rng(0), 300, 0

    def noisy(label):
        return SCALE.confirmed(label, label, {"a": {f"i{k}": float(s) for k, s in enumerate(rng.random(n) < 0.5)}})

    for _ in range(300):
        verdict = judge([noisy(f"best {k}") for k in range(4)], [noisy("parent")], None, SCALE)
        called += verdict.text == BETTER
    # All are equal in truth. Each side of the joint interval may fail in 2.5 %; three standard errors above: 5.2 %.
    assert called / 300 < 0.052


def prior(*means, deviation):
    return Posterior(3.0 * np.array(means), 9.0 * deviation**2 * np.eye(len(means)))  # of the fitness: weights sum to 3


def test_what_the_search_knows_and_the_held_out_items_are_pooled():
    parents = [model("p", 0.4, 0.4)]
    finalists = [model("best 1", 0.55, 0.55), model("surrogate", 0.54, 0.54, backwards=True)]

    def winner(known, of=finalists):
        return judge(of, parents, None, SCALE, prior=known).winner.label

    assert judge(finalists, parents, None, SCALE).winner.label == "best 1"
    assert winner(prior(0.5, 0.52, deviation=0.01)) == "surrogate"
    assert winner(prior(0.5, 0.52, deviation=0.2)) == "best 1", "nothing is known"
    apart = [model("best 1", 0.65, 0.65), model("surrogate", 0.54, 0.54)]
    assert winner(prior(0.5, 0.52, deviation=0.01), apart) == "best 1", "shown to be better"


def test_more_held_out_items_count_more_and_what_all_share_does_not():
    def gain(n, shift=0.0):
        finalists = [model("a", 0.55 + shift, 0.55 + shift, n), model("b", 0.5 + shift, 0.5 + shift, n)]
        likely = pooled(finalists, prior(0.5, 0.52, deviation=0.02), SCALE)
        return likely[0] - likely[1]

    assert -0.02 < gain(100) < gain(1000) < gain(10000) < 0.05
    assert gain(10000) == pytest.approx(0.05, abs=5e-3)
    assert gain(1000, shift=0.2) == pytest.approx(gain(1000), abs=1e-3)


def test_finalists_that_answer_alike_are_told_apart_by_the_prior():
    twins = [model("a", 0.5, 0.5), model("b", 0.5, 0.5)]
    assert np.argmax(pooled(twins, prior(0.5, 0.51, deviation=0.01), SCALE)) == 1
