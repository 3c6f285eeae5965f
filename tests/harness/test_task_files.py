"""Every YAML file that we ship: indexed, loaded, rendered and scored on local data of the documented fields."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from merge3_plugin.harness.registration import remember, tasks_folder

GROUPS = {
    "merge3_arc": [f"merge3_arc_{language}" for language in ("ja", "en", "de", "it", "nl")],
    "merge3_gsm8k": ["merge3_gsm8k_ja", "merge3_gsm8k_en"],
}
TASKS = [*GROUPS["merge3_arc"], *GROUPS["merge3_gsm8k"],
         "merge3_hellaswag_en", "merge3_mmlu_en", "merge3_truthfulqa_en", "merge3_winogrande_en"]  # fmt: skip

ARC = {
    "_id": "Mercury_7175875",
    "prompt": "水は何度で沸騰しますか。",
    "choices": ["0度", "50度", "100度", "200度"],
    "label": 2,
}
GSM_JA = {"question": "りんごが2個あります。3個買うと何個ですか。", "answer_number": 5}
GSM_EN = {"question": "Two apples and three more?", "answer": "2 + 3 = <<2+3=5>>5\n#### 5"}
HELLASWAG = {"ind": 4, "activity_label": "Roof shingle removal", "ctx_a": "A man is sitting on a roof.", "ctx_b": "he",
             "endings": ["is using wrap.", "is ripping tiles [title] off.", "holds a cube.", "pulls."],
             "label": "3", "source_id": "activitynet~v", "split": "val", "split_type": "indomain"}  # fmt: skip
MMLU = {"question": "What is 2 + 2?", "subject": "s", "choices": ["3", "4", "5", "6"], "answer": 1}
TRUTHFUL = {
    "question": "What color is the sky?",
    "mc1_targets": {"choices": ["Blue", "Green"], "labels": [1, 0]},
    "mc2_targets": {"choices": ["Blue", "Azure", "Green"], "labels": [1, 1, 0]},
}
WINOGRANDE = {"sentence": "Ann was louder than Bea, so _ was heard.", "option1": "Ann", "option2": "Bea", "answer": "1"}


def variants(document: dict[str, Any], n: int, field: str) -> list[dict[str, Any]]:
    """The document and n - 1 others that differ in one field."""
    others = [{**document, field: f"{i} {document[field]}"} for i in range(1, n)]
    return [{**d, **({"_id": f"Mercury_{i}"} if "_id" in d else {})} for i, d in enumerate([document, *others])]


def arc_data(folder: Path) -> Path:
    return write(folder / "arc.jsonl", variants(ARC, 3, "prompt"))


def split_data(document: dict[str, Any], field: str, scored: str, examples: str):
    def make(folder: Path) -> Path:
        rows = variants(document, 14, field)
        write(folder / f"{scored}.jsonl", rows[:3])
        write(folder / f"{examples}.jsonl", rows[3:])
        return folder

    return make


def mmlu_data(folder: Path) -> Path:
    from merge3_plugin.harness.registration import running_task_manager

    index = running_task_manager().task_index
    leaves = [name for tag, entry in index.items() if tag.startswith("mmlu_") and tag.endswith("_tasks")
              for name in entry.tags if index[name].yaml_path.parent.name == "default"]  # fmt: skip
    assert len(leaves) == 57
    for leaf in leaves:
        split_data(MMLU, "question", "test", "dev")(folder / leaf)
    return folder


DATA = {
    **dict.fromkeys(GROUPS["merge3_arc"], arc_data),
    "merge3_gsm8k_ja": lambda folder: write(folder / "ja.jsonl", variants(GSM_JA, 3, "question")),
    "merge3_gsm8k_en": split_data(GSM_EN, "question", "test", "train"),
    "merge3_hellaswag_en": split_data(HELLASWAG, "ctx_a", "validation", "train"),
    "merge3_mmlu_en": mmlu_data,
    "merge3_truthfulqa_en": lambda folder: write(folder / "t.jsonl", variants(TRUTHFUL, 3, "question")),
    "merge3_winogrande_en": split_data(WINOGRANDE, "sentence", "validation", "train"),
}

# The last question of the prompt, the continuations (or the target), and the right one.
EXPECTED: dict[str, tuple[str, list[str], Any]] = {
    "merge3_arc_ja": ("質問: 水は何度で沸騰しますか。\n答え:", ["0度", "50度", "100度", "200度"], 2),
    "merge3_arc_en": ("Question: 水は何度で沸騰しますか。\nAnswer:", [" 0度", " 50度", " 100度", " 200度"], 2),
    "merge3_arc_de": ("Frage: 水は何度で沸騰しますか。\nAntwort:", [" 0度", " 50度", " 100度", " 200度"], 2),
    "merge3_arc_it": ("Domanda: 水は何度で沸騰しますか。\nRisposta:", [" 0度", " 50度", " 100度", " 200度"], 2),
    "merge3_arc_nl": ("Vraag: 水は何度で沸騰しますか。\nAntwoord:", [" 0度", " 50度", " 100度", " 200度"], 2),
    "merge3_gsm8k_ja": ("質問: りんごが2個あります。3個買うと何個ですか。\n答え:", [], "5"),
    "merge3_gsm8k_en": ("Question: Two apples and three more?\nAnswer:", [], "5"),
    "merge3_hellaswag_en": (
        "Roof shingle removal: A man is sitting on a roof. He",
        [" is using wrap.", " is ripping tiles. off.", " holds a cube.", " pulls."],
        3,
    ),
    "merge3_mmlu_en": ("What is 2 + 2?\nA. 3\nB. 4\nC. 5\nD. 6\nAnswer:", [" A", " B", " C", " D"], 1),
    "merge3_truthfulqa_en": ("Q: What color is the sky?\nA:", [" Blue", " Azure", " Green"], 0),
    "merge3_winogrande_en": ("Ann was louder than Bea, so Ann", [" was heard."], "was heard."),
}
SHOTS = {"merge3_gsm8k_en": 5, "merge3_hellaswag_en": 10, "merge3_mmlu_en": 5, "merge3_winogrande_en": 5}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def stock_manager() -> Any:
    """lm-eval's own tasks beside ours: one scan for all tests of this process."""
    from merge3_plugin.harness.loading import find_task_manager

    return find_task_manager(["merge3_mmlu_en"])


