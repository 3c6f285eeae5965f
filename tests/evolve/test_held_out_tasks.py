"""Tasks that the search never saw: when they are read, what they are compared with, and that they choose nothing."""

import json
import random

import pytest
import yaml

from merge3_plugin.errors import ConfigError
from merge3_plugin.evolve.confirmation import CONFIRMATION
from merge3_plugin.evolve.held_out_tasks import HELD_OUT_TASKS
from merge3_plugin.evolve.setting import Watcher
from merge3_plugin.evolve.store import RunStore
from tests.evolve.world import TASK, evolve_here, make_world

N_OTHERS = 60


@pytest.fixture(scope="module")
def config(tiny_models, tmp_path_factory):
    """The tiny world with two more tasks of its models: one scored by item, and a perplexity."""
    folder = tmp_path_factory.mktemp("world")
    path = make_world(folder, tiny_models, search={"max_fevals": 9, "popsize": 4})
    draw = random.Random(1)
    rows = [
        {"_id": f"o{n}", "prompt": f"{n}-{n % 7}", "choices": ["3", "8"], "label": draw.randrange(2)}
        for n in range(N_OTHERS)
    ]
    data = folder / "other.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    other = TASK.format(data=data).replace("tiny_sum", "tiny_other")
    # A public benchmark's name: what nothing is searched on needs no permission.
    (folder / "tasks" / "arc_other.yaml").write_text(other.replace("tiny_other", "arc_other"))
    (folder / "tasks" / "tiny_text.yaml").write_text(
        f"""\
task: tiny_text
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{prompt}}}}"
metric_list: [{{metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}}]
metadata: {{version: 1}}
"""
    )
    return path


HELD_OUT = ["arc_other", {"name": "tiny_text", "metric": "word_perplexity,none"}]


def asked(out, task):
    """Which purposes scored items of the task."""
    store = RunStore.open(out)
    keys = ("candidate", "purpose", "batch", "rung")
    found = [store.find(*(row[key] for key in keys)) for row in store.rows()]
    store.close()
    return {evaluation.purpose for evaluation in found if task in evaluation.answers}


def test_they_are_scored_at_the_end_and_choose_nothing(config, tmp_path):
    phases = []

    class Hear(Watcher):
        def phase(self, name, total):
            phases.append(name)
            if name != HELD_OUT_TASKS:
                return
            assert asked(tmp_path / "out", "arc_other") == set()

    plain = evolve_here(config, tmp_path / "plain")
    summary = evolve_here(config, tmp_path / "out", Hear(), merge3__held_out_tasks=HELD_OUT)
    assert phases[-2:] == [CONFIRMATION, HELD_OUT_TASKS]
    assert asked(tmp_path / "out", "arc_other") == {HELD_OUT_TASKS}
    for key in ("winner", "verdict", "tasks", "models", "optimism"):
        assert summary[key] == plain[key]
    assert summary["cost"]["run_items"] == plain["cost"]["items"]
    found = summary["held_out_tasks"]
    assert found["tasks"]["arc_other"]["items"] == N_OTHERS
    assert [model["label"] for model in found["models"]] == [model["label"] for model in summary["models"]]
    assert all(model["whole"]["tiny_text"] > 1 for model in found["models"])
    assert summary["cost"]["by_phase"][HELD_OUT_TASKS]["items"] == 2 * N_OTHERS * len(found["models"])
    assert summary["cost"]["comparison_items"] == 2 * N_OTHERS * len(found["models"])


def test_the_winner_is_compared_with_the_base_and_the_best_parent_on_as_many_items_as_the_limit_says(config, tmp_path):
    changes = {"merge3__held_out_tasks": HELD_OUT, "merge3__baselines": True, "limit": 40}
    summary = evolve_here(config, tmp_path / "out", **changes)
    found = summary["held_out_tasks"]
    # The limit draws their items too; a metric of the whole set needs them all.
    assert {name: task["items"] for name, task in found["tasks"].items()} == {"arc_other": 40, "tiny_text": N_OTHERS}
    assert {model["accuracies"]["arc_other"]["n_scored"] for model in found["models"]} == {40}
    assert set(found["winner_less"]) == {"base", summary["verdict"]["best_parent"]}
    accuracy = {model["label"]: model["accuracies"]["arc_other"]["accuracy"] for model in found["models"]}
    for other, differences in found["winner_less"].items():
        difference = differences["arc_other"]
        expected = accuracy[summary["verdict"]["winner"]] - accuracy[other]
        assert difference["difference"] == pytest.approx(expected) and difference["confidence"] == 0.95
        assert set(differences) == {"arc_other"}, "a metric of the whole set has no paired items"
    assert {each["model"] for each in summary["baselines"]} <= set(accuracy)


def test_a_run_without_scores_by_item_has_them_too(config, tmp_path):
    raw = yaml.safe_load(config.read_text())
    raw["tasks"] = [{"name": "tiny_text", "weight": -0.001, "metric": "word_perplexity,none"}]
    raw["merge3"]["held_out_tasks"] = ["arc_other"]
    path = config.parent / "whole.yml"
    path.write_text(yaml.safe_dump(raw))
    summary = evolve_here(path, tmp_path / "out")
    assert summary["state"].startswith("finished without a confirmation")
    assert set(summary["held_out_tasks"]["winner_less"]) == {"base"}


def test_what_cannot_be_held_out_is_refused(config, tmp_path):
    for tasks, words in (
        (["tiny_sum"], "is searched on"),
        ([{"name": "arc_other", "weight": 2}], "nothing is chosen by 'arc_other'"),
        (["arc_other", "arc_other"], "each task once under each metric"),
    ):
        with pytest.raises(ConfigError, match=words):
            evolve_here(config, tmp_path / "out", merge3__held_out_tasks=tasks)
