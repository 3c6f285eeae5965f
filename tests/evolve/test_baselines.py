"""Simple merges in the same run as the search: how each is made, what it costs, and that it is confirmed alike."""

import math
import shutil

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


@pytest.fixture(scope="module")
def plain(config, tmp_path_factory):
    """The same run without them."""
    out = tmp_path_factory.mktemp("plain") / "out"
    return out, evolve_here(config, out)


def recipes(out, summary):
    """The recipe of the model that stands for each baseline, by its name; None for a parent."""
    store = RunStore.open(out)
    candidates = {model["label"]: model["candidate"] for model in summary["models"]}
    found = {each["name"]: store.recipe(candidates[each["model"]]) for each in summary["baselines"] if each["model"]}
    store.close()
    return found


def tried(out):
    """Candidate, recipe, fitness and items of everything that was scored to make the baselines."""
    store = RunStore.open(out)
    rows = [row for row in store.rows() if row["purpose"] == "baselines"]
    found = [(row["candidate"], store.recipe(row["candidate"]) or {}, row["fitness"], row["n_items"]) for row in rows]
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
    scored = tried(out)
    soups = [
        (set(weights(recipe)), fitness) for _, recipe, fitness, _ in scored if recipe.get("merge_method") == "linear"
    ]
    (first,) = [(candidate, fitness) for candidate, _, fitness, _ in scored if candidate.startswith("parent:")]
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
    fitness_of = {
        next(iter(weights(recipe).values())): fitness
        for _, recipe, fitness, _ in tried(out)
        if recipe.get("merge_method") == "task_arithmetic" and "models" in recipe
    }
    assert sorted(fitness_of) == [0.2, 0.4, 0.6, 0.8, 1.0]
    chosen = set(weights(recipes(out, summary)["task arithmetic"]).values())
    assert fitness_of[chosen.pop()] == max(fitness_of.values()) and not chosen


def test_random_search_costs_what_the_search_did_and_both_are_counted_apart(compared, plain):
    out, summary = compared
    cost, alone = summary["cost"], plain[1]["cost"]
    assert cost["search_items"] == alone["search_items"] and cost["run_items"] == alone["items"]
    assert cost["comparison_items"] == cost["items"] - cost["run_items"] > 0
    drawn = [items for _, recipe, _, items in tried(out) if "slices" in recipe]
    assert sum(drawn) <= cost["search_items"]
    assert len(drawn) == math.floor(cost["search_items"] / summary["tasks"]["tiny_sum"]["anchors"])


class Stop(Watcher):
    """Stops a run after so many evaluations of a purpose; keeps the recipe that was written when they began."""

    def __init__(self, out, purpose, number):
        self.out, self.purpose, self.number = out, purpose, number
        self.seen, self.written = 0, None

    def evaluated(self, label, evaluation):
        if evaluation.purpose == self.purpose:
            self.written = self.written or yaml.safe_load((self.out / "best_config.yaml").read_text())
            self.seen += 1

    def interrupted(self):
        return self.seen >= self.number


def test_a_finished_run_can_be_asked_for_them_and_stopped_among_them_and_is_the_same(compared, plain, config, tmp_path):
    reference, summary = compared
    out = shutil.copytree(plain[0], tmp_path / "out")
    for purpose, number in (("baselines", 7), ("baselines confirmed", 2)):
        stop = Stop(out, purpose, number)
        stopped = evolve_here(config, out, stop, merge3__baselines=True)
        assert stopped["state"].startswith("stopped after the confirmation") and stopped["baselines"] == []
        assert stopped["verdict"] == summary["verdict"] == plain[1]["verdict"]
        assert stop.written["slices"] == summary["winner"]["recipe"]["slices"], "the winner, before they begin"
    assert evolve_here(config, out, merge3__baselines=True) == summary
    assert canonical(out) == canonical(reference)


def test_metrics_of_the_whole_set_count_and_what_cannot_be_made_says_why(config, tmp_path):
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
    raw["genome"] = {"models": raw["genome"]["models"], "merge_method": "linear"}
    raw["merge3"] |= {"baselines": True, "search": {"max_fevals": 9, "popsize": 4}}
    (tmp_path / "config.yml").write_text(yaml.safe_dump(raw))
    out = tmp_path / "out"
    summary = evolve_here(tmp_path / "config.yml", out)
    store = RunStore.open(out)
    search = dict(store.events())["items tiny_sum"]["search"]
    labels = ("model_1", "model_2", "model_3")
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
    merged = next(each for each in summary["baselines"] if each["name"] == "merge-best")
    assert {label for label in labels if label in merged["what"]} == best
    (missing,) = [each for each in summary["baselines"] if each["model"] is None]
    assert missing["name"] == "task arithmetic" and "needs genome.base_model" in missing["what"]