@pytest.fixture
def load(stock_manager, tmp_path):
    from merge3_plugin.harness.anchor_task import anchor_task

    def build(name: str) -> Any:
        remember(stock_manager)
        task = anchor_task(stock_manager, name, metric=None, data=DATA[name](tmp_path / name), id_field=None)
        task.set_config("num_fewshot", task.get_config("num_fewshot") or 0)
        return task

    return build


def test_every_file_is_indexed_under_its_own_name(stock_manager):
    """lm-eval skips a broken file in silence."""
    index = stock_manager.task_index
    files = sorted(tasks_folder().glob("**/*.yaml"))
    assert {index[path.stem].yaml_path for path in files} == set(files)
    assert {path.stem for path in files} == {*TASKS, *GROUPS}
    assert not [name for name in index if name.startswith("merge3_") and name not in {*TASKS, *GROUPS}]


@pytest.mark.parametrize("name", GROUPS)
def test_groups_name_their_tasks(stock_manager, name):
    config = yaml.safe_load((tasks_folder() / f"{name}.yaml").read_text())
    assert config["task"] == GROUPS[name]
    assert [entry["metric"] for entry in config["aggregate_metric_list"]] == ["merge3_acc", "merge3_items"]


@pytest.mark.parametrize("name", TASKS)
def test_prompts_are_rendered_from_the_documented_fields(load, name):
    task = load(name)
    documents = task.items.documents
    first = next(iter(documents))
    requests = task.items.requests({first: 0})[first]
    question, continuations, target = EXPECTED[name]
    prompt = requests[0].args[0]
    assert prompt.endswith(question)
    assert prompt.count("\n\n") >= SHOTS.get(name, 0)
    assert task.get_config("num_fewshot") == SHOTS.get(name, 0)
    if continuations:
        assert [request.args[1] for request in requests][: len(continuations)] == continuations
    else:
        assert requests[0].args[1]["until"] and requests[0].args[1]["do_sample"] is False
    assert task.doc_to_target(documents[first]) == target
    if name == "merge3_winogrande_en":
        assert [request.args[0].rsplit(" ", 1)[1] for request in requests] == ["Ann", "Bea"]


