"""Simple merges in the same run as the search: how each is made, what it costs, and that it is confirmed alike."""

import json
import math

import numpy as np
import pytest
import yaml

from merge3_plugin.evolve.setting import Watcher
from merge3_plugin.evolve.store import RunStore
from tests.evolve.world import N_ITEMS, canonical, evolve_here, make_world

NAMES = ["uniform soup", "merge-best", "greedy soup", "task arithmetic", "random search"]


@pytest.fixture(scope="module")
def config(tiny_models, tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"), tiny_models)


@pytest.fixture(scope="module")
def compared(config, tmp_path_factory):
    """A run with baselines: its folder and its summary."""
    out = tmp_path_factory.mktemp("compared") / "out"
    return out, evolve_here(config, out, merge3__baselines=True)


def recipes(out, summary):
    """The recipe of the model that stands for each baseline, by its name; None for a parent."""
    store = RunStore.open(out)
    candidates = {model["label"]: model["candidate"] for model in summary["models"]}
    found = {each["name"]: store._recipe(candidates[each["model"]]) for each in summary["baselines"] if each["model"]}
    store.close()
    return found


def weights(recipe):
    return {model["model"].rsplit("/")[-1]: model["parameters"]["weight"] for model in recipe["models"]}


def test_every_baseline_is_confirmed_on_the_items_of_the_winner(compared):
    _, summary = compared
    assert summary["state"] == "finished"
    assert [each["name"] for each in summary["baselines"]] == NAMES
    models = {model["label"]: model for model in summary["models"]}
    winner = models[summary["verdict"]["winner"]]
    for each in summary["baselines"]:
        found = models[each["model"]]["held_out"]["tiny_sum"]
        assert found["n_scored"] == winner["held_out"]["tiny_sum"]["n_scored"] == N_ITEMS // 3
        difference = each["winner_less_it"]
        assert difference["difference"] == pytest.approx(winner["held_out_overall"] - found["accuracy"])
        assert difference["confidence"] == summary["verdict"]["against_best_parent"]["confidence"]
    # Nothing is chosen by them: no baseline is the winner.
    assert summary["verdict"]["winner"].startswith(("best", "mean"))


def test_soups_are_means_of_the_parents_that_they_name(compared):
    out, summary = compared
    found = recipes(out, summary)
    assert weights(found["uniform soup"]) == dict.fromkeys(["model_1", "model_2", "model_3"], 1.0)
    store = RunStore.open(out)
    events = dict(store.events())
    search = events["items tiny_sum"]["search"]
    parents = ("base", "model_1", "model_2", "model_3")
    accuracy = {}
    for label in parents:
        right = store.known_answers(f"parent:{label}", "tiny_sum").right
        accuracy[label] = np.mean([right[item] for item in search])
    store.close()
    best = max(accuracy, key=accuracy.__getitem__)
    models = {model["label"]: model["candidate"] for model in summary["models"]}
    # One task, so the best parent at each is one parent, and its mean is itself.
    assert models["merge-best"] == f"parent:{best}"
    greedy = next(each for each in summary["baselines"] if each["name"] == "greedy soup")
    assert best in greedy["what"]


def test_the_greedy_soup_takes_in_what_does_not_lower_the_estimate(compared):
    out, summary = compared
    store = RunStore.open(out)
    tried = [
        (store._recipe(candidate), json.loads(estimates)["tiny_sum"]["accuracy"], candidate)
        for candidate, estimates in store._db.execute(
            "SELECT candidate, estimates FROM evaluations WHERE purpose = 'baselines' ORDER BY number"
        )
    ]
    store.close()
    soups = [
        (set(weights(recipe)), value) for recipe, value, _ in tried if (recipe or {}).get("merge_method") == "linear"
    ]
    (first,) = [(candidate, value) for _, value, candidate in tried if candidate.startswith("parent:")]
    greedy = next(each for each in summary["baselines"] if each["name"] == "greedy soup")
    chosen = {label for label in ("base", "model_1", "model_2", "model_3") if label in greedy["what"]}
    kept, best = {first[0].removeprefix("parent:")}, first[1]
    assert len(soups) == 3, "each further parent is tried once"
    for members, value in soups:
        assert kept < members and len(members) == len(kept) + 1
        if members <= chosen:
            assert value >= best
            kept, best = members, value
        else:
            assert value <= best
    assert kept == chosen


def test_task_arithmetic_is_the_best_scale_of_the_grid(compared):
    out, summary = compared
    store = RunStore.open(out)
    rows = store._db.execute("SELECT candidate, fitness FROM evaluations WHERE purpose = 'baselines'").fetchall()
    tried = {
        next(iter(weights(recipe).values())): fitness
        for candidate, fitness in rows
        if (recipe := store._recipe(candidate) or {}).get("merge_method") == "task_arithmetic" and "models" in recipe
    }
    store.close()
    assert sorted(tried) == [0.2, 0.4, 0.6, 0.8, 1.0]
    chosen = set(weights(recipes(out, summary)["task arithmetic"]).values())
    assert tried[chosen.pop()] == max(tried.values()) and not chosen


def test_random_search_costs_what_the_search_did_and_both_are_counted_apart(compared, config, tmp_path):
    out, summary = compared
    plain = evolve_here(config, tmp_path / "plain")
    cost = summary["cost"]
    assert cost["search_items"] == plain["cost"]["search_items"] and cost["run_items"] == plain["cost"]["items"]
    assert cost["comparison_items"] == cost["items"] - cost["run_items"] > 0
    rows = (
        RunStore.open(out)
        ._db.execute(
            "SELECT n_items FROM evaluations JOIN candidates ON candidate = id"
            " WHERE purpose = 'baselines' AND recipe LIKE '%slices%'"
        )
        .fetchall()
    )
    assert sum(n for (n,) in rows) <= cost["search_items"]
    assert len(rows) == math.floor(cost["search_items"] / summary["tasks"]["tiny_sum"]["anchors"])


def test_a_finished_run_can_be_asked_for_baselines_and_is_the_same(compared, config, tmp_path):
    _, summary = compared
    out = tmp_path / "out"
    evolve_here(config, out)
    later = evolve_here(config, out, merge3__baselines=True)
    assert later == summary


@pytest.mark.parametrize(("purpose", "number"), [("baselines", 7), ("baselines confirmed", 2)])
def test_a_run_that_is_stopped_among_the_baselines_is_confirmed_and_goes_on(
    compared, config, tmp_path, purpose, number
):
    reference, summary = compared

    class Stop(Watcher):
        seen = 0

        def evaluated(self, label, evaluation):
            if evaluation.purpose == purpose and not self.seen:
                written = yaml.safe_load((tmp_path / "out" / "best_config.yaml").read_text())
                assert written["slices"] == summary["winner"]["recipe"]["slices"], "the winner, before they begin"
            self.seen += evaluation.purpose == purpose

        def interrupted(self):
            return self.seen >= number

    out = tmp_path / "out"
    stopped = evolve_here(config, out, Stop(), merge3__baselines=True)
    assert stopped["state"].startswith("stopped after the confirmation") and stopped["baselines"] == []
    assert stopped["verdict"] == summary["verdict"]
    assert evolve_here(config, out, merge3__baselines=True) == summary
    assert canonical(out) == canonical(reference)


def test_what_cannot_be_made_says_why(config, tmp_path):
    raw = yaml.safe_load(config.read_text())
    raw["genome"] = {"models": raw["genome"]["models"], "merge_method": "linear"}
    path = config.parent / "linear.yml"
    path.write_text(yaml.safe_dump(raw))
    summary = evolve_here(path, tmp_path / "out", merge3__baselines=True, merge3__search__max_fevals=6)
    (arithmetic,) = [each for each in summary["baselines"] if each["name"] == "task arithmetic"]
    assert arithmetic["model"] is None and "needs genome.base_model" in arithmetic["what"]
    assert all(each["model"] for each in summary["baselines"] if each is not arithmetic)


def test_merge_best_is_the_mean_of_the_best_at_each_task_whatever_its_metric(config, tmp_path):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "tiny_sum.yaml").write_text((config.parent / "tasks" / "tiny_sum.yaml").read_text())
    (tmp_path / "tasks" / "tiny_text.yaml").write_text(
        f"""\
task: tiny_text
dataset_path: json
dataset_kwargs: {{data_files: {{test: {config.parent / "data.jsonl"}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{prompt}}}}"
metric_list: [{{metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}}]
metadata: {{version: 1}}
"""
    )
    raw = yaml.safe_load(config.read_text())
    raw["tasks"] = ["tiny_sum", {"name": "tiny_text", "weight": -0.001, "metric": "word_perplexity,none"}]
    raw["merge3"] |= {"baselines": True, "search": {"max_fevals": 4, "popsize": 4}}
    (tmp_path / "config.yml").write_text(yaml.safe_dump(raw))
    out = tmp_path / "out"
    summary = evolve_here(tmp_path / "config.yml", out)
    store = RunStore.open(out)
    search = dict(store.events())["items tiny_sum"]["search"]
    labels = ("base", "model_1", "model_2", "model_3")
    right = {label: store.known_answers(f"parent:{label}", "tiny_sum").right for label in labels}
    accuracy = {label: sum(right[label][item] for item in search) for label in labels}
    perplexity = {label: store.find(f"parent:{label}", "parents").whole["tiny_text"] for label in labels}
    store.close()
    best = {max(accuracy, key=accuracy.__getitem__), min(perplexity, key=perplexity.__getitem__)}
    cost = summary["cost"]
    assert cost["full_search_items"] == cost["candidates"] * (len(search) + N_ITEMS)
    draws = next(each["what"] for each in summary["baselines"] if each["name"] == "random search")
    assert f"best of {cost['search_items'] // (20 + N_ITEMS)} random points" in draws, (
        "20 anchors, and one task in full"
    )
    found = next(each for each in summary["baselines"] if each["name"] == "merge-best")
    assert {label for label in labels if label in found["what"]} == best
