"""Anchor tasks under lm-eval's own evaluator, against the plain tasks that they wrap."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from merge3_plugin.errors import ConfigError, DataError

SETTINGS = [
    pytest.param({}, id="0 shots"),
    pytest.param({"num_fewshot": 2}, id="2 shots"),
    pytest.param({"num_fewshot": 2, "apply_chat_template": True, "fewshot_as_multiturn": True}, id="chat"),
    pytest.param({"num_fewshot": 1, "apply_chat_template": True, "fewshot_as_multiturn": False,
                  "system_instruction": "答え", "fewshot_random_seed": 7}, id="chat, system, seed"),
]  # fmt: skip


def arguments(sample: dict[str, Any]) -> list[Any]:
    return [list(a) for a in sample["arguments"]]


def plain_samples(results: dict[str, Any], leaves: list[str], filter_name: str) -> dict[str, dict[str, Any]]:
    grouped = len(leaves) > 1
    found = {}
    for leaf in leaves:
        for sample in results["samples"][leaf]:
            if sample["filter"] == filter_name:
                key = sample["doc"].get("_id") or json.dumps(sample["doc"], sort_keys=True)
                found[f"{leaf}/{key}" if grouped else key] = sample
    return found


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize(
    ("anchor", "plain", "leaves", "metric", "filter_name"),
    [
        ("anchor_choice", "plain_choice", ["plain_choice"], "acc", "none"),
        ("anchor_number", "plain_number", ["plain_number"], "exact_match", "last"),
        ("anchor_group", "plain_group", ["plain_leaf_a", "plain_leaf_b"], "acc", "none"),
    ],
)
def test_prompts_and_scores_are_those_of_the_plain_task(
    manager, evaluate, settings, anchor, plain, leaves, metric, filter_name
):
    ours = evaluate(manager, anchor, **settings)
    plain_results = evaluate(manager, plain, **settings)
    theirs = plain_samples(plain_results, leaves, filter_name)
    samples = ours["samples"][anchor]
    assert len(samples) == 5
    scores = {}
    for sample in samples:
        item, score, soft = sample["merge3_acc"]
        key = item if "_id" in sample["doc"] else json.dumps(sample["doc"], sort_keys=True)
        twin = theirs[key]
        assert sample["doc"] == twin["doc"]
        assert arguments(sample) == arguments(twin)
        assert sample["prompt_hash"] == twin["prompt_hash"]
        assert score == twin[metric]
        assert (soft is None) == (anchor == "anchor_number")
        scores[item] = score
    row = ours["results"][anchor]
    assert row["merge3_acc,none"] == pytest.approx(sum(scores.values()) / 5)
    assert row["merge3_items,none"] == 5
    assert row["merge3_lo,none"] < row["merge3_acc,none"] < row["merge3_hi,none"] or len(set(scores.values())) == 1
    published = {key for key in row if "," in key and "stderr" not in key}
    assert published == {f"merge3_{name},none" for name in ("acc", "se", "lo", "hi", "items")}
    assert ours["n-shot"][anchor] == settings.get("num_fewshot", 0)


def test_two_filters_of_one_task_can_score_differently(manager, evaluate):
    """The chosen filter is applied, not the first: the plain task's two filters disagree on some item."""
    results = evaluate(manager, "plain_number")
    by_filter = {
        name: [s["filtered_resps"] for s in results["samples"]["plain_number"] if s["filter"] == name]
        for name in ("first", "last")
    }
    assert by_filter["first"] != by_filter["last"]


def test_generation_settings_reach_the_base(manager, evaluate):
    results = evaluate(manager, "anchor_number", gen_kwargs={"max_gen_toks": 3})
    samples = results["samples"]["anchor_number"]
    assert all(arguments(sample)[0][1]["max_gen_toks"] == 3 for sample in samples)
    assert all(len(sample["resps"][0][0]) <= 3 for sample in samples)


def test_a_metric_override_reaches_the_base(manager, evaluate):
    task = manager.load(["anchor_choice"])["tasks"]["anchor_choice"]
    task.override_metric("acc_norm")
    samples = evaluate(manager, task)["samples"]["anchor_choice"]
    plain = {s["doc"]["_id"]: s["acc_norm"] for s in evaluate(manager, "plain_choice")["samples"]["plain_choice"]}
    assert all(score == plain[item] for item, score, _ in (sample["merge3_acc"] for sample in samples))