@pytest.mark.parametrize("name", TASKS)
def test_metadata_says_where_the_items_come_from(load, name):
    task = load(name)
    assert {"source_benchmark", "split", "licence", "fields", "version"} <= task.config.metadata.keys()
    assert "documentation" in task.config.metadata["fields"]
    provenance = task.provenance()
    assert provenance["source_benchmark"] and provenance["split"] and provenance["licence"]


@pytest.mark.parametrize("name", TASKS)
def test_right_answers_score_one_and_wrong_answers_nothing(load, name):
    task = load(name)
    item, document = next(iter(task.items.documents.items()))
    requests = task.items.requests({item: 0})[item]
    right = EXPECTED[name][2]
    if task.OUTPUT_TYPE == "generate_until":
        for text, score in ((f"2 + 3 = {right}, so {right}.00", 1.0), (f"{right} or 17", 0.0), ("none", 0.0)):
            requests[0].resps, requests[0].filtered_resps = [text], {}
            task.items.apply_filter(requests)
            assert task.items.score(document, [requests[0].filtered_resps["none"]]) == score, text
        return
    chosen = right if isinstance(right, int) else 0  # winogrande's continuation is the same: the first context is right
    good = [(-1.0 if n == chosen else -90.0, False) for n in range(len(requests))]
    bad = [(-90.0 if n == chosen else -1.0, False) for n in range(len(requests))]
    graded = name == "merge3_truthfulqa_en"  # probability of all true answers: "Azure" is one too
    assert task.items.score(document, good) == pytest.approx(1.0)
    assert task.items.score(document, bad) == (pytest.approx(0.5) if graded else 0.0)
    even = task.items.soft(document, [(-1.0, False)] * len(requests))
    if graded:  # the score says already how probable the true answers are
        assert task.items.soft(document, good) is even is None
        return
    assert task.items.soft(document, good) > 1 / len(requests) > task.items.soft(document, bad)
    if name != "merge3_hellaswag_en":  # by character: the endings' lengths differ
        assert even == pytest.approx(1 / len(requests)) and task.items.soft(document, good) == pytest.approx(1.0)


def test_items_of_the_arc_tasks_are_paired_across_languages(load):
    drawn = {tuple(d.item_id for d in load(name).eval_docs) for name in GROUPS["merge3_arc"]}
    assert len(drawn) == 1


def test_a_number_in_another_language_is_no_answer_to_a_japanese_question(load):
    task = load("merge3_gsm8k_ja")
    item, document = next(iter(task.items.documents.items()))
    request = task.items.requests({item: 0})[item][0]
    answers = {
        "りんごは全部で2 + 3 = 5個になります。答えは5です。": 1.0,
        "There are 2 + 3 = 5 apples in total. The answer is 5.": 0.0,
        "Insgesamt sind es 2 + 3 = 5 Äpfel. Die Antwort ist 5.": 0.0,
        "总共有2 + 3 = 5个苹果。答案是5。": 0.0,
        "りんごは全部で6個になります。": 0.0,
        "2 + 3 = 5": 1.0,
    }
    for text, score in answers.items():
        request.resps, request.filtered_resps = [text], {}
        task.items.apply_filter([request])
        assert task.items.score(document, [request.filtered_resps["none"]]) == score, text
    assert load("merge3_gsm8k_en").items.language is None


def test_the_subjects_of_mmlu_count_by_their_size_as_in_lm_eval(load):
    from merge3_plugin.harness.metrics import leaf_shares

    items = load("merge3_mmlu_en").items
    assert items.group is not None and items.group.name == "mmlu" and items.balance is None
    sizes = {leaf: 100 + 10 * number for number, leaf in enumerate(items.leaves)}
    total = sum(sizes.values())
    by_size = pytest.approx({leaf: size / total for leaf, size in sizes.items()})
    assert leaf_shares(items.group, sizes, "acc,none") == by_size
    assert leaf_shares(items.group, sizes, "acc_norm,none") is None


def test_text_labels_are_numbers_too():
    from merge3_plugin.harness.fields import label

    assert label({"label": "2"}) == label({"label": 2}) == 2
