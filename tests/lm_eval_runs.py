"""Real lm-eval runs of tiny models on small local tasks, kept as ``lm_eval --log_samples`` keeps them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

CHOICE = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}, train: {data}}}}}
test_split: test
training_split: train
output_type: multiple_choice
doc_to_text: "{{{{q}}}}\\n答え:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{label}}}}"
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
metadata: {{version: 1}}
"""
GENERATION = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{q}}}} "
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 4, do_sample: false}}
metric_list: [{{metric: exact_match}}]
filter_list:
  - {{name: strict, filter: [{{function: take_first}}]}}
  - {{name: digit, filter: [{{function: regex, regex_pattern: "([0-9a-z])"}}, {{function: take_first}}]}}
metadata: {{version: 1}}
"""
ANCHORED = """
task: anchored_{name}
class: !function merge3_plugin.harness.anchor_task.AnchorTask
base: {name}
metric: acc,none
anchors: 9
"""


def _write(path: Path, documents: list[dict]) -> Path:
    path.write_text("".join(json.dumps(d, ensure_ascii=False) + "\n" for d in documents), encoding="utf-8")
    return path


def choice_documents(n: int, first: int = 0, ids: bool = True) -> list[dict]:
    documents = []
    for i in range(first, first + n):
        choices = [str((i * 7 + k * 13) % 97) for k in range(3)]
        document = {"q": f"{i}+{i * 3 % 11}", "choices": choices, "label": i % 3}
        documents.append({"id": f"q{i}", **document} if ids else document)
    return documents


@pytest.fixture(scope="session")
def local_tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tasks: ``named`` (own ids), ``unnamed`` (no ids, three doubled documents), ``gen`` (two filters), the
    groups ``pair`` and ``even`` of ``left`` and ``right`` (equal ids; both count alike in ``even``), and anchor tasks
    of 9 items, ``anchored_unnamed`` and ``anchored_pair``."""
    folder = tmp_path_factory.mktemp("tasks")
    unnamed = choice_documents(12, first=20, ids=False)
    data = {
        "named": choice_documents(20),
        "unnamed": [*unnamed, *unnamed[:3]],
        "left": choice_documents(6),
        "right": choice_documents(8, first=3),
    }
    for name, documents in data.items():
        path = _write(folder / f"{name}.jsonl", documents)
        (folder / f"{name}.yaml").write_text(CHOICE.format(name=name, data=path), encoding="utf-8")
    path = _write(folder / "gen.jsonl", [{"question_id": i, "q": f"{i}", "answer": str(i % 10)} for i in range(10)])
    (folder / "gen.yaml").write_text(GENERATION.format(name="gen", data=path), encoding="utf-8")
    for name in ("unnamed", "pair"):
        (folder / f"anchored_{name}.yaml").write_text(ANCHORED.format(name=name), encoding="utf-8")
    group = {"group": "pair", "task": ["left", "right"], "aggregate_metric_list": [{"metric": "acc"}]}
    (folder / "pair.yaml").write_text(json.dumps(group), encoding="utf-8")
    group |= {"group": "even", "aggregate_metric_list": [{"metric": "acc", "weight_by_size": False}]}
    (folder / "even.yaml").write_text(json.dumps(group), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def no_environment_report() -> Iterator[None]:
    """lm-eval describes the machine in every result, which takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
        yield


@pytest.fixture(scope="session")
def run_lm_eval(local_tasks: Path, no_environment_report: None):
    """Runs one model as the ``lm_eval`` command does and keeps its logs under ``output``."""
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    from merge3_plugin.harness.registration import remember

    manager = TaskManager(include_path=str(local_tasks), include_defaults=False)

    def run(model: Path, tasks: list[str], output: Path, **settings) -> Path:
        remember(manager)  # as the hook on TaskManager does where the package is installed
        tracker = EvaluationTracker(output_path=str(output))
        results = simple_evaluate(
            model="hf",
            model_args={"pretrained": str(model), "dtype": "float32"},
            tasks=tasks,
            batch_size=16,
            device="cpu",
            bootstrap_iters=0,
            task_manager=manager,
            evaluation_tracker=tracker,
            **settings,
        )
        samples = results.pop("samples")
        tracker.save_results_aggregated(results=results, samples=samples)
        for name in results["configs"]:
            tracker.save_results_samples(task_name=name, samples=samples[name])
        return output

    return run


@pytest.fixture(scope="session")
def logs(tiny_models: list[Path], run_lm_eval, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Logs of four models on all local tasks, 0-shot: a folder of model folders."""
    output = tmp_path_factory.mktemp("logs")
    for model in tiny_models:
        run_lm_eval(model, ["named", "unnamed", "gen", "pair"], output)
    return output
