"""What a candidate is worth by task and as one figure, and which objectives, strategies and weights go together."""

from __future__ import annotations

import math

import numpy as np
import pytest

from merge3_plugin.calibrate import build_calibration
from merge3_plugin.config import parse_config
from merge3_plugin.errors import ConfigError, DataError
from merge3_plugin.evolve.constraints import Floor, check_constraints
from merge3_plugin.evolve.objectives import Objective, Objectives, check_objectives, several_objectives
from merge3_plugin.evolve.population import Population
from merge3_plugin.evolve.setup import Flags, rehearse
from merge3_plugin.extract.anchors import select_anchors
from merge3_plugin.harness.scoring import Scores
from merge3_plugin.testing import simulate_merges


@pytest.fixture(scope="module")
def calibrated():
    """A calibration of simulated merges, the parents' answers, and those of a merge on the anchors."""
    world = simulate_merges(2, 8, 120, rng=np.random.default_rng(0))
    parents = world.models(["p0", "p1"])
    calibration = build_calibration(world.models([f"m{m}" for m in range(7)]), 40, seed=0, parents=parents)
    answers = world.models(["m7"]).values[0]
    right = {calibration.item_ids[j]: float(answers[j]) for j in calibration.anchor_positions()}
    return calibration, parents, Scores(right, {})


def objectives_of(calibrated, weights, whole=(), floors=()):
    calibration, parents, _ = calibrated
    population = Population(calibration.item_ids, ())
    items = [Objective(name, w, population, calibration, parents, "gp-irt") for name, w in weights.items()]
    return Objectives(items, dict(whole), {name: name for name in weights}, floors)


def assessed(calibrated, weights, whole=(), floors=(), values=()):
    return objectives_of(calibrated, weights, whole, floors).assess(
        {name: calibrated[2] for name in weights}, dict(values)
    )


def test_each_task_is_a_value_of_its_own_with_the_sign_of_its_weight(calibrated):
    weights = {"up": 2.0, "down": -0.5, "beside": 0.0}
    found = assessed(calibrated, weights, {"ppl": -0.01}, values={"ppl": 12.5})
    accuracy, error = (getattr(found.estimates["up"], name) for name in ("accuracy", "standard_error"))
    assert found.values == (accuracy, -accuracy, -12.5)
    assert found.variances == (error**2, error**2, 0.0)
    assert found.fitness == pytest.approx(1.5 * accuracy - 0.125)
    assert "beside" in found.estimates and found.violation == 0.0


def test_halves_disagree_as_errors_do_among_candidates_of_the_same_items():
    """Their variance is that of the errors beside each other, of which what errs alike for all is no part."""
    world = simulate_merges(2, 24, 400, rng=np.random.default_rng(3))
    parents, merges = world.models(["p0", "p1"]), [f"m{m}" for m in range(8, 24)]
    calibration = build_calibration(world.models([f"m{m}" for m in range(8)]), 40, seed=0, parents=parents)
    objective = Objective("t", 1.0, Population(calibration.item_ids, ()), calibration, parents, "mean")
    values, errors, apart = world.models(merges).values, [], []
    for draw in range(30):
        rng = np.random.default_rng(draw)
        chosen = select_anchors(calibration.responses, calibration.items, 40, method="random", rng=rng)
        here = objective.on(chosen)
        places = here.calibration.anchor_positions()
        of = [here.estimated(Scores({calibration.item_ids[j]: float(v[j]) for j in places}, {})) for v in values]
        errors.append(np.var([e.estimate.accuracy - v.mean() for e, v in zip(of, values, strict=True)], ddof=1))
        apart.append(np.var([here.disagreement(e) for e in of], ddof=1))
    assert np.mean(apart) == pytest.approx(np.mean(errors), rel=0.15)


def test_what_is_known_of_all_items_is_no_noise(calibrated):
    calibration, _, scores = calibrated
    whole = np.random.default_rng(0).integers(2, size=calibration.n_items).astype(float).tolist()
    (objective,) = objectives_of(calibrated, {"a": 1.0}).items
    everything = objective.estimated(Scores(dict(zip(calibration.item_ids, whole, strict=True)), {}))
    assert objective.disagreement(everything) == 0.0 != objective.disagreement(objective.estimated(scores))


def test_disagreements_are_weighed_as_values_are(calibrated):
    weights = {"up": 2.0, "down": -0.5, "beside": 0.0}
    objectives = objectives_of(calibrated, weights, {"ppl": -0.01})
    found = objectives.assess({name: calibrated[2] for name in weights}, {"ppl": 12.5})
    one = objectives.items[0].disagreement(found.estimated["up"])
    assert objectives.disagreements(found, apart=True) == (one, -one, 0.0)
    assert objectives.disagreements(found, apart=False) == (pytest.approx(1.5 * one),)


