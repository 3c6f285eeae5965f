"""Plain lm-eval tasks on local documents, anchor tasks over them as a user would write them, and a tiny model."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CHOICES = "一二三四"

PLAIN_CHOICE = r"""
task: plain_choice
custom_dataset: !function documents.choice
training_split: train
test_split: test
fewshot_split: train
output_type: multiple_choice
doc_to_text: "質問: {{prompt}}\n答え:"
doc_to_choice: choices
doc_to_target: label
target_delimiter: ""
description: "数の問題。\n"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""

PLAIN_NUMBER = r"""
task: plain_number
custom_dataset: !function documents.number
training_split: train
test_split: test
fewshot_split: train
output_type: generate_until
doc_to_text: "{{question}}="
doc_to_target: "{{answer}}"
target_delimiter: ""
generation_kwargs: {until: ["\n"], max_gen_toks: 12, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
filter_list:
  - name: first
    filter:
      - {function: regex, regex_pattern: "([0-9])", group_select: 0}
      - {function: take_first}
  - name: last
    filter:
      - {function: regex, regex_pattern: "([0-9])", group_select: -1}
      - {function: take_first}
"""

PLAIN_LEAF = r"""
task: plain_leaf_%s
custom_dataset: !function documents.leaf_%s
training_split: train
test_split: test
output_type: multiple_choice
doc_to_text: "%s: {{prompt}}"
doc_to_choice: choices
doc_to_target: label
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""

PLAIN_TEXT = r"""
task: plain_text
custom_dataset: !function documents.text
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: text
metric_list:
  - {metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
"""

# Means over items, but of numbers outside [0, 1].
PLAIN_MARGIN = r"""
task: plain_margin
custom_dataset: !function documents.choice
test_split: test
output_type: multiple_choice
doc_to_text: prompt
doc_to_choice: choices
doc_to_target: label
process_results: !function documents.margin
metric_list:
  - {metric: margin, aggregation: mean, higher_is_better: true}
"""
PLAIN_PERCENT = r"""
task: plain_percent
custom_dataset: !function documents.number
test_split: test
output_type: generate_until
doc_to_text: question
doc_to_target: answer
generation_kwargs: {until: ["\n"], max_gen_toks: 4}
process_results: !function documents.percent
metric_list:
  - {metric: percent, aggregation: mean, higher_is_better: true}
"""

PLAIN_GROUP = "group: plain_group\ntask: [plain_leaf_a, plain_leaf_b]\n"

ANCHORS = r"""
task: %s
class: !function merge3_plugin.harness.anchor_task.AnchorTask
base: %s
metric: %s
anchors: 5
metadata: {version: 2.0, source_benchmark: a test}
"""

DOCUMENTS = """
import json
from pathlib import Path
from datasets import Dataset, DatasetDict

def _splits(name):
    found = json.loads(Path(__file__).with_name("documents.json").read_text())[name]
    return DatasetDict({split: Dataset.from_list(rows) for split, rows in found.items()})

def choice(**_): return _splits("choice")
def number(**_): return _splits("number")
def leaf_a(**_): return _splits("leaf_a")
def leaf_b(**_): return _splits("leaf_b")
def text(**_): return _splits("text")
def margin(doc, results): return {"margin": results[0][0] - results[1][0]}
def percent(doc, results): return {"percent": 100.0 * (results[0] == doc["answer"])}
"""


def choice_documents(n: int, seed: int, prefix: str) -> list[dict]:
    rng = random.Random(seed)
    return [
        {
            "_id": f"{prefix}{i}",
            "prompt": f"{rng.randrange(100)}と{rng.randrange(100)}は",
            "choices": rng.sample(CHOICES, 4),
            "label": rng.randrange(4),
        }
        for i in range(n)
    ]


def number_documents(n: int, seed: int) -> list[dict]:
    rng = random.Random(seed)
    return [{"question": f"{rng.randrange(1000)}+{i}", "answer": str(rng.randrange(10))} for i in range(n)]


def write_tasks(folder: Path) -> Path:
    """A folder for ``include_path`` with the tasks of this module."""
    folder.mkdir(parents=True, exist_ok=True)
    leaves = {name: choice_documents(7, seed, name) for name, seed in (("a", 2), ("b", 3))}
    documents = {
        "choice": {"train": choice_documents(9, 0, "t"), "test": choice_documents(12, 1, "q")},
        "number": {"train": number_documents(9, 4), "test": number_documents(12, 5)},
        "leaf_a": {"train": choice_documents(5, 6, "t"), "test": leaves["a"]},
        "leaf_b": {"train": choice_documents(5, 7, "t"), "test": leaves["b"]},
        "text": {"test": [{"text": f"{i} {i + 1} {i + 2}"} for i in range(5)]},
    }
    (folder / "documents.json").write_text(json.dumps(documents))
    (folder / "documents.py").write_text(DOCUMENTS)
    files = {
        "plain_choice": PLAIN_CHOICE,
        "plain_number": PLAIN_NUMBER,
        "plain_leaf_a": PLAIN_LEAF % ("a", "a", "A"),
        "plain_leaf_b": PLAIN_LEAF % ("b", "b", "B"),
        "plain_text": PLAIN_TEXT,
        "plain_group": PLAIN_GROUP,
        "plain_margin": PLAIN_MARGIN,
        "plain_percent": PLAIN_PERCENT,
        "anchor_choice": ANCHORS % ("anchor_choice", "plain_choice", "acc,none"),
        "anchor_number": ANCHORS % ("anchor_number", "plain_number", "exact_match,last"),
        "anchor_group": ANCHORS % ("anchor_group", "plain_group", "acc,none"),
    }
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


@pytest.fixture(scope="session")
def tasks_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from merge3_plugin.testing import TINY_CHAT_TEMPLATE, make_tiny_llama, make_tiny_tokenizer

    tokenizer = make_tiny_tokenizer(chat_template=TINY_CHAT_TEMPLATE)
    return make_tiny_llama(tmp_path_factory.mktemp("model"), 3, tokenizer=tokenizer)


@pytest.fixture
def model_and_tokenizer(model_folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(model_folder), AutoTokenizer.from_pretrained(model_folder)


@pytest.fixture
def make_manager(tasks_folder: Path) -> Callable[..., Any]:
    """Makes a TaskManager as lm_eval does, remembered as by the autoload hook."""
    from lm_eval.tasks import TaskManager

    from merge3_plugin.harness.registration import remember

    def make(*more_folders: Path, metadata: dict[str, Any] | None = None) -> Any:
        folders = [str(tasks_folder), *map(str, more_folders)]
        made = TaskManager(include_path=folders, include_defaults=False, metadata=metadata)
        remember(made)
        return made

    return make


@pytest.fixture
def manager(make_manager: Callable[..., Any]) -> Any:
    return make_manager()


@pytest.fixture(autouse=True)
def _without_environment_report(no_environment_report: None) -> None:
    """For all tests here."""


@pytest.fixture
def evaluate(model_folder: Path) -> Callable[..., dict[str, Any]]:
    """lm-eval's own evaluation of the tiny model."""
    from lm_eval import simple_evaluate

    def run(manager: Any, *tasks: str, model: str = "hf", **settings: Any) -> dict[str, Any]:
        return simple_evaluate(
            model=model,
            model_args={"pretrained": str(model_folder), "dtype": "float32"},
            device="cpu",
            tasks=list(tasks),
            task_manager=manager,
            batch_size=4,
            bootstrap_iters=0,
            **settings,
        )

    return run
