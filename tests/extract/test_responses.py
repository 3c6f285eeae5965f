"""Response matrices from real lm-eval logs: shuffled, limited, doubled, filtered, mixed and damaged; and from .npz."""

import json
import random
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from merge3_plugin.errors import DataError
from merge3_plugin.extract.items import content_hash
from merge3_plugin.extract.responses import read_npz, read_responses

CHEMBENCH = Path(__file__).parents[3] / "shared" / "data" / "responses_chembench.npz"


@pytest.fixture
def copied(logs, tmp_path):
    """The logs in a folder that the test may change."""
    return shutil.copytree(logs, tmp_path / "logs")


def sample_files(folder, task):
    return sorted(folder.rglob(f"samples_{task}_*.jsonl"))


def rewrite(path, change):
    """Apply ``change`` to the list of samples of a log."""
    samples = change([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()])
    path.write_text("".join(json.dumps(s, ensure_ascii=False) + "\n" for s in samples), encoding="utf-8")


def edited(key, value, at=0):
    def change(samples):
        samples[at] = samples[at] | {key: value}
        return samples

    return change


def edit_results(folder, change):
    path = next(folder.glob("results_*.json"))
    results = json.loads(path.read_text(encoding="utf-8"))
    change(results)
    path.write_text(json.dumps(results), encoding="utf-8")


def test_scores_are_those_that_lm_eval_logged(logs, tiny_models):
    responses = read_responses([logs], "named")
    matrix = responses.matrix
    assert matrix.model_ids == tuple(sorted(map(str, tiny_models)))
    assert set(matrix.item_ids) == {f"q{i}" for i in range(20)} and matrix.item_groups is None
    for file in sample_files(logs, "named"):
        model = json.loads(next(file.parent.glob("results_*.json")).read_text())["model_name"]
        row = dict(zip(matrix.item_ids, matrix.models([model]).values[0], strict=True))
        samples = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        assert {s["doc"]["id"]: s["acc"] for s in samples} == row
        hashes = dict(zip(matrix.item_ids, responses.item_hashes, strict=True))
        assert {s["doc"]["id"]: content_hash(s["doc"]) for s in samples} == hashes
    assert responses.notes == ()
    assert len(np.unique(matrix.values)) == 2


def test_provenance_says_what_was_run(logs):
    provenance = read_responses([logs], "pair", metric="acc_norm").provenance
    expected = {"task": "pair", "metric": "acc_norm", "filter": "none", "num_fewshot": 0, "chat_template": None}
    expected |= {"dataset_path": "json", "dataset_name": None, "revision": None, "split": "test", "n_documents": 14}
    assert {name: provenance[name] for name in expected} == expected
    assert len(provenance["models"]) == 4 and len(provenance["files"]) == 8
    assert json.loads(json.dumps(provenance)) == provenance


def test_shuffled_logs_give_the_same_matrix(logs, copied):
    for seed, file in enumerate(copied.rglob("samples_*.jsonl")):
        rewrite(file, lambda s, seed=seed: random.Random(seed).sample(s, len(s)))
        rewrite(file, lambda s: [each | {"doc_id": i} for i, each in enumerate(s)])
    for task in ("named", "unnamed", "pair"):
        plain, shuffled = read_responses([logs], task), read_responses([copied], task)
        assert shuffled.matrix.item_ids == plain.matrix.item_ids
        assert shuffled.item_hashes == plain.item_hashes
        np.testing.assert_array_equal(shuffled.matrix.values, plain.matrix.values)


def test_a_list_of_files_reads_like_their_folder(logs, copied):
    files = sample_files(logs, "named")
    assert (
        read_responses(files, "named").matrix.values.tolist() == read_responses([logs], "named").matrix.values.tolist()
    )
    for file in copied.rglob("results_*.json"):
        file.unlink()
    alone = read_responses([copied], "named")
    assert alone.matrix.model_ids == tuple(sorted(f.parent.name for f in files))
    assert "num_fewshot" not in alone.provenance and alone.provenance["n_documents"] is None


