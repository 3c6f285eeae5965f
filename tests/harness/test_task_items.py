"""Items of groups, of several metrics, and of documents that cannot be right: against lm-eval's own evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from merge3_plugin.errors import ConfigError, DataError
from merge3_plugin.harness.benchmark import load_benchmarks
from merge3_plugin.harness.loading import find_task_manager
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
    assert scorer.evaluate({}, [group])[1][group] == pytest.approx(results[group]["acc,none"], abs=1e-12)
    assert len({results[leaf]["acc,none"] for leaf in SIZES}) > 1, "sub-tasks of equal scores show no weighting"
    assert (balance is None) == (group == "by_size")


def test_no_group_of_ours_needs_a_scan_of_lm_evals_own_tasks(group_folder: Path) -> None:
    assert "hellaswag" not in find_task_manager(GROUPS, [group_folder]).task_index


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


def test_every_metric_has_its_own_weights(group_folder: Path) -> None:
    items = load_benchmarks({"of_another_metric": "acc,none"}, include_paths=[group_folder])["of_another_metric"].items
    assert items.balance is None and items.with_metric("acc_norm,none").balance is not None


@pytest.mark.parametrize("n_anchors", [28, 12])
def test_a_sample_of_a_group_counts_as_lm_eval_counts_its_sub_tasks(
    n_anchors: int, group_folder: Path, tmp_path: Path, make_manager: Callable, evaluate: Callable
) -> None:
    (tmp_path / "sampled.yaml").write_text(
        "task: sampled\nclass: !function merge3_plugin.harness.anchor_task.AnchorTask\n"
        f"base: alike\nmetric: acc,none\nanchors: {n_anchors}\n"
    )
    results = evaluate(make_manager(group_folder, tmp_path), "alike", "sampled")
    scored = [sample["merge3_acc"] for sample in results["samples"]["sampled"]]
    weights = [1 / SIZES[one.item.split("/")[0]] for one in scored]
    found = results["results"]["sampled"]["merge3_acc,none"]
    assert len(scored) == n_anchors and found == pytest.approx(
        np.average([one.score for one in scored], weights=weights)
    )
    if n_anchors == sum(SIZES.values()):
        assert found == pytest.approx(results["results"]["alike"]["acc,none"], abs=1e-12)


SPEECH = """
task: speech
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}="
doc_to_target: "{{{{answer}}}}"
target_delimiter: ""
generation_kwargs: {{until: ["\\n"], max_gen_toks: 1, do_sample: false}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
filter_list: [{{name: number, filter: [{{function: regex, regex_pattern: "([0-9]+)"}}, {{function: take_first}}]}}]
"""
SPEECH_JA = """
task: speech_ja
class: !function merge3_plugin.harness.anchor_task.AnchorTask
base: speech
metric: exact_match,number
language: ja
anchors: 60
"""
SENTENCES = {
    "ja": ["答えは18です。", "したがって合計は18ドルになります。", "残りの卵は18個です。", "彼女は18ドルを稼ぎます。"],
    "en": [
        "The answer is 18.",
        "Therefore she earns 18 dollars.",
        "There are 18 eggs left over.",
        "So he runs 18 meters.",
    ],
    "de": ["Die Antwort ist 18.", "Daher verdient sie 18 Dollar.", "Es bleiben also 18 Eier übrig."],
    "it": ["La risposta è quindi 18.", "Pertanto guadagna 18 dollari al giorno.", "Rimangono ancora 18 uova."],
    "nl": ["Het antwoord is dus 18.", "Daarom verdient ze 18 dollar per dag.", "Er zijn nog 18 eieren over."],
    None: ["18", "x = 18", "$18", "17"],
}


@pytest.fixture(scope="module")
def speech_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("speech")
    rows = [{"question": f"{i * 37 % 101}+{i}", "answer": "18"} for i in range(60)]
    data = folder / "speech.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in rows))
    (folder / "speech.yaml").write_text(SPEECH.format(data=data))
    (folder / "speech_ja.yaml").write_text(SPEECH_JA)
    return folder


@pytest.fixture(scope="module")
def speaker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model to which every sentence is one token: what it says is real, and in five languages."""
    from merge3_plugin.testing import make_tiny_llama, make_tiny_tokenizer

    tokenizer = make_tiny_tokenizer("0123456789+=", extra_tokens=[s for of in SENTENCES.values() for s in of])
    return make_tiny_llama(tmp_path_factory.mktemp("speaker"), 1, tokenizer=tokenizer)


@pytest.fixture(scope="module")
def spoken(
    speech_folder: Path, speaker: Path, no_environment_report: None, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """The logs of a plain run of the base task and of the anchor task, and what lm-eval wrote for the base's items."""
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    from merge3_plugin.harness.registration import remember

    manager = TaskManager(include_path=str(speech_folder), include_defaults=False)
    remember(manager)
    folder = tmp_path_factory.mktemp("spoken")
    tracker = EvaluationTracker(output_path=str(folder))
    results = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(speaker), "dtype": "float32"},
        device="cpu",
        batch_size=16,
        tasks=["speech", "speech_ja"],
        task_manager=manager,
        bootstrap_iters=0,
        evaluation_tracker=tracker,
    )
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples)
    for name in samples:
        tracker.save_results_samples(task_name=name, samples=samples[name])
    return {"folder": folder, "results": results["results"], "samples": samples}


