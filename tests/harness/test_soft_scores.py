"""Soft scores of a real tiny model: live, from lm-eval's logs, and worked out from its logits."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from merge3_plugin.extract.responses import read_responses
from merge3_plugin.harness.benchmark import load_benchmarks
from merge3_plugin.harness.collect import EvaluationSettings, collect_logs
from merge3_plugin.harness.scoring import Scorer

N = 15

HEAD = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}, train: {data}}}}}
test_split: test
training_split: train
"""
CHOICE = (
    HEAD
    + """
output_type: multiple_choice
doc_to_text: "{{{{q}}}}は"
doc_to_choice: choices
"""
)
TASKS = {
    "place": CHOICE
    + 'doc_to_target: "{{{{label}}}}"\nmetric_list: [{{metric: acc}}, {{metric: acc_norm}}, {{metric: acc_bytes}}]',
    "text": CHOICE
    + 'target_delimiter: ""\ndoc_to_target: answer\nmetric_list: [{{metric: acc}}, {{metric: acc_norm}}]',
    "several": CHOICE + "doc_to_target: labels\nmetric_list: [{{metric: acc}}]",
    "mutual": CHOICE + "doc_to_target: label\nmetric_list: [{{metric: acc}}, {{metric: acc_mutual_info}}]",
    "own": CHOICE + "doc_to_target: label\nprocess_results: !function own.least\nmetric_list: [{{metric: acc}}]",
    "inputs": HEAD
    + """
output_type: multiple_choice
doc_to_text: !function own.place
doc_to_choice: !function own.beginnings
doc_to_target: q
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
""",
    "cloze": HEAD
    + """
output_type: loglikelihood
doc_to_text: "{{{{q}}}}"
doc_to_target: answer
metric_list: [{{metric: acc}}, {{metric: perplexity}}]
""",
    "own_cloze": HEAD
    + """
output_type: loglikelihood
doc_to_text: "{{{{q}}}}"
doc_to_target: answer
process_results: !function own.unlikely
metric_list: [{{metric: acc}}]
""",
    "written": HEAD
    + """
output_type: generate_until
doc_to_text: "{{{{q}}}}"
doc_to_target: answer
generation_kwargs: {{until: ["\\n"], max_gen_toks: 2}}
metric_list: [{{metric: exact_match}}]
""",
}
OWN = """
def place(doc): return doc["label"] % 2
def beginnings(doc): return doc["choices"][:2]
def unlikely(doc, results): return {"acc": float(results[0][0] < -1)}
def least(doc, results): return {"acc": float(results[doc["label"]] == min(results))}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = random.Random(0)
    made = tmp_path_factory.mktemp("soft")
    documents = []
    for i in range(N):
        choices = [rng.choice("一二三"), *rng.sample(["10", "2", "3四", "五六七", "77777"], 2)]
        label = rng.randrange(3)
        labels = sorted({label, rng.randrange(3)})
        documents.append(
            {"id": f"q{i}", "q": str(i), "choices": choices, "label": label, "labels": labels, "answer": choices[label]}
        )
    data = made / "documents.jsonl"
    data.write_text("".join(json.dumps(document, ensure_ascii=False) + "\n" for document in documents))
    (made / "own.py").write_text(OWN)
    for name, text in TASKS.items():
        (made / f"{name}.yaml").write_text(text.format(name=name, data=data))
    return made


def log_likelihood(model: Any, tokenizer: Any, context: str, continuation: str) -> float:
    """Sum of the log-probabilities of the continuation's tokens, from the model's logits."""
    import torch

    before = tokenizer(context)["input_ids"] if context else [tokenizer.bos_token_id or tokenizer.eos_token_id]
    whole = before + tokenizer(continuation)["input_ids"]  # a token a character
    start = len(before)
    with torch.no_grad():
        log_probabilities = model(torch.tensor([whole])).logits[0].log_softmax(-1)
    return sum(float(log_probabilities[place - 1, whole[place]]) for place in range(start, len(whole)))


def expected(name: str, metric: str, document: dict[str, Any], log_likelihoods: list[float]) -> float | None:
    """The definition once more, by scipy and in other words."""
    from scipy.special import softmax

    if name in ("own", "own_cloze", "written") or metric == "perplexity":
        return None
    if name == "cloze":
        return float(np.exp(log_likelihoods[0]))
    choices = document["choices"][:2] if name == "inputs" else document["choices"]
    lengths = {
        "acc": [1] * len(choices),
        "acc_norm": [len(choice) for choice in choices],
        "acc_bytes": [len(choice.encode()) for choice in choices],
    }
    right = (
        [document["label"] % 2]
        if name == "inputs"
        else document["labels"]
        if name == "several"
        else [document["label"]]
    )
    if metric == "acc_mutual_info":
        conditional, alone = np.split(np.array(log_likelihoods), 2)
        return float(softmax(conditional - alone)[right].sum())
    of_options = np.array(log_likelihoods[: len(choices)])
    return float(softmax(of_options / np.array(lengths[metric]))[right].sum())


CASES = [
    ("place", "acc"),
    ("place", "acc_norm"),
    ("place", "acc_bytes"),
    ("text", "acc"),
    ("text", "acc_norm"),
    ("several", "acc"),
    ("mutual", "acc"),
    ("mutual", "acc_mutual_info"),
    ("inputs", "acc"),
    ("inputs", "acc_norm"),
    ("own", "acc"),
    ("cloze", "acc"),
    ("own_cloze", "acc"),
    ("written", "exact_match"),
]


@pytest.mark.parametrize("template", [False, True], ids=["plain", "chat"])
@pytest.mark.parametrize(("name", "metric"), CASES)
def test_live_logged_and_worked_out_are_one(
    folder, model_folder, model_and_tokenizer, tmp_path, name, metric, template
):
    model, tokenizer = model_and_tokenizer
    benchmark = load_benchmarks({name: f"{metric},none"}, include_paths=[folder])[name]
    assert benchmark.per_item
    asking = {"apply_chat_template": template, "fewshot_as_multiturn": template}
    live = Scorer({name: benchmark}, model, tokenizer, batch_size=8, **asking).score(name, benchmark.item_ids)
    assert live.right.keys() == set(benchmark.item_ids)

    built = benchmark.items.requests(dict.fromkeys(benchmark.item_ids, 0))
    for item, document in benchmark.items.documents.items():
        if template or name == "written":
            break
        asked = [request.args for request in sorted(built[item], key=lambda request: request.idx)]
        of_model = [log_likelihood(model, tokenizer, context, text) for context, text in asked]
        assert live.soft.get(item) == pytest.approx(expected(name, metric, document, of_model), abs=1e-5)

    settings = EvaluationSettings(dtype="float32", device="cpu", batch_size=8, **asking)
    logs = collect_logs(benchmark, [str(model_folder)], tmp_path / "logs", settings)
    read = read_responses(logs, name, metric=metric, filter_name="none").matrix
    assert dict(zip(read.item_ids, read.values[0], strict=True)) == live.right
    if (name, metric) == ("inputs", "acc_norm"):  # a log does not tell the length of options in prompts
        assert live.soft and read.soft is None
    elif live.soft:
        logged = dict(zip(read.item_ids, read.soft[0], strict=True))
        assert logged == pytest.approx(live.soft, rel=1e-5)
        assert len(set(live.soft.values())) > N / 2
    else:
        assert name in ("own", "own_cloze", "written") and read.soft is None
