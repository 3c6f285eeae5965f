"""Runs over several metrics of one task, a group whose sub-tasks count alike, and a metric of the whole set."""

from __future__ import annotations

import json
import logging
import random
from pathlib import Path

import pytest
import yaml

from merge3_plugin.artifact import load_calibration
from merge3_plugin.errors import ConfigError, DataError
from merge3_plugin.estimate.paired import paired_difference
from merge3_plugin.evolve.preparation import PARENTS
from merge3_plugin.evolve.store import RunStore
from tests.evolve.world import evolve_here

CHOICE = {
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{prompt}}=",
    "doc_to_choice": "choices",
    "doc_to_target": "label",
    "metric_list": [{"metric": m, "aggregation": "mean", "higher_is_better": True} for m in ("acc", "acc_norm")],
}
TEXT = {
    "test_split": "test",
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{text}}",
    "metric_list": [
        {"metric": "byte_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False},
        {"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False},
    ],
}
SIZES = {"few": 15, "many": 45}
ACC, NORM = "sums:acc,none", "sums:acc_norm,none"
TASKS = [
    {"name": "sums", "metric": "acc,none"},
    {"name": "sums", "metric": "acc_norm,none", "weight": 0.5},
    {"name": "both", "metric": "acc,none"},
    {"name": "text", "metric": "byte_perplexity,none", "weight": -0.01},
    {"name": "text", "metric": "bits_per_byte,none", "weight": -0.1},
]


def write_task(folder: Path, name: str, rows: list[dict], task: dict) -> None:
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    local = {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({**local, **task}))


def choice_rows(n: int, seed: int) -> list[dict]:
    draw = random.Random(seed)
    texts = ["1", "2222", "33", "4444444", "555"]  # of unlike lengths, so that acc and acc_norm differ
    return [
        {"id": i, "prompt": f"{draw.randrange(99)}+{i}", "choices": draw.sample(texts, 4), "label": draw.randrange(4)}
        for i in range(n)
    ]


@pytest.fixture(scope="module")
def config(tiny_models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    (folder / "tasks").mkdir()
    for number, (name, size) in enumerate({"sums": 60, **SIZES}.items()):
        write_task(folder / "tasks", name, choice_rows(size, number), CHOICE)
    write_task(folder / "tasks", "text", [{"text": f"{i} + {i} = {2 * i}"} for i in range(4)], TEXT)
    group = {"group": "both", "task": ["few", "many"]}
    group |= {"aggregate_metric_list": [{"metric": "acc", "weight_by_size": False}]}
    (folder / "tasks" / "both.yaml").write_text(yaml.safe_dump(group))
    base, *others = map(str, tiny_models)
    genome = {"models": others, "merge_method": "task_arithmetic", "base_model": base}
    merge3 = {"anchors": 8, "auto_merges": 2, "confirm": 1, "dtype": "float32", "device": "cpu"}
    merge3 |= {"search": {"max_fevals": 9, "popsize": 4}}
    path = folder / "config.yml"
    path.write_text(yaml.safe_dump({"genome": genome, "tasks": TASKS, "merge3": merge3}))
    return path


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    """The run's folder and summary, and how many texts the model was given for it."""
    from merge3_plugin.harness.live_model import LiveModel

    given = {"choices": 0, "texts": 0}
    score, rolling = LiveModel.score, LiveModel.loglikelihood_rolling

    def count_choices(self, plan, **more):
        given["choices"] += sum(texts is not None for texts, _, _ in plan.requests)  # None: part of a rolling text
        return score(self, plan, **more)

    def count_texts(self, requests, **more):
        given["texts"] += len(requests)
        return rolling(self, requests, **more)

    out = tmp_path_factory.mktemp("run") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LiveModel, "score", count_choices)
        patch.setattr(LiveModel, "loglikelihood_rolling", count_texts)
        summary = evolve_here(config, out)
    store = RunStore.open(out)
    yield out, summary, given, store
    store.close()


def scored_items(store: RunStore, *tasks: str) -> int:
    """How many different items of these objectives each candidate was asked, summed over candidates."""
    rows = store._db.execute("SELECT candidate, task, item FROM answers JOIN evaluations ON evaluation = number")
    return len({(candidate, item) for candidate, task, item in rows if task in tasks})


def test_every_metric_is_an_objective_with_its_own_calibration(finished):
    out, summary, _, _ = finished
    assert list(summary["tasks"]) == [ACC, NORM, "both"]
    assert summary["whole_tasks"] == {"text:byte_perplexity,none": -0.01, "text:bits_per_byte,none": -0.1}
    files = sorted(path.name for path in (out / "calibration").iterdir())
    assert files == ["both.safetensors", "sums%3Aacc,none.safetensors", "sums%3Aacc_norm,none.safetensors"]
    kept = [load_calibration(out / "calibration" / name) for name in files]
    assert [c.provenance["metric"] for c in kept] == ["acc", "acc", "acc_norm"]
    assert [c.provenance["task"] for c in kept] == ["both", "sums", "sums"]


def test_the_model_is_asked_once_for_all_metrics_of_a_task(finished):
    _, _, given, store = finished
    assert given["choices"] == 4 * (scored_items(store, ACC, NORM) + scored_items(store, "both"))
    assert scored_items(store, ACC) + scored_items(store, NORM) > scored_items(store, ACC, NORM)
    # Who is scored again, on further items, is not asked the whole set again.
    found = store._db.execute("SELECT count(DISTINCT candidate) FROM evaluations WHERE whole != '{}'").fetchone()
    evaluated = found[0]
    assert given["texts"] == 4 * evaluated


@pytest.mark.usefixtures("no_environment_report")
def test_scores_of_both_metrics_are_lm_evals(finished, config, tiny_models):
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    _, summary, _, store = finished
    (label,) = [m["label"] for m in summary["models"] if m["label"] == tiny_models[1].name]
    results = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(tiny_models[1]), "dtype": "float32"},
        tasks=["sums", "both", "text"],
        task_manager=TaskManager(include_path=str(config.parent / "tasks"), include_defaults=False),
        batch_size=32,
        device="cpu",
        bootstrap_iters=0,
    )["results"]
    found = store.find(f"parent:{label}", PARENTS)
    for key, metric in ((ACC, "acc,none"), (NORM, "acc_norm,none")):
        scores = found.answers[key].values()
        assert sum(scores) / len(scores) == pytest.approx(results["sums"][metric])
    assert found.answers[ACC] != found.answers[NORM]
    for metric in ("byte_perplexity,none", "bits_per_byte,none"):
        assert found.whole[f"text:{metric}"] == pytest.approx(results["text"][metric], rel=1e-6)
    # The sub-tasks count alike: in lm-eval's score of the group, in the search's figure, and in the confirmation's.
    weights = {leaf: 60 / (2 * size) for leaf, size in SIZES.items()}

    def weighted(items):
        counts = {item: weights[item.split("/")[0]] for item in items}
        return sum(counts[item] * found.answers["both"][item] for item in items) / sum(counts.values())

    assert weighted(found.answers["both"]) == pytest.approx(results["both"]["acc,none"])
    events = dict(store.events())
    model = next(m for m in summary["models"] if m["label"] == label)
    for kind, items in (("estimated", "search"), ("held_out", "held_out")):
        asked = events["items both"][items]
        assert model[kind]["both"]["accuracy"] == pytest.approx(weighted(asked)), kind
        plain = sum(found.answers["both"][item] for item in asked) / len(asked)
        assert plain != pytest.approx(weighted(asked)), "equal accuracies of the sub-tasks show no weighting"


