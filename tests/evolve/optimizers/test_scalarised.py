"""Several objectives through strategies of one."""

from __future__ import annotations

import numpy as np
import pytest

from merge3_plugin.errors import ConfigError
from merge3_plugin.evolve.front import hypervolume
from merge3_plugin.evolve.optimizers import Result, Settings, Trial, make_optimizer
from merge3_plugin.evolve.optimizers.scalarised import (
    RHO,
    LearnedAnew,
    Scalarisation,
    Scalarised,
    make_scalarised,
)
from merge3_plugin.evolve.spaces.variables import Variable

N = 4


def bent_inwards(x):
    """Fonseca and Fleming's two objectives, maximised: exp(-1) each in the middle, about 1 and 0 at the extremes."""
    peak = 1 / np.sqrt(N)
    return float(np.exp(-np.sum((x - peak) ** 2))), float(np.exp(-np.sum((x + peak) ** 2)))


def made(scalarisation, seed, budget=300, name="cma-es"):
    variables = [Variable(f"x{i}", -2.0, 2.0, 0.5) for i in range(N)]
    rng, first, settings = np.random.default_rng(seed), np.full(N, 0.5), Settings(budget, popsize=8)
    if scalarisation == "sum":
        return make_optimizer(name, variables, first, settings, rng)
    several = Settings(budget, popsize=8, objectives=2)
    return make_scalarised(scalarisation, name, variables, first, several, rng)


def search(optimizer, budget, *, summed=False):
    """The vectors and the values of all trials."""
    vectors, found = [], []
    for _ in range(budget):
        (trial,) = optimizer.ask(1)
        values = bent_inwards(trial.vector)
        vectors.append(trial.vector)
        found.append(values)
        optimizer.tell([Result(trial.number, trial.vector, (sum(values),) if summed else values)])
    return np.array(vectors), np.array(found)


class Recorder:
    """A strategy that keeps what it is told, and learns when ``generation`` results of trials are there."""

    def __init__(self, generation=1):
        self.told, self._generation, self._asked, self._new = [], generation, 0, 0

    def ask(self, n):
        self._asked += n
        return [Trial(i, np.array([float(i)])) for i in range(self._asked - n, self._asked)]

    def tell(self, results):
        self.told.append(list(results))
        self._new += sum(result.trial is not None for result in results)
        learned, self._new = self._new >= self._generation, self._new % self._generation
        return learned

    def mean(self):
        return np.zeros(1)

    def stop(self):
        return {}


def scalarisation(kind, objectives=2, seed=0):
    return Scalarisation(kind, objectives, np.random.default_rng(seed))


def result(*values, trial=None, **more):
    return Result(trial, np.zeros(1), values, **more)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_parego_reaches_the_middle_of_a_front_where_the_sum_cannot_stay(seed):
    _, summed = search(made("sum", seed), 300, summed=True)
    _, parego = search(made("parego", seed), 300)
    # Both begin between the two; the sum has left for an extreme, ParEGO goes along the whole front.
    assert summed[100:].min(axis=1).max() < 0.1 and parego[100:].min(axis=1).max() > 0.28
    reference = np.zeros(2)
    assert hypervolume(parego, reference) > 1.4 * hypervolume(summed, reference)


def test_weights_exist_for_each_point_in_parego_and_for_the_extremes_alone_in_the_sum():
    bent = [result(1 - t, t - 0.4 * t * (1 - t)) for t in np.linspace(0, 1, 9)]
    chosen = {}
    for kind in ("parego", "random"):
        one = scalarisation(kind)
        one.seen(bent)
        chosen[kind] = set()
        for _ in range(400):
            one.redraw()
            chosen[kind].add(int(np.argmax([one.one(point).values[0] for point in bent])))
    assert chosen == {"parego": set(range(9)), "random": {0, 8}}


def test_the_value_is_the_regret_in_shares_of_the_range_that_was_seen():
    for kind in ("parego", "random"):
        one = scalarisation(kind)
        one.seen([result(0.2, -30.0), result(0.6, -10.0), Result(0, np.zeros(1), None)])
        one.redraw()
        first, second = one.weights * [0.1 / 0.4, 15.0 / 20.0]
        expected = first + second if kind == "random" else max(first, second) + RHO * (first + second)
        assert one.one(result(0.5, -25.0)).values == (pytest.approx(-expected),)


def test_weights_are_drawn_uniformly_from_the_simplex():
    one, drawn = scalarisation("random", objectives=3), []
    for _ in range(4000):
        one.redraw()
        drawn.append(one.weights)
    # Dirichlet(1, 1, 1): mean 1/3, variance 1/18, and P(a weight > t) = (1 - t)^2.
    assert np.allclose(np.sum(drawn, axis=1), 1)
    assert np.allclose(np.mean(drawn, axis=0), 1 / 3, atol=0.015)
    assert np.allclose(np.var(drawn, axis=0), 1 / 18, atol=0.005)
    assert np.allclose(np.mean(np.array(drawn) > 0.5, axis=0), 0.25, atol=0.03)