def test_predictions_can_be_kept_without_scores(manager, evaluate):
    row = evaluate(manager, "anchor_number", predict_only=True)["results"]["anchor_number"]
    assert "bypass,none" in row and "merge3_acc,none" not in row


def test_sample_logs_carry_the_document_as_it_is(manager, evaluate):
    sample = evaluate(manager, "anchor_choice")["samples"]["anchor_choice"][0]
    assert set(sample["doc"]) == {"_id", "prompt", "choices", "label"}
    assert sample["merge3_acc"][0] == sample["doc"]["_id"]
    json.dumps(sample["doc"])


def test_data_parallel_ranks_give_the_single_process_result(make_manager, evaluate, model_folder):
    """lm-eval deals documents out by rank and concatenates by rank: rank 0 sees them in another order."""
    import torch
    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM

    sent: list[Any] = []

    class Rank(HFLM):
        """One of two processes; what rank 1 sends is handed to rank 0."""

        def barrier(self):
            pass

        def all_gather(self, tensor):
            return torch.stack([tensor, tensor])

        def gather_object(self, obj, dst=0):
            if self.rank == 1:
                sent.append(obj)
                return None
            return [obj, sent.pop(0)]

    results = {}
    for rank in (1, 0):
        model = Rank(str(model_folder), device="cpu", dtype="float32", batch_size=4)
        model._rank, model._world_size = rank, 2
        loaded = make_manager().load(["anchor_choice"])
        task = loaded["tasks"]["anchor_choice"]
        task.set_config("num_fewshot", 2)
        task.set_fewshot_seed(1234)
        results[rank] = evaluator.evaluate(model, loaded, bootstrap_iters=0)
    alone = evaluate(make_manager(), "anchor_choice", num_fewshot=2)
    assert results[1] is None
    assert [s["merge3_acc"] for s in results[0]["samples"]["anchor_choice"]] != [
        s["merge3_acc"] for s in alone["samples"]["anchor_choice"]
    ]
    for key, value in alone["results"]["anchor_choice"].items():
        assert results[0]["results"]["anchor_choice"][key] == value, key
    prompts = {s["merge3_acc"][0]: s["prompt_hash"] for s in alone["samples"]["anchor_choice"]}
    assert {s["merge3_acc"][0]: s["prompt_hash"] for s in results[0]["samples"]["anchor_choice"]} == prompts


def test_log_likelihoods_that_are_not_finite_never_count_as_wrong_answers(manager):
    task = manager.load(["anchor_choice"])["tasks"]["anchor_choice"]
    with pytest.raises(DataError, match="expected finite log-likelihoods"):
        task.process_results(task.eval_docs[0], [(float("nan"), False)] * 4)


def test_uncalibrated_is_said_and_the_sample_does_not_depend_on_the_order(make_manager, caplog):
    task = make_manager().load(["anchor_choice"])["tasks"]["anchor_choice"]
    task.set_config("num_fewshot", 0)
    task.build_all_requests()
    (line,) = [r.getMessage() for r in caplog.records if "not calibrated" in r.getMessage()]
    assert "random sample of 5 of its 12 items" in line and "merge3 calibrate --task anchor_choice" in line
    from merge3_plugin.harness.settings import random_sample

    ids = [f"q{i}" for i in range(12)]
    assert sorted(random_sample(ids[::-1], 5, 0)) == sorted(random_sample(ids, 5, 0))
    assert random_sample(ids, 5, 0) != random_sample(ids, 5, 1)
    assert {d.item_id for d in task.eval_docs} == set(random_sample(ids, 5, 0))


def run_metadata(**tasks: Any) -> dict[str, Any]:
    return {"pretrained": "a model", "merge3": {"tasks": tasks}}


