"""Floors under tasks: where they lie, how far they are broken, and whether they hold on the held-out items."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from merge3_plugin.config import parse_config
from merge3_plugin.errors import ConfigError
from merge3_plugin.estimate.design import sample_mean
from merge3_plugin.estimate.paired import paired_difference
from merge3_plugin.evolve.confirm import Confirmed
from merge3_plugin.evolve.constraints import Floor, check_constraints, feasible, floors, kept, violation
from merge3_plugin.evolve.front_files import described

PARENTS = {"one": "org/one", "two": "org/two", "base": "org/base"}
ACCURACY = {"one": 0.6, "two": 0.7, "base": 0.5}


def config(*constraints, base="org/base"):
    genome = {"models": ["org/one", "org/two"], "merge_method": "linear", "base_model": base}
    return parse_config({"genome": genome, "tasks": ["a", "b"], "merge3": {"constraints": list(constraints)}})


def floors_of(*constraints, base="org/base"):
    parents = PARENTS if base else {label: name for label, name in PARENTS.items() if label != "base"}
    return floors(config(*constraints, base=base), parents, lambda label, task: ACCURACY[label] - 0.2 * (task == "a"))


def model(label, **right):
    """A confirmed model with so many right answers, the first ones, of 100 in each task."""
    answers = {task: {f"i{i}": float(i < n) for i in range(100)} for task, n in right.items()}
    accuracies = {t: sample_mean(np.array(list(of.values())), sys.maxsize, method="m") for t, of in answers.items()}
    return Confirmed(label, label, answers, accuracies, 0.0)


def test_a_floor_is_a_parents_exact_accuracy_less_the_fall_or_set_by_hand():
    found = floors_of(
        {"task": "b", "fall": 0.01}, {"task": "a", "fall": 0.1, "below": "org/one"}, {"task": "a", "at_least": 0.25}
    )
    assert [(f.task, f.below, f.fall) for f in found] == [("b", "base", 0.01), ("a", "one", 0.1), ("a", None, 0.0)]
    assert [f.accuracy for f in found] == pytest.approx([0.49, 0.3, 0.25])


def test_without_a_base_model_it_is_the_parent_that_is_best_there():
    (found,) = floors_of({"task": "b", "fall": 0.02}, base=None)
    assert (found.below, found.accuracy) == ("two", pytest.approx(0.68))


def test_the_violation_is_how_far_estimates_lie_below_in_all():
    limits = [Floor("a", 0.5), Floor("b", 0.4), Floor("b", 0.3)]
    assert violation(limits, {"a": 0.5, "b": 0.4}) == 0.0
    assert violation(limits, {"a": 0.9, "b": 0.25}) == pytest.approx(0.2)
    assert violation(limits, {"a": 0.45, "b": 0.35}) == pytest.approx(0.1)


def test_on_held_out_items_it_is_against_the_parent_there_pair_by_pair():
    base, limits = model("base", b=50), [Floor("b", 0.9, "base", 0.05)]
    found = {n: kept(limits, model("m", b=n), [model("other", b=99), base])[0] for n in (30, 44, 45, 46, 60)}
    assert [f.holds for f in found.values()] == [False, False, True, True, True]
    assert [f.shown for f in found.values()] == [True, False, False, False, True]
    for n, one in found.items():
        assert one.floor == pytest.approx(0.45) and one.accuracy.accuracy == n / 100
        pair = paired_difference({"b": model("m", b=n).answers["b"]}, {"b": base.answers["b"]}, weights={"b": 1})
        assert one.difference == pair


def test_a_floor_set_by_hand_is_held_against_the_accuracys_own_interval():
    limits = [Floor("b", 0.5)]
    found = [kept(limits, model("m", b=n), [])[0] for n in (30, 49, 50, 70)]
    assert [(f.holds, f.shown) for f in found] == [(False, True), (False, False), (True, False), (True, True)]
    assert all(f.difference is None and f.floor == 0.5 for f in found)


def test_a_model_is_feasible_where_all_hold():
    base, limits = model("base", a=50, b=50), [Floor("a", 0.9, "base", 0.0), Floor("b", 0.1)]
    assert feasible(limits, model("m", a=50, b=10), [base])
    assert not feasible(limits, model("m", a=49, b=90), [base])
    assert not feasible(limits, model("m", a=90, b=9), [base])
    assert feasible([], model("m", a=0), [])


def test_parents_that_break_a_constraint_do_not_count_in_the_volume_that_a_front_is_compared_with():
    parents = {"one": model("one", a=80, b=30), "two": model("two", a=50, b=40)}
    tasks = [SimpleNamespace(name=n, weight=1.0, population=SimpleNamespace(held_out=())) for n in "ab"]
    benchmarks = dict.fromkeys("ab", SimpleNamespace(balance_of=lambda items: None))
    setting = SimpleNamespace(parents=parents, benchmarks=benchmarks, config=config())
    found = SimpleNamespace(models=parents, front={}, candidates={})
    for limits, volume in (([], 0.8 * 0.3 + 0.5 * 0.1), ([Floor("b", 0.35)], 0.5 * 0.4), ([Floor("b", 0.5)], 0.0)):
        objectives = SimpleNamespace(items=tasks, signs={"a": 1.0, "b": 1.0}, floors=limits)
        assert described(setting, objectives, found)["hypervolume"]["parents"] == pytest.approx(volume)


@pytest.mark.parametrize(
    ("constraint", "words"),
    [
        ({"task": "b", "fall": 0.01, "below": "org/on"}, "got 'org/on'; did you mean 'org/one'"),
        ({"task": "a", "at_least": 0.2}, "'a' is a metric of the whole set"),
    ],
)
def test_a_constraint_that_cannot_be_met_or_shown_is_refused(constraint, words):
    with pytest.raises(ConfigError, match=words) as caught:
        check_constraints(config(constraint), ["a"])
    assert "\n" not in str(caught.value)
    check_constraints(config({"task": "b", "fall": 0.01, "below": "org/one"}), ["a"])


@pytest.mark.parametrize(
    "constraint", [{"at_least": 40}, {"fall": 1}, {"fall": -0.1}, {}, {"at_least": 0.4, "fall": 0}]
)
def test_points_instead_of_shares_are_refused(constraint):
    with pytest.raises(ConfigError, match="merge3.constraints"):
        config({"task": "a", **constraint})