@pytest.mark.parametrize("kind", ["parego", "random"])
def test_the_variance_is_that_of_noisy_values(kind):
    one = scalarisation(kind)
    one.seen([result(0.2, 0.1), result(0.6, 0.9)])
    one.redraw()
    variances = (0.001**2, 0.003**2)
    noise = np.random.default_rng(1).standard_normal((20_000, 2)) * np.sqrt(variances)
    # Far from the edge where another objective becomes the worst.
    noisy = [one.one(result(0.3 + a, 0.85 + b)).values[0] for a, b in noise]
    assert one.one(result(0.3, 0.85, variances=variances)).variances[0] == pytest.approx(np.var(noisy), rel=0.05)
    apart = [one.one(result(0.3, 0.85, disagreements=tuple(pair))).disagreements[0] for pair in noise[:2000]]
    assert apart == pytest.approx(np.array(noisy[:2000]) - one.one(result(0.3, 0.85)).values[0], abs=1e-9)


def test_all_else_of_a_result_stays_and_failures_stay_failures():
    one = scalarisation("parego")
    before = result(0.1, 0.2, trial=7, violation=0.3, tie_breaker=0.4, items=5, cost=2)
    after = one.one(before)
    kept = ("trial", "violation", "tie_breaker", "items", "cost", "vector")
    assert [getattr(after, name) for name in kept] == [getattr(before, name) for name in kept]
    assert one.one(Result(3, np.zeros(1), None)).values is None


def test_what_is_known_beforehand_is_told_at_the_first_trial_on_the_range_of_all():
    inner = Recorder()
    optimizer = Scalarised(inner, scalarisation("random"))
    for values in ((0.2, -30.0), (0.6, -30.0), (0.6, -10.0)):
        assert not optimizer.tell([result(*values)])
    assert inner.told == []
    optimizer.ask(1)
    (known,) = inner.told
    worst, between, best = (r.values[0] for r in known)
    assert worst == pytest.approx(-1) and best == 0 and -1 < between < 0


def test_weights_hold_for_a_generation_and_change_after_it():
    inner = Recorder(generation=4)
    optimizer = Scalarised(inner, scalarisation("random"))
    optimizer.tell([result(0.0, 0.0), result(1.0, 1.0)])
    learned = []
    for _ in range(12):
        (trial,) = optimizer.ask(1)
        learned.append(optimizer.tell([result(0.5, 1.0, trial=trial.number)]))
    assert learned == [False, False, False, True] * 3
    weights = [told[0].values[0] for told in inner.told[1:]]
    generations = [set(weights[i : i + 4]) for i in (0, 4, 8)]
    assert [len(of) for of in generations] == [1, 1, 1] and len(set.union(*generations)) == 3


def test_a_strategy_that_learns_anew_is_told_everything_under_one_weighting():
    made = []

    def make():
        made.append(Recorder())
        return made[-1]

    optimizer = LearnedAnew(make, scalarisation("parego"))
    assert optimizer.tell([result(0.0, 1.0), result(1.0, 0.0)])
    numbers = []
    for i in range(4):
        trials = optimizer.ask(2)
        numbers += [trial.number for trial in trials]
        optimizer.tell([result(0.1 * i, 0.5, trial=trials[0].number)])
    assert not optimizer.tell([Result(numbers[-1], np.zeros(1), None)])
    optimizer.tell([result(0.9, 0.9, trial=numbers[0], items=100)])
    optimizer.ask(1)
    assert numbers == list(range(8))
    (told,) = made[-1].told
    # Two points known beforehand, four results, of which the first was told again, and a failure.
    assert [r.trial for r in told] == [None] * 7
    assert [r.items for r in told] == [0, 0, 100, 0, 0, 0, 0] and told[-1].values is None
    replayed = [r.values for r in told if r.values is not None]
    fresh = [of.told[0][0].values for of in made if of.told]
    assert len(set(fresh)) == len(fresh), "each time other weights"
    assert max(replayed) > min(replayed)


def test_tpe_learns_from_all_trials_under_each_weighting():
    pytest.importorskip("optuna")
    vectors, parego = search(made("parego", 0, 80, "tpe"), 80)
    again, _ = search(made("parego", 0, 80, "tpe"), 80)
    _, drawn = search(made("sum", 0, 80, "random"), 80, summed=True)
    assert (vectors == again).all()
    assert (vectors == 0.5).all(axis=1).sum() == 1, "what was told anew is not asked anew"
    assert hypervolume(parego, np.zeros(2)) > 1.5 * hypervolume(drawn, np.zeros(2))


def test_the_same_sequence_gives_the_same_trials_and_leaves_the_global_generator_alone():
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    first, second, other = (search(made("parego", seed), 40)[0] for seed in (5, 5, 6))
    assert (first == second).all() and (first != other).any()
    assert (np.random.get_state()[1] == before).all()


def test_a_strategy_of_unknown_name_is_refused():
    with pytest.raises(ConfigError, match="cma-ess"):
        make_scalarised("parego", "cma-ess", [], np.zeros(0), Settings(9, objectives=2), np.random.default_rng(0))