def test_settings_come_through_the_metadata(make_manager, tmp_path):
    data = tmp_path / "choice.jsonl"
    rows = [{"name": f"n{i}", "prompt": "1は", "choices": ["一", "二"], "label": 0} for i in range(9)]
    data.write_text("\n".join(json.dumps(row) for row in rows))
    metadata = run_metadata(anchor_choice={"data": str(data), "id_field": "name", "anchors": 3, "seed": 4})
    task = make_manager(metadata=metadata).load(["anchor_choice"])["tasks"]["anchor_choice"]
    assert set(task.items.documents) == {f"n{i}" for i in range(9)}
    assert len(task.eval_docs) == 3
    assert task.provenance()["data"] == "choice.jsonl"
    assert task.VERSION == 2.0


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({"anchor_choise": {}}, "'anchor_choise' is not an anchor task of this run; did you mean 'anchor_choice'"),
        # Its data was meant for the task that then finds none.
        ({"anchor_choise": {}, "anchor_choice": {"data": "/no/such.jsonl"}}, "did you mean 'anchor_choice'"),
        ({"anchor_number": {}}, "'anchor_number' is not an anchor task of this run"),
        ({"anchor_choice": {"ancors": 3}}, "unknown setting 'ancors'; did you mean 'anchors'"),
        ({"anchor_choice": {"anchors": 0}}, "expected a number of items, got 0"),
        ({"anchor_choice": {"data": "nowhere.jsonl"}}, "nowhere.jsonl: expected a data file or folder"),
        ({"anchor_choice": {"calibration": "nowhere.safetensors"}}, "nowhere.safetensors"),
    ],
)
def test_wrong_settings_are_one_line(make_manager, tasks, message):
    from merge3_plugin.errors import Merge3Error

    with pytest.raises(Merge3Error) as error:
        task = make_manager(metadata=run_metadata(**tasks)).load(["anchor_choice"])["tasks"]["anchor_choice"]
        task.set_config("num_fewshot", 0)
        task.build_all_requests()
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"base": "plain_choise"}, "got 'plain_choise'; did you mean 'plain_choice'"),
        ({"base": "plain_number"}, "as metric,filter, got none; known: exact_match,first, exact_match,last"),
        ({"base": "plain_choice", "metric": "acc,non"}, "did you mean 'acc,none'"),
        ({"base": "plain_choice", "metric": "acc,none", "num_fewshots": 2}, "did you mean 'num_fewshot'"),
        ({"base": "anchor_choice"}, "an anchor task"),
    ],
)
def test_wrong_yaml_is_one_line(manager, config, message):
    from merge3_plugin.harness.anchor_task import AnchorTask

    with pytest.raises(ConfigError) as error:
        AnchorTask({"task": "mine", **config})
    assert message in str(error.value) and "\n" not in str(error.value)


def test_task_settings_in_the_yaml_go_over_the_base(manager):
    from merge3_plugin.harness.anchor_task import AnchorTask

    task = AnchorTask({"task": "mine", "base": "plain_group", "metric": "acc,none", "num_fewshot": 1,
                       "doc_to_text": "?{{prompt}}"})  # fmt: skip
    assert task.get_config("num_fewshot") == 1
    assert {leaf.config.num_fewshot for leaf in task.items.leaves.values()} == {1}
    assert task.doc_to_text(task.eval_docs[0]).startswith("?")


def test_a_base_needs_the_running_task_manager(monkeypatch):
    from merge3_plugin.harness import registration
    from merge3_plugin.harness.anchor_task import AnchorTask

    monkeypatch.setattr(registration, "_running", None)
    with pytest.raises(ConfigError, match="MERGE3_AUTOLOAD"):
        AnchorTask({"task": "mine", "base": "plain_choice", "metric": "acc,none"})


def test_groups_of_anchor_tasks_publish_accuracy_and_items_only(make_manager, evaluate, tmp_path):
    folder = tmp_path / "more"
    folder.mkdir()
    own = Path(__file__).parents[2] / "lm_eval_tasks" / "merge3_arc.yaml"
    text = own.read_text().replace("group: merge3_arc", "group: both")
    head, _, tail = text.partition("task:\n")
    members = "".join(line for line in tail.splitlines(keepends=True) if not line.startswith("  - merge3_arc"))
    (folder / "both.yaml").write_text(f"{head}task:\n  - anchor_choice\n  - anchor_group\n{members}")
    results = evaluate(make_manager(folder), "both")
    row = results["groups"]["both"]
    of = [results["results"][name]["merge3_acc,none"] for name in ("anchor_choice", "anchor_group")]
    assert row["merge3_acc,none"] == pytest.approx(sum(of) / 2)
    published = {key for key in row if "," in key and "stderr" not in key}
    assert published == {"merge3_acc,none", "merge3_items,none"}
