"""Metrics with partial credit and of whole sets, end to end: from lm-eval's logs to its printed estimate."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from merge3_plugin.api import calibrate, estimate
from merge3_plugin.artifact import load_calibration, save_calibration
from merge3_plugin.errors import DataError
from merge3_plugin.extract.responses import read_responses
from merge3_plugin.harness.benchmark import load_benchmarks
from merge3_plugin.harness.collect import EvaluationSettings, collect_logs
from merge3_plugin.harness.scoring import Scorer
from merge3_plugin.testing import TINY_ALPHABET
from tests.commands import refused

OVERLAP = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}="
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 6, do_sample: false}}
process_results: !function overlap.score
metric_list: [{{metric: overlap, aggregation: mean, higher_is_better: true}}]
"""
FUNCTION = '''
def score(doc, results):
    """Share of the given characters that are among the answer's: partial credit."""
    given = set(results[0])
    return {"overlap": len(given & set(doc["answer"])) / max(1, len(given))}
'''
ANCHORED = """
task: {name}_anchored
class: !function merge3_plugin.harness.anchor_task.AnchorTask
base: {name}
metric: overlap,none
calibration: {calibration}
"""
GROUP = {
    "group": "alike",
    "task": ["one", "two"],
    "aggregate_metric_list": [{"metric": "overlap", "weight_by_size": False}],
}
SIZES = {"one": 12, "two": 36}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graded")
    (folder / "overlap.py").write_text(FUNCTION)
    for number, (name, size) in enumerate(SIZES.items()):
        draw = random.Random(number)
        rows = [
            {"id": i, "question": f"{i * 7}+{number}", "answer": "".join(draw.sample(TINY_ALPHABET, 30 + i))}
            for i in range(size)
        ]
        data = folder / f"{name}.jsonl"
        data.write_text("\n".join(json.dumps(row) for row in rows))
        (folder / f"{name}.yaml").write_text(OVERLAP.format(name=name, data=data))
    (folder / "alike.yaml").write_text(json.dumps(GROUP))
    return folder


