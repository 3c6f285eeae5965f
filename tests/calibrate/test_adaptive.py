"""Adaptive tests of models that the calibration has not seen: their error, their end, and how sure they are then."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from merge3_plugin import api, irt
from merge3_plugin.calibrate.adaptive import EXHAUSTED, REACHED, SPENT, make_plan, simulated_parents
from merge3_plugin.domain import AnchorSet, Calibration, ItemParameters, ResponseMatrix
from merge3_plugin.errors import ConfigError, DataError
from merge3_plugin.estimate.adaptive import Policy
from merge3_plugin.extract.fit import fit_items
from merge3_plugin.testing import simulate_merges, simulate_responses

NEWCOMERS = 40
WORLDS = 2
CHEMBENCH = Path(__file__).parents[3] / "shared" / "data" / "responses_chembench.npz"


def make_calibration(responses: ResponseMatrix, parents: tuple[str, ...] = ()) -> Calibration:
    """Items fitted to these responses, and as little else as an adaptive test reads."""
    items, _ = fit_items(responses, 2 if responses.n_models >= 5 else 1)
    anchors = AnchorSet(responses.item_ids, np.full(responses.n_items, 1 / responses.n_items), "all")
    return Calibration(responses.item_ids, items, anchors, responses, provenance={"parents": list(parents)})


def split(world: ResponseMatrix, n_models: int) -> tuple[Calibration, list[dict[str, float]]]:
    calibration = make_calibration(world.models(world.model_ids[:n_models]))
    return calibration, [dict(zip(world.item_ids, row, strict=True)) for row in world.values[n_models:]]


def asking(answers: dict[str, float], asked: list[list[str]] | None = None):
    def ask(items):
        if asked is not None:
            asked.append(list(items))
        return {item: answers[item] for item in items}

    return ask


@pytest.fixture(scope="module")
def world() -> tuple[Calibration, list[dict[str, float]]]:
    return split(simulate_responses(24 + NEWCOMERS, 150, rng=np.random.default_rng(0)), 24)


def test_a_test_ends_at_the_wanted_error(world):
    calibration, newcomers = world
    asked: list[list[str]] = []
    result = api.adaptive(calibration, asking(newcomers[0], asked), standard_error=0.05, seed=0)
    assert result.stopped == REACHED and result.estimate.standard_error <= 0.05
    assert [len(batch) for batch in asked] == [8] * len(asked) and [item for batch in asked for item in batch] == list(
        result.order
    )
    assert len(set(result.order)) == len(result.order) == result.estimate.n_scored < 150
    assert [step.n_items for step in result.steps] == [8 * k for k in range(1, len(asked) + 1)]
    assert all(step.standard_error > 0.05 for step in result.steps[:-1])
    assert result.steps[-1].accuracy == result.estimate.accuracy and result.estimate.method == "merge3_adaptive"


def test_a_budget_that_does_not_suffice_says_what_was_reached(world):
    calibration, newcomers = world
    result = api.adaptive(calibration, asking(newcomers[1]), standard_error=0.01, budget=20, seed=0, batch=12)
    assert result.stopped == SPENT and [step.n_items for step in result.steps] == [12, 20]
    assert 0.01 < result.estimate.standard_error == result.steps[-1].standard_error


@pytest.mark.parametrize("balanced", [False, True])
def test_all_items_give_the_exact_mean(balanced):
    world = simulate_responses(9, 24, rng=np.random.default_rng(1))
    balance = np.random.default_rng(2).uniform(0.5, 2, 24) if balanced else np.ones(24)
    world = ResponseMatrix(world.values, world.model_ids, world.item_ids, balance=balance)
    calibration, (answers, *_) = split(world, 8)
    result = api.adaptive(calibration, asking(answers), budget=100, seed=0)
    assert result.stopped == EXHAUSTED and sorted(result.order) == sorted(world.item_ids)
    truth = float(world.item_weights @ world.values[8])
    assert result.estimate.accuracy == pytest.approx(truth, abs=1e-12)
    assert result.estimate.interval == pytest.approx((truth, truth)) and result.estimate.standard_error == 0


def test_the_order_of_models_and_items_changes_nothing(world):
    calibration, newcomers = world
    responses, rng = calibration.responses, np.random.default_rng(3)
    shuffled = responses.items(rng.permutation(responses.item_ids)).models(rng.permutation(responses.model_ids))
    first, second = (
        api.adaptive(one, asking(newcomers[2]), budget=16, seed=5) for one in (calibration, make_calibration(shuffled))
    )
    assert first.order == second.order and first.policy == second.policy
    assert first.estimate.accuracy == pytest.approx(second.estimate.accuracy, abs=1e-6)
    again = api.adaptive(calibration, asking(newcomers[2]), budget=16, seed=6)
    assert again.order != first.order


def test_adaptive_tests_beat_random_samples_and_never_report_their_raw_mean():
    """60 calibration models, 40 items: mean absolute error over 80 models of two worlds."""
    errors, raw, random = [], [], []
    for seed in range(WORLDS):
        calibration, newcomers = split(simulate_responses(60 + NEWCOMERS, 150, rng=np.random.default_rng(seed)), 60)
        for answers in newcomers:
            result = api.adaptive(calibration, asking(answers), budget=40, seed=seed)
            truth = np.mean(list(answers.values()))
            errors.append(abs(result.estimate.accuracy - truth))
            raw.append(abs(np.mean([answers[item] for item in result.order]) - truth))
            random.append(np.sqrt(2 / np.pi * truth * (1 - truth) / 40 * 110 / 149))
    assert np.mean(errors) < 0.8 * np.mean(random)
    assert np.mean(errors) < 0.8 * np.mean(raw)


@pytest.mark.parametrize(
    ("n_models", "standard_error", "odd"),
    [
        (16, 0.05, {}),
        (16, 0.05, {"misfit": 1.5, "outliers": 1}),
        (12, 0.05, {"guessing": 0.25, "drift": 0.2}),
        (3, 0.06, {"misfit": 1.0}),
    ],
)
def test_intervals_cover_where_tests_stop(n_models, standard_error, odd):
    """The stopping rule must not pick the moments at which the error looks small. Two worlds of 40 models each."""
    held, sizes = np.zeros((WORLDS, NEWCOMERS)), []
    for seed in range(WORLDS):
        world = simulate_responses(n_models + NEWCOMERS, 150, rng=np.random.default_rng(20 + seed), **odd)
        calibration, newcomers = split(world, n_models)
        for k, answers in enumerate(newcomers):
            result = api.adaptive(calibration, asking(answers), standard_error=standard_error, seed=seed)
            low, high = result.estimate.interval
            held[seed, k] = low <= np.mean(list(answers.values())) <= high
            sizes.append(len(result.order))
    assert len(set(sizes)) > 2  # some models are known sooner than others
    variance = max(held.mean(axis=1).var(ddof=1), 0.95 * 0.05 / NEWCOMERS)
    assert held.mean() >= 0.95 - 3 * np.sqrt(variance / WORLDS)


def test_few_models_teach_nothing_about_adaptive_items():
    calibration, (answers, *_) = split(simulate_responses(5, 200, rng=np.random.default_rng(4)), 4)
    result = api.adaptive(calibration, asking(answers), budget=50, seed=0)
    assert result.policy == Policy(0.0)
    # Wider than the interval of a random sample: what its error is was not seen.
    assert result.estimate.standard_error > np.sqrt(0.25 / 50 * 150 / 199)


@pytest.mark.skipif(not CHEMBENCH.exists(), reason="the ChemBench responses are not here")
def test_where_item_parameters_mislead_little_is_chosen_adaptively():
    """22 real models, an outlier among them: here a test of adaptive items alone errs three times as a random one."""
    data = np.load(CHEMBENCH)
    items = [f"q{j}" for j in range(data["values"].shape[1])]
    plan = make_plan(make_calibration(ResponseMatrix(data["values"], data["model_ids"], items)), None, 100, 8, 0)
    assert plan.policy.share <= 0.25 and (plan.ratios < 1.2).all()


def test_a_merge_is_tested_between_its_parents():
    """With the parents known, few items of a merge go further, though no merge was in the calibration."""
    rng = np.random.default_rng(0)
    discrimination = np.column_stack([rng.lognormal(0.2, 0.4, 200), rng.normal(0.0, 0.7, 200)])
    items = ItemParameters(discrimination, rng.normal(0.0, 1.3, 200))
    parents = rng.normal(size=(2, 2))
    abilities = np.vstack([parents, rng.normal(size=(20, 2)), rng.dirichlet(np.ones(2), 100) @ parents])
    values = rng.random((122, 200)) < irt.probabilities(items, abilities)
    world = ResponseMatrix(values, [f"m{m}" for m in range(122)], [f"q{j}" for j in range(200)])
    calibration, newcomers = split(world, 22)
    errors: dict[bool, list[float]] = {True: [], False: []}
    family = world.models(world.model_ids[:2])
    for answers in newcomers:
        for known in errors:
            result = api.adaptive(calibration, asking(answers), budget=16, seed=0, parents=family if known else None)
            errors[known].append(abs(result.estimate.accuracy - np.mean(list(answers.values()))))
    assert np.mean(errors[True]) < 0.9 * np.mean(errors[False])


def test_tests_of_merges_are_simulated_with_their_parents_where_there_are_merges():
    world = simulate_merges(3, 9, 120, rng=np.random.default_rng(6))
    parents = world.models(world.model_ids[:3])
    known = make_calibration(world, parents.model_ids)
    assert simulated_parents(known, parents) is parents and simulated_parents(make_calibration(world), parents) is None
    assert make_plan(known, None, 16, 8, 0, parents).n_models == 9  # parents are not left out


def test_items_that_models_were_not_asked():
    world = simulate_responses(11, 120, rng=np.random.default_rng(7))
    values = np.array(world.values)
    values[:4, :8] = np.nan
    values[4, 40:] = np.nan  # not left out: its accuracy is not known
    calibration = make_calibration(ResponseMatrix(values[:10], world.model_ids[:10], world.item_ids))
    plan = make_plan(calibration, None, 16, 8, 0)
    assert plan.n_models == 9 and np.isfinite(plan.ratios).all()


def test_graded_scores(world):
    calibration, newcomers = world
    answers = {item: 0.5 * score + 0.25 for item, score in newcomers[3].items()}
    result = api.adaptive(calibration, asking(answers), standard_error=0.05, seed=0)
    assert result.estimate.interval[0] <= np.mean(list(answers.values())) <= result.estimate.interval[1]


def test_a_plan_is_made_once(world):
    calibration, _ = world
    assert make_plan(calibration, None, 8, 8, 5) is make_plan(calibration, None, 8, 8, 5)
    assert make_plan(replace(calibration), None, 8, 8, 5) is not make_plan(calibration, None, 8, 8, 5)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({}, "a standard error to reach or a budget"),
        ({"standard_error": 2.0}, "between 0 and 0.5, got 2; try 0.02"),
        ({"standard_error": float("nan")}, "between 0 and 0.5, got nan"),
        ({"budget": 0}, "budget: expected a whole number, at least 1, got 0"),
        ({"budget": 9, "batch": 2.5}, "batch: expected a whole number"),
        ({"budget": 9, "seed": -1}, "seed: expected a whole number"),
    ],
)
def test_limits_without_sense(world, limits, message):
    with pytest.raises(ConfigError, match=message):
        api.adaptive(world[0], asking({}), **{"seed": 0, **limits})


def test_answers_that_do_not_fit(world):
    calibration, newcomers = world
    with pytest.raises(DataError, match="expected a score of every item asked, got none of"):
        api.adaptive(calibration, lambda items: {items[0]: 1.0}, budget=8, seed=0)
    with pytest.raises(DataError, match="a number in"):
        api.adaptive(calibration, lambda items: dict.fromkeys(items, 7.0), budget=8, seed=0)
    strangers = ResponseMatrix(np.ones((1, 2)), ["p"], ["a", "b"])
    with pytest.raises(DataError, match="parents"):
        api.adaptive(calibration, asking(newcomers[0]), budget=8, seed=0, parents=strangers)