def test_broken_floors_add_up_and_rank_before_fitness(calibrated):
    accuracy = assessed(calibrated, {"a": 1.0}).fitness
    floors = [Floor("a", accuracy + 0.02), Floor("b", accuracy - 0.1), Floor("b", accuracy + 0.03)]
    broken = assessed(calibrated, {"a": 1.0, "b": 0.0}, floors=floors)
    assert broken.violation == pytest.approx(0.05)
    kept = assessed(calibrated, {"a": 0.1, "b": 0.0}, floors=[Floor("a", accuracy)])
    assert kept.violation == 0.0 and kept.fitness < broken.fitness and kept.rank > broken.rank


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_metric_that_is_no_number_is_a_failure_of_the_candidate(calibrated, value):
    with pytest.raises(DataError, match=f"'ppl': expected a finite metric.*got {value}"):
        assessed(calibrated, {"a": 1.0}, {"ppl": -1.0}, values={"ppl": value})


def config(tasks=("a", "b"), **merge3):
    genome = {"models": ["m", "n"], "merge_method": "linear"}
    tasks = [{"name": name, "weight": 1.0} if isinstance(name, str) else name for name in tasks]
    return parse_config({"genome": genome, "tasks": tasks, "merge3": merge3})


def weighted(**weights):
    return [{"name": name, "weight": weight} for name, weight in weights.items()]


@pytest.mark.parametrize(
    ("search", "several"),
    [
        ({}, False),
        ({"scalarisation": "random"}, True),
        ({"optimizer": "nsga2"}, True),
        ({"optimizer": "nsga3"}, True),
        ({"optimizer": "tpe"}, False),
    ],
)
def test_who_sees_each_task(search, several):
    assert several_objectives(config(search=search)) is several
    assert not several_objectives(config(["a"], search=search))
    assert not several_objectives(config(weighted(a=1, b=0), search=search))
    assert check_objectives(config(search=search)) == []


FLOOR = [{"task": "b", "fall": 0.01}]


@pytest.mark.parametrize(
    ("tasks", "merge3", "words"),
    [
        (["a"], {"search": {"optimizer": "nsga2"}}, "nsga2 is for at least two tasks .* got a alone"),
        (weighted(a=1, b=0), {"search": {"optimizer": "nsga3"}}, "nsga3 is for at least two"),
        (["a"], {"search": {"scalarisation": "parego"}}, "scalarisation: parego is for at least two"),
        (["a", "b"], {"search": {"optimizer": "nsga2", "scalarisation": "random"}}, "nsga2 sees each task by itself"),
        (["a", "b"], {"search": {"optimizer": "de", "scalarisation": "random"}}, "de keeps values under old ones"),
        (
            ["a", "b"],
            {"search": {"optimizer": "nsga2"}, "fidelity": {"strategy": "racing"}},
            "racing gives up what is worse than one best merge, and nsga2 has a front",
        ),
        (weighted(a=1, c=1, b=0), {"search": {"optimizer": "nsga2"}}, "task b: of weight 0 it is no objective"),
    ],
)
def test_conflicts_of_objectives_and_weights_are_one_line(tasks, merge3, words):
    with pytest.raises(ConfigError, match=words) as caught:
        check_objectives(config(tasks, **merge3))
    assert "\n" not in str(caught.value)


def test_they_are_found_before_any_parent_is_read():
    with pytest.raises(ConfigError, match="at least two tasks"):
        rehearse(config(["a"], search={"optimizer": "nsga2"}), Flags())


def test_a_task_of_weight_0_may_have_a_floor_only():
    asked = config(weighted(a=1, c=1, b=0), search={"optimizer": "nsga2"}, constraints=FLOOR)
    assert check_objectives(asked) == []


@pytest.mark.parametrize("search", [{}, {"optimizer": "nsga2"}])
@pytest.mark.parametrize("asked", [{"at_least": 0.4}, {"fall": 0.01}])
def test_a_floor_under_what_the_weight_pulls_down_is_refused(search, asked):
    floor = [{"task": "b", **asked}]
    with pytest.raises(ConfigError, match=r"b has a floor and the weight -1, which rewards") as caught:
        check_constraints(config(weighted(a=1, c=1, b=-1), search=search, constraints=floor), [])
    assert "\n" not in str(caught.value)
    check_constraints(config(weighted(a=1, b=1), constraints=floor), [])


def test_weights_that_say_nothing_are_noted():
    (note,) = check_objectives(config(weighted(a=2, b=1), search={"optimizer": "nsga2"}))
    assert "whatever its weight" in note
    assert check_objectives(config(weighted(a=1, b=-1), search={"optimizer": "nsga2"})) == []