@pytest.fixture(scope="module")
def graded(
    folder: Path, tiny_models: list[Path], no_environment_report: None, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """The benchmarks "two" and "alike", and the answers that lm-eval logged of four models."""
    benchmarks = load_benchmarks({"two": None, "alike": "overlap,none"}, include_paths=[folder])
    settings, logs = EvaluationSettings(dtype="float32", device="cpu"), tmp_path_factory.mktemp("logs")
    read = {}
    for name, benchmark in benchmarks.items():
        paths = collect_logs(benchmark, list(map(str, tiny_models)), logs / name, settings)
        read[name] = read_responses(paths, name, base=list(benchmark.items.leaves), balance=benchmark.balance_of)
    return {"benchmarks": benchmarks, "responses": read}


def test_partial_credit_stays_partial(graded: dict, model_and_tokenizer: tuple[Any, Any], tiny_models) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for name, benchmark in graded["benchmarks"].items():
        assert benchmark.per_item
        matrix = graded["responses"][name].matrix
        assert len(set(np.unique(matrix.values)) - {0.0, 1.0}) > 3, "little partial credit was given"
        model = str(tiny_models[0])
        parts = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
        scores = Scorer({name: benchmark}, *parts).score(name, benchmark.item_ids).right
        known = dict(zip(matrix.item_ids, matrix.models([model]).values[0], strict=True))
        assert scores == pytest.approx(known)


@pytest.mark.parametrize("name", ["two", "alike"])
@pytest.mark.parametrize("n_anchors", [10, 48])
def test_lm_eval_prints_the_estimate_of_a_graded_metric(
    graded: dict,
    folder: Path,
    evaluate: Callable,
    make_manager: Callable,
    tmp_path: Path,
    name: str,
    n_anchors: int,
) -> None:
    responses = graded["responses"][name]
    made = calibrate(responses.matrix, n_anchors, seed=0)
    made = replace(made, item_hashes=responses.item_hashes, provenance={**responses.provenance, **made.provenance})
    save_calibration(made, tmp_path / "c.safetensors")
    text = ANCHORED.format(name=name, calibration=tmp_path / "c.safetensors")
    (tmp_path / f"{name}_anchored.yaml").write_text(text)
    results = evaluate(make_manager(folder, tmp_path), name, f"{name}_anchored")
    found, samples = results["results"][f"{name}_anchored"], results["samples"][f"{name}_anchored"]
    scores = {sample["merge3_acc"].item: sample["merge3_acc"].score for sample in samples}
    assert scores.keys() == set(made.anchors.item_ids) and set(scores.values()) - {0.0, 1.0}
    assert found["merge3_acc,none"] == pytest.approx(estimate(made, scores).accuracy, abs=1e-12)
    full = results["results"][name]["overlap,none"]
    if n_anchors >= made.n_items:
        assert found["merge3_acc,none"] == pytest.approx(full, abs=1e-12) and found["merge3_se,none"] == 0
    else:
        assert found["merge3_lo,none"] <= full <= found["merge3_hi,none"]


def test_a_limited_calibration_weighs_sub_tasks_as_lm_eval_does_under_the_limit(
    command: Callable, folder: Path, tiny_models: list[Path], model_folder: Path, evaluate: Callable,
    make_manager: Callable, tmp_path: Path,
) -> None:  # fmt: skip
    status, _, _ = command(
        "calibrate", "--task", "alike", "--models", tiny_models[0], model_folder, "--anchors", 6,
        "--out", tmp_path / "c.safetensors", "--metric", "overlap", "--include-path", folder, "--dtype", "float32",
        "--device", "cpu", "--limit", 14,
    )  # fmt: skip
    assert status == 0
    responses = load_calibration(tmp_path / "c.safetensors").responses
    assert responses.n_items == 12 + 14
    results = evaluate(make_manager(folder), "alike", limit=14)["results"]
    assert results["one"]["overlap,none"] != pytest.approx(results["two"]["overlap,none"], abs=1e-3)
    accuracy = responses.models([str(model_folder)]).accuracy()
    assert accuracy == pytest.approx(results["alike"]["overlap,none"], abs=1e-12)


def test_a_metric_of_the_whole_set_is_never_estimated(
    tasks_folder: Path, tmp_path: Path, evaluate: Callable, make_manager: Callable, model_folder: Path
) -> None:
    (tmp_path / "anchored_text.yaml").write_text(
        "task: anchored_text\nclass: !function merge3_plugin.harness.anchor_task.AnchorTask\n"
        "base: plain_text\nmetric: word_perplexity,none\n"
    )
    line = "expected a metric that scores single items, got word_perplexity, .*never estimated"
    with pytest.raises(DataError, match=f"task 'anchored_text': {line}"):
        evaluate(make_manager(tasks_folder, tmp_path), "anchored_text")
    evaluated = evaluate(make_manager(tasks_folder), "plain_text")["results"]["plain_text"]
    (benchmark,) = load_benchmarks({"plain_text": "word_perplexity,none"}, include_paths=[tasks_folder]).values()
    assert benchmark.items.higher_is_better is False and evaluated["word_perplexity,none"] > 1
    settings = EvaluationSettings(dtype="float32", device="cpu")
    logs = collect_logs(benchmark, [str(model_folder)], tmp_path / "logs", settings)
    with pytest.raises(DataError, match="expected a score in .* one of the whole set is never estimated"):
        read_responses(logs, "plain_text", metric="word_perplexity")
    with pytest.raises(DataError, match="expected one metric and filter that score single items, got 0"):
        read_responses(logs, "plain_text")


def test_calibrating_on_a_metric_of_the_whole_set_runs_no_model(command, tasks_folder: Path, tmp_path: Path) -> None:
    outcome = command(
        "calibrate", "--task", "plain_text", "--models", tmp_path / "no_model", "--out", tmp_path / "c.safetensors",
        "--metric", "word_perplexity", "--include-path", tasks_folder,
    )  # fmt: skip
    assert "expected a metric that scores single items, got word_perplexity" in refused(outcome)