def test_each_filter_is_read_for_itself(logs, copied):
    for file in sample_files(copied, "gen"):
        rewrite(file, lambda ss: [s | {"exact_match": float(s["filter"] == "digit")} for s in ss])
    strict, digit = (read_responses([copied], "gen", filter_name=name) for name in ("strict", "digit"))
    assert strict.matrix.item_ids == digit.matrix.item_ids == tuple(map(str, range(10)))
    assert (strict.matrix.values == 0).all() and (digit.matrix.values == 1).all()
    with pytest.raises(DataError, match=r"got 2; there are: --metric exact_match --filter digit, .*--filter strict$"):
        read_responses([logs], "gen")
    with pytest.raises(DataError, match=r"metric 'f1', got 0; there are: --metric acc --filter none"):
        read_responses([logs], "named", metric="f1")


def test_limited_logs_give_nan(tiny_models, run_lm_eval, logs, copied):
    short = next(f for f in sample_files(copied, "named") if "model_1" in f.parent.name).parent
    shutil.rmtree(short)
    run_lm_eval(tiny_models[1], ["named"], copied, limit=6)
    full, limited = read_responses([logs], "named"), read_responses([copied], "named")
    row = limited.matrix.model_ids.index(str(tiny_models[1]))
    asked = ~np.isnan(limited.matrix.values)
    assert asked[row].sum() == 6 and np.delete(asked, row, axis=0).all()
    assert {i for i, a in zip(limited.matrix.item_ids, asked[row], strict=True) if a} == {f"q{i}" for i in range(6)}
    np.testing.assert_array_equal(limited.matrix.values[asked], full.matrix.values[asked])
    assert len(limited.notes) == 1 and "answered 6 of 20 items" in limited.notes[0]
    alone = read_responses([short], "named")
    assert alone.matrix.n_items == 6 and any("6 of the task's 20 items" in note for note in alone.notes)


def test_doubled_documents_stay_apart(logs):
    matrix = read_responses([logs], "unnamed").matrix
    doubled = [i for i in matrix.item_ids if i.endswith("#2")]
    assert matrix.n_items == 15 and len(doubled) == 3
    firsts = [i.removesuffix("#2") for i in doubled]
    np.testing.assert_array_equal(matrix.items(doubled).values, matrix.items(firsts).values)


def test_leaves_of_a_group_are_told_apart(logs):
    group, left = read_responses([logs], "pair").matrix, read_responses([logs], "left").matrix
    assert group.n_items == 14 and {"left/q3", "right/q3"} <= set(group.item_ids)
    assert group.item_groups == tuple(i.split("/")[0] for i in group.item_ids)
    np.testing.assert_array_equal(group.items([f"left/{i}" for i in left.item_ids]).values, left.values)


def test_older_results_list_tasks_beside_groups(logs, copied):
    for folder in copied.iterdir():
        edit_results(folder, lambda r: r["group_subtasks"].update({task: [] for task in ("named", "left", "right")}))
    for task in ("named", "pair"):
        was, now = read_responses([logs], task).matrix, read_responses([copied], task).matrix
        assert (now.item_ids, now.item_groups) == (was.item_ids, was.item_groups)
        np.testing.assert_array_equal(now.values, was.values)


def test_the_newest_run_of_a_model_is_read(logs, copied):
    file = sample_files(copied, "named")[0]
    newer = file.with_name("samples_named_2999-01-01T00-00-00.000000.jsonl")
    shutil.copy(file, newer)
    shutil.copy(next(file.parent.glob("results_*.json")), file.with_name("results_2999-01-01T00-00-00.000000.json"))
    rewrite(newer, lambda ss: [s | {"acc": 1.0 - s["acc"]} for s in ss])
    plain, again = read_responses([logs], "named"), read_responses([copied], "named")
    changed = (plain.matrix.values != again.matrix.values).any(axis=1)
    assert changed.sum() == 1 and "more than once; reading samples_named_2999" in again.notes[0]


