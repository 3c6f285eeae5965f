"""Benchmarks: names, items, local data, and how little is scanned to find them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from merge3_plugin.errors import ConfigError, DataError
from merge3_plugin.extract.items import content_hash
from merge3_plugin.harness.benchmark import load_benchmarks
from merge3_plugin.harness.registration import running_task_manager


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return path


def arc_rows(n: int = 8) -> list[dict]:
    return [{"_id": f"Mercury_{i}", "prompt": f"{i}?", "choices": ["a", "b", "c"], "label": i % 3} for i in range(n)]


def test_own_and_included_tasks_need_no_scan_of_lm_evals(tasks_folder, tmp_path):
    data = write_jsonl(tmp_path / "ja.jsonl", arc_rows())
    benchmarks = load_benchmarks(
        {"merge3_arc_ja": "acc,none", "plain_group": None}, include_paths=[tasks_folder], data={"merge3_arc_ja": data}
    )
    assert "hellaswag" not in running_task_manager().task_index
    arc, group = benchmarks.values()
    assert arc.item_ids == tuple(f"Mercury_{i}" for i in range(8))
    assert arc.item_hashes[0] == content_hash(arc_rows()[0])
    assert arc.item_groups is None and arc.per_item
    expected = {"task": "merge3_arc_ja", "metric": "acc", "filter": "none", "num_fewshot": 0, "split": "test"}
    expected |= {"data": "ja.jsonl", "source_benchmark": "ARC-Challenge", "dataset_path": "aialt/MuBench"}
    assert expected.items() <= arc.provenance.items()
    json.dumps(arc.provenance)
    assert group.item_ids[0] == "plain_leaf_a/a0" and len(group.item_ids) == 14
    assert group.item_groups == ("plain_leaf_a",) * 7 + ("plain_leaf_b",) * 7


def test_an_anchor_task_stands_for_its_base(tasks_folder):
    names = {"anchor_choice": "merge3_acc,none", "anchor_number": "exact_match,first"}
    benchmarks = load_benchmarks(names, include_paths=[tasks_folder])
    plain = load_benchmarks({"plain_choice": "acc,none"}, include_paths=[tasks_folder])
    assert benchmarks["anchor_choice"].item_ids == plain["plain_choice"].item_ids
    assert benchmarks["anchor_choice"].provenance["metric"] == "acc"
    assert benchmarks["anchor_number"].provenance["filter"] == "first"


def test_a_zero_few_shot_count_of_a_task_stays(tasks_folder, tmp_path):
    data = write_jsonl(tmp_path / "ja.jsonl", arc_rows())
    names = {"merge3_arc_ja": None, "plain_choice": "acc,none"}
    benchmarks = load_benchmarks(names, include_paths=[tasks_folder], num_fewshot=2, data={"merge3_arc_ja": data})
    assert [b.provenance["num_fewshot"] for b in benchmarks.values()] == [0, 2]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_local_data_of_every_format_is_the_same_data(tmp_path, suffix):
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / f"arc{suffix}"
    if suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(arc_rows()), path)
    elif suffix == ".json":
        path.write_text(json.dumps(arc_rows()))
    else:
        write_jsonl(path, arc_rows())
    (benchmark,) = load_benchmarks({"merge3_arc_en": None}, data={"merge3_arc_en": path}).values()
    assert [dict(document) for document in benchmark.items.documents.values()] == arc_rows()


def test_local_csv_and_fields_that_only_some_documents_have(tmp_path):
    from merge3_plugin.harness.local_data import read_documents

    (tmp_path / "a.csv").write_text("question,answer_number\n1+1?,2\n1+2?,3\n")
    assert read_documents(tmp_path / "a.csv")[1] == {"question": "1+2?", "answer_number": 3}
    rows = read_documents(write_jsonl(tmp_path / "b.jsonl", [{"a": 1}, {"a": 2, "b": "x"}]))
    assert rows[0] == {"a": 1, "b": None} and rows[1] == {"a": 2, "b": "x"}


def test_examples_from_a_single_file_never_hold_the_asked_document(tasks_folder, tmp_path):
    rows = [{"_id": str(i), "prompt": f"P{i}!", "choices": ["a", "b"], "label": 0} for i in range(6)]
    data = write_jsonl(tmp_path / "one.jsonl", rows)
    (benchmark,) = load_benchmarks(
        {"plain_choice": "acc,none"}, include_paths=[tasks_folder], num_fewshot=4, data={"plain_choice": data}
    ).values()
    built = benchmark.items.requests({item: i for i, item in enumerate(benchmark.item_ids)})
    for item, requests in built.items():
        prompt = requests[0].args[0]
        assert prompt.count(f"P{item}!") == 1 and prompt.count("!") == 5


def test_a_folder_holds_one_file_for_each_split_or_leaf(tasks_folder, tmp_path):
    train = [{"_id": f"t{i}", "prompt": f"T{i}!", "choices": ["a", "b"], "label": 0} for i in range(3)]
    for split, rows in (("test", arc_rows()), ("train", train)):
        write_jsonl(tmp_path / "single" / f"{split}.jsonl", rows)
    write_jsonl(tmp_path / "group" / "plain_leaf_a.jsonl", arc_rows(3))
    write_jsonl(tmp_path / "group" / "plain_leaf_b" / "test.jsonl", arc_rows(2))
    benchmarks = load_benchmarks(
        {"plain_choice": "acc,none", "plain_group": None},
        include_paths=[tasks_folder],
        num_fewshot=1,
        data={"plain_choice": tmp_path / "single", "plain_group": tmp_path / "group"},
    )
    single, group = benchmarks.values()
    (request, *_) = single.items.requests({single.item_ids[0]: 0})[single.item_ids[0]]
    assert "T" in request.args[0].split("!")[0]
    assert group.item_ids == tuple(
        f"plain_leaf_{leaf}/Mercury_{i}" for leaf, n in (("a", 3), ("b", 2)) for i in range(n)
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "expected a data file or folder, got nothing there; did you mean 'other.jsonl'"),
        ("", "expected documents, got an empty file"),
        ('{"prompt": "1"', "expected documents of equal fields"),
        ("[1, 2]", "a line that is no JSON object"),
        ('{"question": "1"}', "expected every field that its prompt reads"),
    ],
)
def test_bad_local_data_is_one_line(tmp_path, content, message):
    (tmp_path / "other.jsonl").write_text("{}")
    path = tmp_path / "others.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError) as error:
        load_benchmarks({"merge3_arc_ja": None}, data={"merge3_arc_ja": path})
    assert message in str(error.value) and "\n" not in str(error.value)


def test_data_that_cannot_be_loaded_says_how_to_go_without(monkeypatch):
    with pytest.raises(DataError, match=r"aialt/MuBench.*name a local file"):
        load_benchmarks({"merge3_arc_ja": None})


def test_unknown_tasks_name_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'merge3_arc_ja'"):
        load_benchmarks({"merge3_arc_jp": None})
    with pytest.raises(ConfigError, match="did you mean 'hellaswag'"):
        load_benchmarks({"helaswag": None})
    with pytest.raises(ConfigError, match="expected a folder of task YAML"):
        load_benchmarks({"merge3_arc_ja": None}, include_paths=["nowhere"])