def test_the_metrics_of_a_task_hold_out_the_same_items(finished):
    events = dict(finished[3].events())
    assert events[f"items {ACC}"] == events[f"items {NORM}"]
    searched = {*events[f"anchors {ACC}"]["items"], *events[f"anchors {NORM}"]["items"]}
    assert not searched & set(events[f"items {ACC}"]["held_out"])


def test_one_given_calibration_keeps_its_anchors_out_of_every_metrics_confirmation(finished, config, tmp_path):
    out, _, _, store = finished
    given = {ACC: str(out / "calibration" / "sums%3Aacc,none.safetensors")}
    evolve_here(config, tmp_path / "out", merge3__calibration=given, merge3__held_out=0.6)
    again = RunStore.open(tmp_path / "out")
    events = dict(again.events())
    again.close()
    anchors = set(dict(store.events())[f"anchors {ACC}"]["items"])
    assert set(events[f"anchors {ACC}"]["items"]) == anchors
    assert events[f"items {ACC}"]["held_out"] == events[f"items {NORM}"]["held_out"]
    assert not anchors & set(events[f"items {NORM}"]["held_out"])
    with pytest.raises(DataError, match="expected a calibration for metric 'acc_norm', got one for 'acc'"):
        evolve_here(config, tmp_path / "other", merge3__calibration={NORM: given[ACC]})