def test_logs_of_our_own_anchor_tasks(tiny_models, run_lm_eval, logs, tmp_path):
    for model in tiny_models[:2]:
        run_lm_eval(model, ["anchored_unnamed", "anchored_pair"], tmp_path)
    for task in ("unnamed", "pair"):
        anchored = read_responses([tmp_path], f"anchored_{task}")
        full = read_responses([logs], task)
        assert anchored.matrix.values.shape == (2, 9) and not np.isnan(anchored.matrix.values).any()
        same = full.matrix.models(anchored.matrix.model_ids).items(anchored.matrix.item_ids)
        np.testing.assert_array_equal(anchored.matrix.values, same.values)
        np.testing.assert_allclose(anchored.matrix.soft, same.soft, rtol=1e-5)
        hashes = dict(zip(full.matrix.item_ids, full.item_hashes, strict=True))
        assert anchored.item_hashes == tuple(hashes[i] for i in anchored.matrix.item_ids)
        assert anchored.provenance["metric"] == "merge3_acc"
    assert any(i.endswith("#2") for i in read_responses([tmp_path], "anchored_unnamed").matrix.item_ids)
    file = sample_files(tmp_path, "anchored_pair")[0]
    untouched = file.read_text(encoding="utf-8")
    item, score, _ = json.loads(untouched.splitlines()[0])["merge3_acc"]
    for value in ([item, score], [item, score, None], [item, score, 2]):  # of before there were soft scores, or odd
        rewrite(file, edited("merge3_acc", value))
        assert np.isnan(read_responses([file], "anchored_pair").matrix.soft).sum() == 1
    for value in (score, [], [item], [7, score, 0.5], None, [[item], score, 0.5], [item, "1", 0.5], [item, 2, 0.5]):
        rewrite(file, edited("merge3_acc", value))
        with pytest.raises(DataError, match="expected"):
            read_responses([file], "anchored_pair")
    for broken in (edited("metrics", []), lambda ss: [*ss, ss[0]]):
        file.write_text(untouched, encoding="utf-8")
        rewrite(file, broken)
        with pytest.raises(DataError, match="in every line; the log is damaged|expected distinct ids"):
            read_responses([file], "anchored_pair")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_fewshot": 2}, "expected one few-shot count in all logs, got 0 for .* and 2 for"),
        ({"system_instruction": "a"}, "expected one system instruction in all logs"),
    ],
)
def test_logs_of_other_settings_are_not_mixed(tiny_models, run_lm_eval, logs, tmp_path, settings, message):
    other = run_lm_eval(tiny_models[3], ["named"], tmp_path, **settings)
    models = [f for f in sample_files(logs, "named") if "model_3" not in f.parent.name]
    with pytest.raises(DataError, match=message):
        read_responses([*models, other], "named")
    for file in other.rglob("results_*.json"):  # without the settings the prompts still tell
        file.unlink()
    with pytest.raises(DataError, match="same prompt for all models, got different ones for item 'q"):
        read_responses([*models, other], "named")


def test_another_template_or_task_version_is_not_mixed(copied):
    folder = sample_files(copied, "named")[1].parent
    edit_results(folder, lambda r: r.update(chat_template_sha="abc"))
    with pytest.raises(DataError, match=r"expected one chat template in all logs, got None for .* and 'abc' for"):
        read_responses([copied], "named")
    edit_results(folder, lambda r: (r.update(chat_template_sha=None), r["versions"].update(named=2)))
    with pytest.raises(DataError, match="expected one task version"):
        read_responses([copied], "named")


def test_another_document_under_the_same_id_is_refused(copied):
    file = sample_files(copied, "named")[2]
    rewrite(file, lambda ss: [s | {"doc": s["doc"] | {"label": 2}} for s in ss])
    with pytest.raises(DataError, match="same document for all models, got different ones for item 'q"):
        read_responses([copied], "named")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edited("acc", float("nan")), "expected a score in .0, 1. from 'acc', got nan"),
        (edited("acc", 1.5), "got 1.5; choose a metric"),
        (edited("acc", 10**400), "got 1000.*; choose a metric"),
        (edited("acc", [0, 1]), r"got \[0, 1\]; choose a metric"),
        (edited("filtered_resps", [["nan", "False"], ["-1.0", "True"]]), "item 'q0': expected finite log-likelihoods"),
        (edited("doc", "text"), "line 1: expected a sample of lm_eval .* unexpected 'doc'"),
        (edited("prompt_hash", 7), "line 1: expected a sample of lm_eval .* unexpected 'prompt_hash'"),
        (lambda ss: [], "got an empty file"),
        (
            lambda ss: [{k: v for k, v in s.items() if k != "filter"} for s in ss],
            "line 1: expected a sample of lm_eval",
        ),
    ],
)
def test_bad_samples_are_one_line_errors(copied, change, message):
    rewrite(sample_files(copied, "named")[0], change)
    with pytest.raises(DataError, match=message) as caught:
        read_responses([copied], "named", metric="acc", filter_name="none")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("section", ["config", "configs", "group_subtasks", "n-samples", "n-shot", "versions"])