def test_a_right_number_in_another_language_counts_nowhere(speech_folder: Path, speaker: Path, spoken: dict) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from merge3_plugin.extract.responses import read_responses

    languages = {sentence: language for language, of in SENTENCES.items() for sentence in of}
    said = {s["doc"]["question"]: s["resps"][0][0] for s in spoken["samples"]["speech"]}
    expected = {q: float("18" in text and languages.get(text) in ("ja", None)) for q, text in said.items()}
    foreign_but_right = [q for q, text in said.items() if "18" in text and languages.get(text) not in ("ja", None)]
    assert {languages.get(text) for text in said.values()} >= {"ja", "en", "it", None} and len(foreign_but_right) > 10
    assert 0 < sum(expected.values()) < 60 - len(foreign_but_right)

    # lm_eval on the anchor task, whose anchors are all items
    anchored = {s["doc"]["question"]: s["merge3_acc"].score for s in spoken["samples"]["speech_ja"]}
    assert anchored == expected
    assert spoken["results"]["speech_ja"]["merge3_acc,none"] == pytest.approx(sum(expected.values()) / 60)
    assert spoken["results"]["speech"]["exact_match,number"] > sum(expected.values()) / 60

    # the search's scorer, by the task's own setting, by the config's, and without
    parts = AutoModelForCausalLM.from_pretrained(speaker), AutoTokenizer.from_pretrained(speaker)
    for task, language, wanted in (
        ("speech_ja", None, expected),
        ("speech", {"speech": "ja"}, expected),
        ("speech_ja", {"speech_ja": None}, {q: float("18" in text) for q, text in said.items()}),
    ):
        metric = {task: "exact_match,number"}
        benchmark = load_benchmarks(metric, include_paths=[speech_folder], language=language)[task]
        scores = Scorer({task: benchmark}, *parts, batch_size=16).score(task, benchmark.item_ids).right
        documents = benchmark.items.documents
        assert {documents[item]["question"]: score for item, score in scores.items()} == wanted
        assert benchmark.provenance["language"] == (language or {"": "ja"}).get(task, "ja")

    # a calibration from logs: a plain log of the base task knows no check, so its texts are checked when it is read
    question = {item: d["question"] for item, d in benchmark.items.documents.items()}
    for task in ("speech", "speech_ja"):
        read = read_responses([spoken["folder"]], task, language="ja")
        scores = dict(zip(map(question.get, read.matrix.item_ids), read.matrix.values[0], strict=True))
        assert scores == expected and read.provenance["language"] == "ja"
    plain = read_responses([spoken["folder"]], "speech").matrix
    assert plain.accuracy()[0] == pytest.approx(spoken["results"]["speech"]["exact_match,number"])


def test_the_log_says_which_answers_were_in_another_language(spoken: dict) -> None:
    from merge3_plugin.extract.language import speaks
    from merge3_plugin.harness.task_items import OTHER_LANGUAGE

    for sample in spoken["samples"]["speech_ja"]:
        text, kept = sample["resps"][0][0], sample["filtered_resps"][0]
        assert (kept == OTHER_LANGUAGE) == (speaks(text, "ja") is False)


def test_a_calibration_made_without_the_language_check_is_refused(
    speech_folder: Path, speaker: Path, spoken: dict, tmp_path: Path, make_manager: Callable
) -> None:
    from merge3_plugin.extract.responses import read_responses
    from merge3_plugin.harness.calibrations import check_settings

    (benchmark,) = load_benchmarks({"speech_ja": None}, include_paths=[speech_folder]).values()
    now = {**benchmark.provenance, "chat_template": None}
    checked, unchecked = (
        read_responses([spoken["folder"]], "speech_ja", base=["speech"], language=language).provenance
        for language in ("ja", None)
    )
    of_old_release = {key: value for key, value in unchecked.items() if key != "language"}
    of_npz = {"task": "speech", "metric": "exact_match", "filter": "number"}
    for provenance in (checked, of_npz):
        check_settings(type("Made", (), {"provenance": provenance})(), now)
    for provenance in (unchecked, of_old_release):
        with pytest.raises(DataError, match="expected a calibration for language 'ja', got one for None"):
            check_settings(type("Made", (), {"provenance": provenance})(), now)