def test_the_verdict_takes_the_metrics_of_a_task_for_one_piece_of_evidence(finished):
    _, summary, _, store = finished
    verdict, held_out = (
        summary["verdict"],
        {name: body["held_out"] for name, body in store.events() if "items " in name},
    )
    candidate = {m["label"]: m["candidate"] for m in summary["models"]}
    weights = {ACC: 1.0, NORM: 0.5, "both": 1.0}
    first, second = (
        {
            task: {item: known.right[item] for item in held_out[f"items {task}"]}
            for task in weights
            for known in [store.known_answers(candidate[verdict[role]], task)]
        }
        for role in ("winner", "best_parent")
    )
    counts = {item: 30 / SIZES[item.split("/")[0]] for item in first["both"]}
    how = {"weights": weights, "balance": {"both": counts}}
    together = {ACC: "sums", NORM: "sums", "both": "both"}
    found = paired_difference(first, second, **how, same_items=together)
    assert verdict["against_best_parent"]["difference"] == pytest.approx(found.difference)
    assert verdict["against_best_parent"]["standard_error"] == pytest.approx(found.standard_error)
    assert found.standard_error > 1.05 * paired_difference(first, second, **how).standard_error


def test_lower_perplexity_is_fitter(finished):
    store = finished[3]
    weights = {ACC: 1.0, NORM: 0.5, "both": 1.0}
    rows = store._db.execute("SELECT candidate FROM evaluations WHERE purpose = 'search'").fetchall()
    for (candidate,) in rows:
        found = store.find(candidate, "search")
        expected = sum(weight * found.estimates[task].accuracy for task, weight in weights.items())
        expected -= 0.01 * found.whole["text:byte_perplexity,none"] + 0.1 * found.whole["text:bits_per_byte,none"]
        assert found.fitness == pytest.approx(expected)
    assert len(rows) == 9


def test_a_run_says_what_it_evaluates_in_full(config, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="merge3_plugin"):
        tasks = [{"name": "text", "metric": "bits_per_byte,none", "weight": -1.0}]
        summary = evolve_here(config, tmp_path / "out", tasks=tasks)
    notes = [line for line in caplog.messages if line.startswith("task text:")]
    assert notes == [
        "task text: bits_per_byte is no score of single items, so it is not estimated: every candidate is evaluated "
        "on all 4 documents"
    ]
    assert summary["tasks"] == {} and summary["verdict"] is None


def test_a_calibration_of_what_is_evaluated_in_full_is_refused(config, tmp_path):
    tasks = [{"name": "text", "metric": "bits_per_byte,none", "weight": -1.0}]
    with pytest.raises(ConfigError, match="merge3.calibration.text: expected a task that is estimated, got bits_per_"):
        evolve_here(config, tmp_path / "out", tasks=tasks, merge3__calibration={"text": "c.safetensors"})


def test_a_weight_that_rewards_perplexity_is_refused(config, tmp_path):
    tasks = [{"name": "text", "metric": "byte_perplexity,none", "weight": 2.0}]
    with pytest.raises(ConfigError, match="task text: expected a negative weight for byte_perplexity, .*weight: -2"):
        evolve_here(config, tmp_path / "out", tasks=tasks)


def test_the_configs_language_reaches_the_task(config, tmp_path):
    with pytest.raises(ConfigError, match="task 'sums': expected a language only for a task that generates answers"):
        evolve_here(config, tmp_path / "out", merge3__language={"sums": "ja"})