def test_results_of_another_shape_are_one_line_errors(copied, section):
    edit_results(next(copied.iterdir()), lambda r: r.update({section: None}))
    with pytest.raises(DataError, match=f"expected lm_eval's results, got in '{section}': .*, it is NoneType"):
        read_responses([copied], "named")


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda r: r["config"].update(model_revision=["a"]), "config.model_revision"),
        (lambda r: r.update(model_name=7), "model_name"),
        (lambda r: r["configs"].update(named=[1]), "configs.named"),
        (lambda r: r["configs"]["named"].update(dataset_kwargs="a"), "configs.named.dataset_kwargs"),
        (lambda r: r["configs"]["named"].update(target_delimiter=None), "configs.named.target_delimiter"),
        (lambda r: r["group_subtasks"].update(pair="left"), "group_subtasks.pair"),
        (lambda r: r["group_subtasks"].update(pair=["left", 1]), "group_subtasks.pair.1"),
        (lambda r: r["n-samples"].update(named=20), "n-samples.named"),
        (lambda r: r["n-samples"].update(named={"original": "many"}), "n-samples.named.original"),
        (lambda r: r["results"].update(named=None), "results.named"),
    ],
)
def test_deeper_damage_of_results_is_one_line(copied, change, where):
    edit_results(next(copied.iterdir()), change)
    for task in ("named", "pair"):
        with pytest.raises(
            DataError, match=f"expected lm_eval's results, got in '{where}': .*; move the file"
        ) as caught:
            read_responses([copied], task)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 100_000, "null", "[]", "7", '{"n-shot": ', "\x00"])
def test_results_that_are_no_results_are_one_line(copied, text):
    next(next(copied.iterdir()).glob("results_*.json")).write_text(text)
    with pytest.raises(DataError, match="expected lm_eval's results, got .*; move the file") as caught:
        read_responses([copied], "named")
    assert "\n" not in str(caught.value)


def test_a_group_within_itself_is_opened_once(logs, copied):
    for folder in copied.iterdir():
        edit_results(folder, lambda r: r["group_subtasks"].update(pair=["left", "pair", "right"]))
    assert read_responses([copied], "pair").matrix.item_ids == read_responses([logs], "pair").matrix.item_ids


def test_soft_scores_are_the_shares_of_the_right_options(logs):
    from scipy.special import softmax

    for metric in ("acc", "acc_norm"):
        matrix = read_responses([logs], "named", metric=metric).matrix
        for file in sample_files(logs, "named"):
            model = json.loads(next(file.parent.glob("results_*.json")).read_text())["model_name"]
            row = dict(zip(matrix.item_ids, matrix.models([model]).soft[0], strict=True))
            for line in file.read_text(encoding="utf-8").splitlines():
                sample = json.loads(line)
                of_options = np.array([float(pair[0]) for pair in sample["filtered_resps"]])
                lengths = [len(choice) for choice in sample["doc"]["choices"]] if metric == "acc_norm" else 1
                expected = softmax(of_options / lengths)[sample["doc"]["label"]]
                assert row[sample["doc"]["id"]] == pytest.approx(expected)
    assert read_responses([logs], "gen", filter_name="digit").matrix.soft is None


def test_soft_scores_that_some_logs_do_not_tell_are_nan(logs, copied):
    file = sample_files(copied, "named")[1]
    rewrite(file, lambda ss: [{k: v for k, v in s.items() if k != "arguments"} for s in ss])
    full, part = read_responses([logs], "named").matrix, read_responses([copied], "named").matrix
    np.testing.assert_array_equal(part.values, full.values)
    unknown = np.isnan(part.soft).all(axis=1)
    assert unknown.sum() == 1
    np.testing.assert_array_equal(part.soft[~unknown], full.soft[~unknown])
    short = sample_files(copied, "named")[0]
    rewrite(short, lambda ss: ss[:7])
    assert (~np.isnan(read_responses([short], "named").matrix.soft)).sum() == 7


def test_a_torn_log_names_the_line(copied):
    file = sample_files(copied, "named")[0]
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"line 20: expected a sample .*the file is damaged"):
        read_responses([copied], "named")


def test_what_is_not_there_is_named(logs, tmp_path):
    with pytest.raises(DataError, match=r"samples of task 'namd', got none; did you mean 'named'\?"):
        read_responses([logs], "namd")
    with pytest.raises(DataError, match="got nothing there"):
        read_responses([tmp_path / "nowhere"], "named")
    with pytest.raises(DataError, match="got none in this folder"):
        read_responses([tmp_path], "named")
    with pytest.raises(DataError, match=r"did you mean 'choices'|expected text or a number in 'choice'"):
        read_responses([logs], "named", id_field="choice")