def test_a_language_is_refused_where_less_is_better(speech_folder: Path, speaker: Path, tmp_path: Path) -> None:
    """Nothing, which a foreign answer scores, would be the best there."""
    from merge3_plugin.extract.responses import read_responses
    from merge3_plugin.harness.collect import EvaluationSettings, collect_logs

    wrong = (speech_folder / "speech.yaml").read_text().replace("task: speech", "task: errors")
    (tmp_path / "errors.yaml").write_text(wrong.replace("higher_is_better: true", "higher_is_better: false"))
    line = "task 'errors': expected a language only for a metric of which more is better, got 'exact_match'"
    with pytest.raises(ConfigError, match=line):
        load_benchmarks({"errors": None}, include_paths=[tmp_path], language={"errors": "ja"})
    benchmark = load_benchmarks({"errors": None}, include_paths=[tmp_path])["errors"]
    logs = collect_logs(benchmark, [str(speaker)], tmp_path / "logs", EvaluationSettings(dtype="float32", device="cpu"))
    assert read_responses(logs, "errors").matrix.n_items == 60
    with pytest.raises(DataError, match=line):
        read_responses(logs, "errors", language="ja")


def test_a_language_is_refused_where_nothing_is_generated(group_folder: Path, local_tasks: Path, logs: Path) -> None:
    from merge3_plugin.extract.responses import read_responses

    with pytest.raises(ConfigError, match="task 'small': expected a language only for a task that generates answers"):
        load_benchmarks({"small": "acc,none"}, include_paths=[group_folder], language={"small": "ja"})
    with pytest.raises(DataError, match="expected generated answers for the language check, got none"):
        read_responses([logs], "named", language="ja")
    with pytest.raises(ConfigError, match="task 'gen': expected a language as its ISO 639 code .*got 'japanese'"):
        load_benchmarks({"gen": "exact_match,strict"}, include_paths=[local_tasks], language={"gen": "japanese"})


@pytest.mark.parametrize("language", ["de", None])
def test_lm_evals_metadata_sets_the_language(speech_folder: Path, make_manager: Callable, language: str | None) -> None:
    def metadata(code: str | None) -> dict[str, Any]:
        return {"merge3": {"tasks": {"speech_ja": {"language": code}}}}

    tasks = make_manager(speech_folder, metadata=metadata(language)).load(["speech_ja"])["tasks"]
    assert tasks["speech_ja"].items.language == language
    with pytest.raises(ConfigError, match="task 'speech_ja': expected a language as its ISO 639 code"):
        make_manager(speech_folder, metadata=metadata("xx")).load(["speech_ja"])


@pytest.mark.parametrize(("label", "shown"), [(3, "3"), (-1, "-1"), ("d", "'d'")])
def test_a_label_that_is_no_choice_stops_a_run_with_the_documents_name(
    tmp_path: Path, evaluate: Callable, make_manager: Callable, label: Any, shown: str
) -> None:
    rows = [{"id": f"q{i}", "q": f"{i}?", "choices": ["a", "b", "c"], "label": "a"} for i in range(4)]
    rows[2]["label"] = label
    if not isinstance(label, str):
        rows = [{**row, "label": 0 if row["label"] == "a" else label} for row in rows]
    data = tmp_path / "odd.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "odd.yaml").write_text(LEAF.format(name="odd", data=data))
    anchored = {"task": "odd_anchored", "base": "odd", "metric": "acc,none"}
    (tmp_path / "odd_anchored.yaml").write_text(
        "class: !function merge3_plugin.harness.anchor_task.AnchorTask\n"
        + json.dumps(anchored)[1:-1].replace(", ", "\n")
    )
    expected = f"item 'q2': expected one of its 3 choices as the label \\(from 0, or as text\\), got {shown}"
    with pytest.raises(DataError, match=expected):
        load_benchmarks({"odd": "acc,none"}, include_paths=[tmp_path])
    with pytest.raises(DataError, match=expected):
        evaluate(make_manager(tmp_path), "odd_anchored")
