"""Genetic algorithms, differential evolution and the NSGAs on known optima, under noise, and out of order."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from merge3_plugin.errors import ConfigError
from merge3_plugin.evolve.front import hypervolume
from merge3_plugin.evolve.optimizers import Result
from merge3_plugin.evolve.optimizers.evolution import Member
from merge3_plugin.evolve.optimizers.pymoo_search import _partitions
from merge3_plugin.evolve.optimizers.schemes import Fronts, Genetic, by_cost
from merge3_plugin.evolve.optimizers.variation import Variation
from merge3_plugin.evolve.spaces.variables import Kind, Variable, When, start

from .worlds import choices, drive, integers, made, reals, told

pytest.importorskip("pymoo")

SINGLE = ("ga", "de")
SEVERAL = ("nsga2", "nsga3")


def quadratic(x):
    """Ill-conditioned and turned, with its minimum of 0 at 0.3."""
    z = np.array([[1, 1, 0, 0], [1, -1, 0, 0], [0, 0, 1, 1], [0, 0, 1, -1]]) @ (np.asarray(x) - 0.3)
    return float(np.array([1.0, 10.0, 1.0, 10.0]) @ z**2)


def sphere(x):
    return float(((np.asarray(x) - 0.3) ** 2).mean())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", SINGLE)
def test_finds_a_known_optimum(name, seed):
    drive(optimizer := made(name, reals(4), seed, budget=800), sphere, 800)
    assert np.abs(optimizer.mean() - 0.3).max() < 0.02
    found = min(quadratic(trial.vector) for trial in drive(made(name, reals(4), seed, budget=800), quadratic, 800))
    assert found < 0.01 < 0.3 < quadratic(np.full(4, 0.5))


@pytest.mark.parametrize("name", SINGLE)
def test_finds_whole_numbers_choices_and_what_matters_under_one_of_them(name):
    """Best is choice c, where a gene of its own wants 0.8, with 7 of 9: elsewhere that gene says nothing."""
    inner = Variable("inner", 0.0, 1.0, 0.1, when=When("c0", frozenset("c")))
    variables = [*choices(1), inner, *integers(1)]
    values = {0.0: 0.5, 1.0: 0.6, 2.0: 0.0, 3.0: 0.8}

    def cost(x):
        return values[x[0]] + (abs(x[1] - 0.8) if x[0] == 2.0 else 0.0) + abs(x[2] - 7) / 9

    for seed in range(4):
        best = min(drive(made(name, variables, seed), cost, 300), key=lambda trial: cost(trial.vector)).vector
        assert best[0] == 2.0 and best[2] == 7.0 and abs(best[1] - 0.8) < 0.05


def front_of(name, problem, n_variables, objectives, budget, seed=0, **options):
    """The values of all trials, to be maximised."""
    optimizer = made(name, reals(n_variables), seed, budget=budget, objectives=objectives, options=options)
    found = []
    for _ in range(budget):
        (trial,) = optimizer.ask(1)
        found.append(problem(trial.vector))
        optimizer.tell([Result(trial.number, trial.vector, found[-1])])
    return np.array(found)


def zdt1(x):
    g = 1 + 9 * x[1:].mean()
    return (-x[0], -g * (1 - np.sqrt(x[0] / g)))


def dtlz2(x):
    g, (a, b) = ((x[2:] - 0.5) ** 2).sum(), x[:2] * np.pi / 2
    return tuple(-(1 + g) * np.array([np.cos(a) * np.cos(b), np.cos(a) * np.sin(b), np.sin(a)]))


@pytest.mark.parametrize(
    "name, problem, objectives, drawn, enough",
    [("nsga2", zdt1, 2, 0.1, 0.82), ("nsga3", dtlz2, 3, 0.6, 0.7), ("nsga2", dtlz2, 3, 0.6, 0.68)],
)
def test_fronts_reach_a_known_hypervolume(name, problem, objectives, drawn, enough):
    """Below 1.1 in each objective the whole front of ZDT1 covers 0.877, that of DTLZ2 0.807."""
    corner = np.full(objectives, -1.1)
    draws = np.random.default_rng(0).random((300, 6))
    assert hypervolume(np.array([problem(x) for x in draws]), corner) < drawn
    assert hypervolume(front_of(name, problem, 6, objectives, 1500)[-300:], corner) > enough


def test_a_population_can_hold_its_reference_directions():
    counts = {3: 21, 4: 20, 5: 15, 6: 21, 7: 7, 1: 1}  # for a default population of 24
    for objectives, count in counts.items():
        partitions = _partitions(objectives, 24, None)
        assert math.comb(partitions + objectives - 1, objectives - 1) == count


@pytest.mark.parametrize("name", SEVERAL)
def test_objectives_do_not_count_where_a_constraint_is_broken(name):
    """The less of each coordinate the better, but their sum may not fall below 1."""
    optimizer = made(name, reals(2), objectives=2, budget=600)
    sums = []
    for _ in range(600):
        (trial,) = optimizer.ask(1)
        sums.append(trial.vector.sum())
        violation = max(0.0, 1 - sums[-1])
        optimizer.tell([Result(trial.number, trial.vector, tuple(-trial.vector), violation=violation)])
    last = np.array(sums[-200:])
    assert (last >= 1).mean() > 0.5 and np.median(np.abs(last - 1)) < 0.1, "the front is where they sum to 1"


def lucky(name, reevaluate, seed=0):
    """The start, in a corner, is thought the best by far; whoever looks again sees that it is the worst."""
    optimizer = made(name, reals(4, begin=0.95), seed, budget=600, options={"reevaluate": reevaluate})
    trials = []
    while len(trials) < 600:
        (trial,) = optimizer.ask(1)
        trials.append(trial)
        luck = 10.0 if trial.number == 0 else 0.0
        optimizer.tell([told(trial, luck - sphere(trial.vector), 0.01, items=10 * (trial.level + 1))])
    return optimizer, trials


@pytest.mark.parametrize("name", SINGLE)
def test_a_lucky_elite_dies(name):
    optimizer, trials = lucky(name, 0.25)
    assert np.abs(optimizer.mean() - 0.3).max() < 0.02
    again = [trial for trial in trials if trial.level]
    assert 0.1 < len(again) / len(trials) <= 0.2, "a quarter as many as new ones"
    first = next(trial for trial in again if (trial.vector == 0.95).all())
    assert first.level == 1 and first.number < 16 + 4, "looked at again as soon as it has survived"
    assert not any((trial.vector == 0.95).all() for trial in again if trial.number > first.number)
    # Who never looks again keeps it for good.
    blind, trials = lucky(name, 0.0)
    assert not any(trial.level for trial in trials)
    assert np.abs(blind.mean() - 0.3).max() > 0.035, "a member of 16 at 0.95"


@pytest.mark.parametrize("name", SINGLE)
def test_looking_again_makes_beliefs_of_the_best_less_optimistic(name):
    def optimism(reevaluate, seed):
        optimizer, noise = made(name, reals(4), seed, options={"reevaluate": reevaluate}), np.random.default_rng(seed)
        seen = {}
        for _ in range(200):
            (trial,) = optimizer.ask(1)
            values = seen.setdefault(trial.vector.tobytes(), [])
            values.append(-sphere(trial.vector) + 0.03 * noise.standard_normal())
            optimizer.tell([told(trial, np.mean(values), 0.03**2 / len(values), items=10 * len(values))])
        best = max(seen, key=lambda vector: np.mean(seen[vector]))
        return np.mean(seen[best]) + sphere(np.frombuffer(best))

    blind, twice = (np.median([optimism(share, seed) for seed in range(8)]) for share in (0.0, 0.25))
    assert twice < 0.75 * blind


@pytest.mark.parametrize("name", SINGLE)
def test_nobody_is_asked_again_where_there_is_no_noise_or_nothing_more_to_hear(name):
    assert not any(trial.level for trial in drive(made(name, reals(3)), sphere, 200))
    # Each trial is worse than those before it: the first stay for good.
    optimizer, values, levels = made(name, reals(3)), {}, []
    for _ in range(200):
        (trial,) = optimizer.ask(1)
        levels.append(trial.level)
        value = values.setdefault(trial.vector.tobytes(), -float(trial.number))
        optimizer.tell([told(trial, value, 0.01, items=min(10 * (trial.level + 1), 20))])
    assert max(levels) == 2, "the third look brought no more items than the second: there is no fourth"


@pytest.mark.parametrize("name", SINGLE)
def test_a_later_result_on_more_items_replaces_a_members_and_one_on_fewer_does_not(name):
    def centre(items, whose=0):
        optimizer = made(name, reals(4, begin=0.95), budget=600)
        for number in range(600):
            (trial,) = optimizer.ask(1)
            value = (10.0 if number == 0 else 0.0) - sphere(trial.vector)
            optimizer.tell([told(trial, value, items=10)])
            if number == 20:  # long since told with its generation
                optimizer.tell([Result(whose, np.full(4, 0.95), (-sphere(np.full(4, 0.95)),), items=items)])
        return np.abs(optimizer.mean() - 0.3).max()

    assert centre(items=20) < 0.02 < 0.035 < centre(items=5)
    assert centre(items=20, whose=None) < 0.02, "a known point that is a member already is that member"


@pytest.mark.parametrize("name", SINGLE)
def test_a_generation_is_of_whichever_results_come_first(name):
    optimizer = made(name, reals(4), popsize=8)
    trials = optimizer.ask(20)
    learned = [optimizer.tell([told(trial, -sphere(trial.vector))]) for trial in reversed(trials)]
    assert [number for number, after in enumerate(learned) if after] == [7, 15]
    assert len(optimizer.ask(30)) == 30


@pytest.mark.parametrize("name", [*SINGLE, *SEVERAL])
def test_known_points_join_the_population_and_the_start_is_asked_unless_known(name):
    variables = reals(12)
    (trial,) = made(name, variables).ask(1)
    assert (trial.vector == start(variables)).all()

    optimizer = made(name, variables)
    optimizer.tell([Result(None, vector, (1.0,), (0.01,)) for vector in (start(variables), np.full(12, 0.123))])
    first = optimizer.ask(24)
    assert not any((trial.vector == 0.5).all() or (trial.vector == 0.123).all() for trial in first)
    optimizer.tell([told(trial, 0.0, 0.01) for trial in first])
    again = [trial.vector for trial in optimizer.ask(2)]
    assert {0.5, 0.123} == {vector[0] for vector in again}, "the best survivors, looked at again"
    children = np.array([trial.vector for trial in optimizer.ask(40) if not trial.level])
    assert np.isin(children, [0.123]).any(), "and bred from"


def test_the_better_breed_more():
    variation = Variation(reals(1), np.random.default_rng(0), 20.0)
    scheme = Genetic(variation, 15.0, by_cost, 400, np.random.default_rng(0))
    members = [Member(Result(i, np.array([x]), (x,))) for i, x in enumerate(np.linspace(0, 1, 40))]
    children = np.array([child.vector for child in scheme.breed(members)])
    assert 0.63 < children.mean() < 0.7, "the better of two draws from [0, 1] is 2/3 in the mean"


def test_of_equals_the_one_of_the_better_tie_breaker_survives():
    from pymoo.operators.survival.rank_and_crowding import RankAndCrowding

    results = [Result(i, np.zeros(1), (0.5, 0.25), tie_breaker=tie) for i, tie in enumerate((1.0, 3.0, 2.0))]
    fronts = Fronts(2, RankAndCrowding, np.random.default_rng(0))
    for judge in (fronts, by_cost):
        verdict = judge(results, 2)
        assert verdict.kept == [1, 2] and verdict.order[0] < verdict.order[1]


@pytest.mark.parametrize("name", SINGLE)
def test_a_space_that_is_small_is_asked_through_and_no_recipe_twice(name):
    """Two choices, and three numbers under one of them: four recipes."""
    under = Variable("under", 0, 2, 0, Kind.INTEGER, when=When("c0", frozenset("a")))
    optimizer = made(name, [*choices(1, 2), under])
    trials = drive(optimizer, lambda x: x[0] + x[1], 50)
    asked = sorted((x[0], x[1] if x[0] == 0 else None) for x in (trial.vector.tolist() for trial in trials))
    assert [where for where, _ in asked] == [0, 0, 0, 1] and {under for _, under in asked[:3]} == {0, 1, 2}
    assert optimizer.stop() == {"exhausted": 4}


@pytest.mark.parametrize(
    "name, settings, message",
    [
        ("ga", {"popsize": 3}, "search.popsize: ga breeds from 4 candidates or more, got 3"),
        ("de", {"budget": 15}, "at least one generation of 16 candidates, got 15"),
        ("nsga2", {"objectives": 4}, "nsga2 keeps 3 objectives apart at most, got 4; use nsga3"),
        ("nsga3", {"objectives": 3, "options": {"partitions": 6}}, "6 partitions make 28 reference directions"),
        ("ga", {"options": {"reevaluate": 0.9}}, "reevaluate: Input should be less than or equal to 0.5, got 0.9"),
        ("de", {"options": {"variant": "worst"}}, "variant: Input should be 'best' or 'rand', got 'worst'"),
        ("ga", {"options": {"eta_crosover": 3}}, "unknown key 'eta_crosover'; did you mean 'eta_crossover'?"),
    ],
)
def test_mistakes_are_one_line(name, settings, message):
    with pytest.raises(ConfigError) as raised:
        made(name, reals(3), **settings)
    assert message in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("name", [*SINGLE, *SEVERAL])
def test_without_the_extra_it_says_what_to_install(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "pymoo", None)
    with pytest.raises(
        ConfigError, match=rf"^search.optimizer: {name} needs pymoo; pip install 'merge3-plugin\[pymoo\]'$"
    ):
        made(name, reals(3))