def test_npz_round_trip(tmp_path):
    values = np.array([[0, 1, np.nan], [0.5, 1, 0]])
    np.savez(tmp_path / "r.npz", values=values, model_ids=["a", "b"], item_ids=["x", "y", "z"], item_groups=list("ggh"))
    matrix = read_responses([tmp_path / "r.npz"], "t").matrix
    np.testing.assert_array_equal(matrix.values, values)
    assert (matrix.model_ids, matrix.item_ids, matrix.item_groups) == (("a", "b"), ("x", "y", "z"), ("g", "g", "h"))
    assert matrix.soft is None and matrix.balance is None
    soft, balance = [[0.4, 0.6, np.nan], [0.5, 0.9, 0.1]], [2, 2, 1]
    np.savez(tmp_path / "s.npz", values=values, model_ids=["a", "b"], soft=np.array(soft, np.float16), balance=balance)
    graded = read_npz(tmp_path / "s.npz", "t").matrix
    np.testing.assert_allclose(graded.soft, soft, atol=1e-3)
    np.testing.assert_array_equal(graded.item_weights, [0.4, 0.4, 0.2])
    np.savez(tmp_path / "plain.npz", values=values, model_ids=["a", "b"])
    assert read_npz(tmp_path / "plain.npz", "t").matrix.item_ids == ("0", "1", "2")
    np.savez(tmp_path / "bytes.npz", values=values, model_ids=np.array([b"a", "é".encode()]))
    assert read_npz(tmp_path / "bytes.npz", "t").matrix.model_ids == ("a", "é")


def test_bad_npz_files_are_one_line_errors(tmp_path, logs):
    path = tmp_path / "r.npz"
    good = {"values": np.zeros((2, 3)), "model_ids": ["a", "b"]}
    for arrays, message in [
        ({"values": good["values"]}, "expected an array 'model_ids', got values"),
        (good | {"model_ids": ["a"]}, r"expected shape \(models, items\) = \(1, 3\), got \(2, 3\)"),
        (good | {"values": np.full((2, 3), 2.0)}, r"expected scores in \[0, 1\], got 2"),
        (good | {"values": np.array([[object()]])}, "expected an .npz of plain arrays, got: Object arrays"),
        (good | {"item_ids": ["x", "x", "y"]}, "got 'x' more than once"),
        (good | {"item_ids": [["x", "x", "y"]]}, "expected item_ids in one dimension"),
        (good | {"soft": np.zeros((2, 2))}, r"soft scores: expected the shape of the scores, \(2, 3\), got \(2, 2\)"),
        (good | {"soft": np.full((2, 3), -0.1)}, r"soft scores: expected scores in \[0, 1\]"),
        (good | {"soft": np.full((2, 3), "a")}, "soft scores: expected"),
        (good | {"balance": [1, 1]}, "balance: expected"),
        (good | {"balance": [1, 0, 1]}, "balance: expected"),
        (good | {"item_groups": ["g"]}, "item groups: expected 3"),
    ]:
        np.savez(path, **arrays)
        with pytest.raises(DataError, match=message) as caught:
            read_npz(path, "t")
        assert "\n" not in str(caught.value)
    np.savez(path, **good)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"text", whole[:-40]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="plain arrays"):
            read_npz(path, "t")
    np.savez_compressed(path, **good | {"values": np.random.default_rng(0).integers(0, 2, (2, 3000))})
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):  # in the compressed bytes, in the headers and in the directory
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with suppress(DataError):  # some bytes, such as a date, tell nothing
            read_npz(path, "t")
    with pytest.raises(DataError, match="no such file"):
        read_npz(tmp_path / "none.npz", "t")
    with pytest.raises(DataError, match=r"name one \.npz"):
        read_responses([path, logs], "t")


@pytest.mark.skipif(not CHEMBENCH.exists(), reason="the shared response matrix is not here")
def test_the_chembench_matrix_reads():
    matrix = read_npz(CHEMBENCH, "chembench").matrix
    assert matrix.values.shape == (22, 2854) and set(np.unique(matrix.values)) == {0.0, 1.0}
    assert matrix.item_groups is not None and "Claude-3.5 (Sonnet)" in matrix.model_ids
