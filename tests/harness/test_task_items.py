"""Items of groups, of several metrics, and of documents that cannot be right: against lm-eval's own evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from merge3_plugin.harness.benchmark import load_benchmarks
from merge3_plugin.harness.scoring import Scorer

LEAF = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{q}}}}"
doc_to_choice: choices
doc_to_target: label
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""

# Of three sub-tasks, two in a group of their own (which lm-eval does not score first: the leaves count), and one twice.
GROUPS = {
    "inner": {"task": ["small", "middle"], "aggregate_metric_list": [{"metric": "acc"}]},
    "alike": {"task": ["inner", "large"], "aggregate_metric_list": [{"metric": "acc", "weight_by_size": False}]},
    "by_size": {"task": ["inner", "large"], "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}]},
    "twice": {
        "task": ["inner", "large", {"group": "more", "task": ["small"]}],
        "aggregate_metric_list": [{"metric": "acc", "weight_by_size": False}],
    },
    "unscored": {"task": ["inner", "large"]},
    "of_another_metric": {
        "task": ["inner", "large"],
        "aggregate_metric_list": [{"metric": "acc_norm", "weight_by_size": False}],
    },
}
SIZES = {"small": 3, "middle": 8, "large": 17}


@pytest.fixture(scope="module")
def group_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("groups")
    for number, (name, size) in enumerate(SIZES.items()):
        rows = [
            {"id": i, "q": f"{i * 7 % 23}+{number}", "choices": ["一", "二二", "三"], "label": i % 3}
            for i in range(size)
        ]
        data = folder / f"{name}.jsonl"
        data.write_text("\n".join(json.dumps(row) for row in rows))
        (folder / f"{name}.yaml").write_text(LEAF.format(name=name, data=data))
    for name, group in GROUPS.items():
        (folder / f"{name}.yaml").write_text(json.dumps({"group": name, **group}))
    return folder


@pytest.mark.parametrize("group", ["alike", "by_size", "twice"])
def test_the_accuracy_over_all_items_is_lm_evals_score_of_the_group(
    group: str, group_folder: Path, make_manager: Callable, evaluate: Callable, model_and_tokenizer: tuple[Any, Any]
) -> None:
    results = evaluate(make_manager(group_folder), group)["results"]
    (benchmark,) = load_benchmarks({group: "acc,none"}, include_paths=[group_folder]).values()
    scorer = Scorer({group: benchmark}, *model_and_tokenizer, batch_size=4)
    scores = np.array(list(scorer.score(group, benchmark.item_ids).right.values()))
    balance = benchmark.balance_of(benchmark.item_ids)
    assert np.average(scores, weights=balance) == pytest.approx(results[group]["acc,none"], abs=1e-12)
    assert scorer.score_whole(group) == pytest.approx(results[group]["acc,none"], abs=1e-12)
    assert len({results[leaf]["acc,none"] for leaf in SIZES}) > 1, "sub-tasks of equal scores show no weighting"
    assert (balance is None) == (group == "by_size")


def test_sub_tasks_that_count_alike_have_tinybenchmarks_balance_weights(group_folder: Path) -> None:
    (benchmark,) = load_benchmarks({"alike": None}, include_paths=[group_folder]).values()
    n, leaves = sum(SIZES.values()), benchmark.item_groups
    assert leaves is not None
    assert benchmark.balance_of(benchmark.item_ids) == pytest.approx([n / (3 * SIZES[leaf]) for leaf in leaves])
    assert benchmark.balance_of(["large/4", "small/0"]) == pytest.approx([n / 51, n / 9])


@pytest.mark.parametrize("task", ["unscored", "of_another_metric", "small"])
def test_items_count_alike_where_lm_eval_does_not_weigh_them(task: str, group_folder: Path) -> None:
    (benchmark,) = load_benchmarks({task: "acc,none"}, include_paths=[group_folder]).values()
    assert benchmark.balance_of(benchmark.item_ids) is None
