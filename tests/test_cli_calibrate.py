"""``merge3 calibrate`` and ``merge3 anchors show``, from real logs and by running real models."""

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from merge3_plugin.api import calibrate
from merge3_plugin.artifact import load_calibration, save_calibration
from merge3_plugin.calibrate import leave_one_model_out
from merge3_plugin.cli import merge3, run
from merge3_plugin.errors import DataError
from merge3_plugin.harness.calibrations import check_settings
from merge3_plugin.testing import simulate_merges, simulate_responses
from tests.commands import refused
from tests.lm_eval_runs import choice_documents

pytestmark = pytest.mark.usefixtures("no_environment_report")


def test_calibrating_from_logs_then_showing(command, logs, tiny_models, tmp_path):
    status, out, _ = command("calibrate", "--task", "named", "--from", logs, "--anchors", 6, "--out", "n.safetensors")
    assert status == 0
    for line in (
        "task     named (acc, none, 0-shot)",
        "models   4",
        "6 anchors",
        "6 random items",
        "Wrote n.safetensors",
    ):
        assert line in out
    calibration = load_calibration(tmp_path / "n.safetensors")
    assert calibration.n_items == 20 and len(calibration.anchors) == 6 and calibration.item_hashes is not None
    assert calibration.responses.model_ids == tuple(sorted(map(str, tiny_models)))
    assert calibration.provenance["split"] == "test" and calibration.provenance["seed"] == 0

    status, out, _ = command("anchors", "show", "n.safetensors")
    assert status == 0 and str(tiny_models[0]) in out and "samples_named_" in out
    assert all(f"\n  {item}  weight" in out for item in calibration.anchors.item_ids)
    status, out, _ = command("anchors", "show", "n.safetensors", "--json")
    shown = json.loads(out)
    assert [a["id"] for a in shown["anchors"]] == list(calibration.anchors.item_ids)
    assert shown["provenance"] == calibration.provenance and shown["n_items"] == 20


def test_the_printed_errors_are_those_of_leaving_one_model_out(command, tmp_path):
    world = simulate_responses(7, 80, rng=np.random.default_rng(0), misfit=0.7)
    np.savez(tmp_path / "r.npz", values=world.values, model_ids=world.model_ids)
    ask = ("calibrate", "--task", "t", "--from", "r.npz", "--anchors", 15, "--seed", 3, "--out", "t.safetensors")
    _, out, _ = command(*ask)
    method = load_calibration("t.safetensors").anchors.method
    found = leave_one_model_out(world, 15, seed=3, anchors=method)
    assert f"15 anchors          {100 * found.error:6.2f} points" in out
    assert f"15 random items     {100 * found.random_error:6.2f} points" in out
    assert found.error != found.random_error
    chosen = leave_one_model_out(world, 15, seed=3)
    anew = f"design chosen anew  {100 * chosen.error:6.2f} points"
    assert (anew in out) == (abs(chosen.error - found.error) >= 0.0001)


def test_models_that_answered_a_part_are_no_measure_of_the_error(command, tmp_path):
    values = (np.random.default_rng(0).random((4, 60)) < 0.6).astype(float)
    values[:2, 30:] = np.nan
    np.savez(tmp_path / "r.npz", values=values, model_ids=list("abcd"))
    status, out, _ = command("calibrate", "--task", "t", "--from", "r.npz", "--anchors", 6, "--out", "t.safetensors")
    assert status == 0 and "error    unknown" in out and "got 2" in out and "Wrote t.safetensors" in out


def test_who_names_the_metric_of_an_npz_is_held_to_it(command, tmp_path):
    world = simulate_responses(4, 30, rng=np.random.default_rng(0))
    np.savez(tmp_path / "r.npz", values=world.values, model_ids=world.model_ids)
    ask = ("calibrate", "--task", "t", "--from", "r.npz", "--anchors", 5, "--out", "t.safetensors")
    status, out, _ = command(*ask, "--metric", "acc_norm")
    assert status == 0 and "task     t (acc_norm, none)" in out
    with pytest.raises(DataError, match="expected a calibration for metric 'acc', got one for 'acc_norm'"):
        check_settings(load_calibration("t.safetensors"), {"task": "t", "metric": "acc", "filter": "none"})
    assert command(*ask)[0] == 0
    check_settings(load_calibration("t.safetensors"), {"task": "t", "metric": "acc", "filter": "none"})


def test_logs_of_other_items_do_not_make_a_calibration(command, tmp_path):
    values = np.full((2, 40), np.nan)
    values[0, :20], values[1, 20:] = np.arange(20) % 2, np.arange(20) % 3 == 0
    np.savez(tmp_path / "r.npz", values=values, model_ids=["a", "b"], item_ids=[f"q{j}" for j in range(40)])
    ask = ("calibrate", "--task", "t", "--from", "r.npz", "--anchors", 5, "--out", "t.safetensors")
    assert "expected items that several models answered, got none, but 'q0' of 'a' and 'q20' of 'b'" in refused(
        command(*ask)
    )


def test_perplexities_are_never_estimated(command, tmp_path):
    for model in "ab":
        (tmp_path / model).mkdir()
        line = {"doc": {"page": "text"}, "filter": "none", "prompt_hash": "h", "metrics": ["word_perplexity"]}
        with (tmp_path / model / "samples_wiki_2024-01-01T00-00-00.jsonl").open("w") as file:
            file.write(json.dumps({**line, "word_perplexity": [-100.0, 20], "filtered_resps": [-100.0]}) + "\n")
    ask = ("calibrate", "--task", "wiki", "--from", "a", "b", "--anchors", 5, "--out", "t.safetensors")
    assert "word_perplexity belong to the whole set, and are no accuracies to estimate" in refused(command(*ask))
    assert "one of the whole set is never estimated" in refused(command(*ask, "--metric", "word_perplexity"))


def test_few_models_are_told_what_would_help(command, logs):
    status, out, _ = command("calibrate", "--task", "named", "--from", logs, "--anchors", 6, "--out", "n.safetensors")
    assert status == 0 and "Not enough data: 4 models cannot show the error" in " ".join(out.split())
    assert "With 5 models" in " ".join(out.split())


@pytest.mark.parametrize("name", ["r.md", "r.html"])
def test_a_report_beside_the_calibration(command, tmp_path, name):
    world = simulate_responses(4, 60, rng=np.random.default_rng(0))
    np.savez(tmp_path / "r.npz", values=world.values, model_ids=["org/a|b", *world.model_ids[1:]])
    ask = ("calibrate", "--task", "mine", "--from", "r.npz", "--anchors", 12, "--out", "m.safetensors")
    status, out, _ = command(*ask, "--report", name)
    assert status == 0 and f"Wrote {name}, the report." in out and "Wrote m.safetensors" in out
    text = Path(name).read_text(encoding="utf-8")
    assert "Calibration of mine" in text and "Error by number of anchors" in text and "org/a" in text
    verdict = next(line for line in out.splitlines() if "nough data" in line)
    assert verdict[:40] in text, "the report opens with what the terminal says"
    assert command(*ask[:-1], "again.safetensors")[0] == 0
    assert Path("again.safetensors").read_bytes() == Path("m.safetensors").read_bytes()


def test_calibrating_on_merges_and_their_parents(command, tmp_path):
    family = simulate_merges(2, 6, 60, rng=np.random.default_rng(0))
    np.savez(tmp_path / "r.npz", values=family.values, model_ids=family.model_ids)
    ask = ("calibrate", "--task", "t", "--from", "r.npz", "--anchors", 12, "--out", "t.safetensors")
    status, _, errors = command(*ask, "--parents", "p0", "p1", "--anchor-method", "neyman")
    assert status == 0, errors
    calibration = load_calibration("t.safetensors")
    assert calibration.anchors.method == "neyman" and calibration.provenance["parents"] == ["p0", "p1"]
    assert calibration.provenance["cross_validation"]["models"] == 6 and "plog" in calibration.errors
    assert "expected a known model id, got 'p2'" in refused(command(*ask, "--parents", "p0", "p2"))


def test_ways_to_choose_are_checked_before_anything_is_read(command):
    ask = ("calibrate", "--task", "t", "--from", "nowhere", "--out", "t.safetensors", "--anchor-method")
    assert "did you mean 'stratified'" in refused(command(*ask, "stratfied"))
    assert "expected --parents, by whose answers it draws" in refused(command(*ask, "neyman"))


def test_showing_what_cross_validation_chose_from(command, tmp_path):
    world = simulate_responses(6, 80, rng=np.random.default_rng(0))
    calibration = calibrate(world, 12, seed=0)
    save_calibration(calibration, tmp_path / "m.safetensors")
    status, out, _ = command("anchors", "show", "m.safetensors")
    record = calibration.provenance["cross_validation"]
    chosen = record["auto"]["alone"]
    assert status == 0 and f"auto     {chosen} (alone)" in out
    for design, errors in record["designs"].items():
        assert f"{design} {100 * errors[chosen]:.2f}" in out
    assert f"{chosen} {100 * calibration.errors[chosen]:.2f}" in out
    drawn = calibration.anchors.inclusion
    assert drawn is not None and "weighted means are unbiased" in out
    assert f"drawn with probability {drawn[0]:.4f}" in out
    shown = json.loads(command("anchors", "show", "m.safetensors", "--json")[1])
    assert [anchor["inclusion"] for anchor in shown["anchors"]] == drawn.tolist()


def test_a_report_that_cannot_be_written_is_refused_at_once(command, tmp_path):
    ask = ("calibrate", "--task", "t", "--from", "nowhere", "--out", "x.safetensors", "--report")
    assert "expected a file that ends in .html or .md, got 'r.pdf'" in refused(command(*ask, "r.pdf"))
    assert "expected a file in an existing folder" in refused(command(*ask, "none/r.md"))


def test_odd_models_are_named_once(capsys, tmp_path):
    world = simulate_responses(3, 80, rng=np.random.default_rng(0))
    values = np.vstack([world.values, world.values[:1], np.zeros((1, 80))])
    np.savez(tmp_path / "r.npz", values=values, model_ids=[*world.model_ids, "twin", "wrong"])
    ask = ["calibrate", "--task", "t", "--from", str(tmp_path / "r.npz"), "--anchors", "12", "--out"]
    assert run(merge3, "merge3", [*ask, str(tmp_path / "t.safetensors")]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert sum("m0, twin: gave the same answers to all 80 items" in line for line in lines) == 1
    assert sum("wrong: scored 0 on every item" in line for line in lines) == 1


@pytest.mark.parametrize(("models", "items"), [(2, 2), (2, 40), (3, 5), (4, 1)])
def test_tiny_matrices(command, tmp_path, models, items):
    values = (np.random.default_rng(1).random((models, items)) < 0.5).astype(float)
    values[0], values[1] = 1.0, 0.0
    np.savez(tmp_path / "r.npz", values=values, model_ids=[f"m{m}" for m in range(models)])
    ask = ("calibrate", "--task", "t", "--from", "r.npz", "--anchors", 3, "--out", "t.safetensors", "--report", "t.md")
    status, out, _ = command(*ask)
    assert status == 0 and "models   " in out
    assert "nan" not in (out + Path("t.md").read_text(encoding="utf-8")).lower()
    assert ("Not enough data" in out) == (items > 3) and ("nothing left to estimate" in out) == (items <= 3)


def test_anchors_by_what_a_model_makes_of_the_items(command, tiny_models, local_tasks, logs):
    ask = ["calibrate", "--task", "named", "--anchors", 6, "--anchor-method", "representation-clusters"]
    models = ["--models", *tiny_models[:3], "--dtype", "float32", "--device", "cpu", "--include-path", local_tasks]
    status, out, errors = command(*ask, *models, "--out", "n.safetensors")
    assert status == 0, errors
    assert "anchors  6, " in out and ("representation-clusters" in out or "kd" in out)
    assert "expected --models, the first of which reads the items" in refused(
        command(*ask, "--from", logs, "--out", "x.safetensors")
    )


def test_several_sources_after_one_flag(command, logs, tmp_path):
    folders = sorted(logs.iterdir())
    status, *_ = command(
        "calibrate", "--from", *folders[:3], "--task", "named", "--anchors", 4, "--out", "n.safetensors"
    )
    assert status == 0 and load_calibration("n.safetensors").responses.n_models == 3
    assert "'--from' requires an argument" in refused(command("calibrate", "--task", "named", "--out", "x", "--from"))


def test_the_same_seed_writes_the_same_file(command, logs):
    ask = ("calibrate", "--task", "unnamed", "--from", logs, "--anchors", 4)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert command(*ask, "--seed", seed, "--anchor-method", "random", "--out", name)[0] == 0
    a, b, c = (Path(name).read_bytes() for name in "abc")
    assert a == b != c


def test_answers_in_another_language_count_nothing_in_a_calibration_from_logs(command, logs, tmp_path):
    said = [
        "答えは3です。",
        "The answer is 3.",
        "3",
        "So there are 4 of them.",
    ]  # right in Japanese, in English, in neither
    for number, path in enumerate(sorted(shutil.copytree(logs, tmp_path / "kept").rglob("samples_gen_*.jsonl"))):
        samples = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for sample in samples:
            place = (sample["doc_id"] + number) % 4
            sample |= {"resps": [[said[place]]], "exact_match": float(place < 3)}
        path.write_text("".join(json.dumps(sample) + "\n" for sample in samples), encoding="utf-8")
    ask = ("calibrate", "--task", "gen", "--from", "kept", "--metric", "exact_match", "--filter", "digit")

    def of_language(code, task="gen"):
        return "--anchors", 4, "--metadata", json.dumps({"merge3": {"tasks": {task: {"language": code}}}})

    assert (
        command(*ask, *of_language(None), "--out", "any")[0] == command(*ask, *of_language("ja"), "--out", "ja")[0] == 0
    )
    plain, ja = load_calibration("any"), load_calibration("ja")
    assert plain.provenance["language"] is None and ja.provenance["language"] == "ja"
    assert "answers in ja" in command("anchors", "show", "ja")[1]
    # Models that answer alike count as one, so there may be fewer of them.
    lost = plain.responses.models(ja.responses.model_ids).values - ja.responses.values
    assert 0.2 <= lost.mean() <= 0.3 and set(np.unique(lost)) == {0.0, 1.0}
    assert "as its ISO 639 code (ja, de ...), got 'japanese'" in refused(
        command(*ask, *of_language("japanese"), "--out", "x")
    )
    named = ("calibrate", "--task", "named", "--from", "kept", "--out", "x")
    assert "expected generated answers" in refused(command(*named, *of_language("ja", "named")))


def test_running_models_then_the_same_command_runs_none(command, tiny_models, local_tasks, logs):
    ask = ["calibrate", "--task", "unnamed", "--models", *tiny_models[:3], "--anchors", 5, "--out", "u.safetensors"]
    ask += ["--dtype", "float32", "--device", "cpu", "--batch_size", 16, "--include_path", local_tasks]
    assert command(*ask)[0] == 0
    first = load_calibration("u.safetensors")
    kept = sorted(Path("u-logs").rglob("samples_unnamed_*.jsonl"))
    assert len(kept) == 3
    assert command("calibrate", "--task", "unnamed", "--from", logs, "--anchors", 5, "--out", "l.safetensors")[0] == 0
    full = load_calibration("l.safetensors").responses
    np.testing.assert_array_equal(full.models(first.responses.model_ids).values, first.responses.values)
    assert command(*ask)[0] == 0 and sorted(Path("u-logs").rglob("samples_unnamed_*.jsonl")) == kept


def test_our_own_task_on_local_data_calibrated_and_scored(command, tiny_models, tmp_path):
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    from merge3_plugin.harness.registration import remember, tasks_folder

    documents = [{"_id": f"i{d['label']}{d['q']}", "prompt": d["q"], **d} for d in choice_documents(40, ids=False)]
    (tmp_path / "ja.jsonl").write_text("".join(json.dumps(d, ensure_ascii=False) + "\n" for d in documents))
    local = {"data": str(tmp_path / "ja.jsonl")}
    ask = [
        "calibrate",
        "--task",
        "merge3_arc_ja",
        "--models",
        *tiny_models[:3],
        "--anchors",
        12,
        "--out",
        "ja.safetensors",
    ]
    metadata = json.dumps({"merge3": {"tasks": {"merge3_arc_ja": local}}})
    status, out, errors = command(*ask, "--dtype", "float32", "--device", "cpu", "--metadata", metadata)
    assert status == 0, errors
    assert "lm_eval --model hf" in out and load_calibration("ja.safetensors").n_items == 40

    local["calibration"] = str(tmp_path / "ja.safetensors")
    manager = TaskManager(
        include_path=str(tasks_folder()),
        include_defaults=False,
        metadata={"merge3": {"tasks": {"merge3_arc_ja": local}}},
    )
    remember(manager)
    results = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(tiny_models[1]), "dtype": "float32"},
        tasks=["merge3_arc_ja"],
        device="cpu",
        bootstrap_iters=0,
        task_manager=manager,
    )["results"]["merge3_arc_ja"]
    truth = load_calibration("ja.safetensors").responses.models([str(tiny_models[1])]).accuracy()[0]
    assert results["merge3_items,none"] == 12
    assert results["merge3_lo,none"] <= truth <= results["merge3_hi,none"]


def test_sources_that_do_not_serve(command, logs, tmp_path):
    ask = ("calibrate", "--anchors", 5, "--out", "x.safetensors", "--task")
    assert "either --from LOGS or --models A B C, got neither" in refused(command(*ask, "named"))
    assert "got both" in refused(command(*ask, "named", "--from", logs, "--models", "m"))
    assert "did you mean 'named'" in refused(command(*ask, "namd", "--from", logs))
    assert "got nothing there" in refused(command(*ask, "named", "--from", "nowhere"))
    one = next(logs.iterdir())
    assert "expected at least 2 models, got 1" in refused(command(*ask, "named", "--from", one))
    assert "got 2; there are: --metric exact_match" in refused(command(*ask, "gen", "--from", logs))
    constant = ("--metric", "exact_match", "--filter", "strict")
    assert "expected right and wrong answers, got only 0" in refused(command(*ask, "gen", "--from", logs, *constant))
    for name, values, message in [
        ("empty", np.zeros((0, 0)), "expected models and items"),
        ("large", np.full((3, 4), 7.0), "expected scores in [0, 1], got 7"),
    ]:
        np.savez(tmp_path / f"{name}.npz", values=values, model_ids=[f"m{i}" for i in range(len(values))])
        assert message in refused(command(*ask, "t", "--from", f"{name}.npz"))
    assert not Path("x.safetensors").exists()


def test_models_folders_and_settings_that_are_not_there(command, local_tasks, logs, tiny_models):
    ask = ["calibrate", "--anchors", 5, "--out", "x.safetensors", "--include-path", local_tasks, "--device", "cpu"]
    assert "model 'nowhere': expected" in refused(
        command(*ask, "--task", "named", "--models", tiny_models[0], "nowhere")
    )
    assert "expected a folder of task YAML" in refused(
        command(*ask, "--task", "named", "--models", *tiny_models, "--include-path", "nowhere")
    )
    metadata = ("--metadata", '{"merge3": {"tasks": {"namd": {}}}}')
    assert "did you mean 'named'" in refused(command(*ask, "--task", "named", "--models", *tiny_models, *metadata))
    misspelt = ("--metadata", '{"merge3": {"tasks": {"named": {"langauge": "ja"}}}}')
    for source in (("--models", *tiny_models), ("--from", logs)):
        line = refused(command("calibrate", "--task", "named", *source, "--out", "c.safetensors", *misspelt))
        assert "unknown setting 'langauge'; did you mean 'language'" in line
    assert "expected JSON" in refused(command(*ask, "--task", "named", "--models", *tiny_models, "--metadata", "{"))


def test_nan_weights_are_refused_and_not_scored_as_wrong(command, tiny_models, local_tasks, tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    broken = shutil.copytree(tiny_models[1], tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"] = torch.full_like(weights["model.norm.weight"], float("nan"))
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    ask = ["calibrate", "--task", "named", "--models", tiny_models[0], broken, "--anchors", 4, "--out", "x.safetensors"]
    line = refused(command(*ask, "--include-path", local_tasks, "--device", "cpu", "--dtype", "float32"))
    assert "broken" in line and "expected finite log-likelihoods" in line


def test_out_is_checked_before_anything_runs(command, tiny_models, local_tasks, tmp_path):
    ask = ["calibrate", "--task", "named", "--models", *tiny_models, "--include-path", local_tasks, "--out"]
    assert "expected an existing folder" in refused(command(*ask, "no/such/x.safetensors"))
    assert "got the folder" in refused(command(*ask, tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_no_disk_space(command, logs, monkeypatch, tmp_path):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    line = refused(command("calibrate", "--task", "named", "--from", logs, "--anchors", 4, "--out", "x.safetensors"))
    assert "space" in line and list(tmp_path.iterdir()) == []


def test_logs_that_lm_eval_could_not_keep(command, tiny_models, local_tasks):
    from lm_eval.utils import sanitize_model_name

    Path("x-logs").mkdir()
    (Path("x-logs") / sanitize_model_name(str(tiny_models[0]))).write_text("in the way")
    ask = ["calibrate", "--task", "named", "--models", *tiny_models, "--include-path", local_tasks, "--device", "cpu"]
    assert "expected room and permission to keep the logs" in refused(command(*ask, "--out", "x.safetensors"))


def test_show_refuses_what_is_no_calibration(command, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"text")
    for name in ("x.safetensors", "none.safetensors"):
        assert name in refused(command("anchors", "show", name))


def test_help_teaches(command):
    status, out, _ = command("calibrate", "--help")
    assert status == 0 and "merge3 calibrate --task arc_easy --from logs --anchors 50 --out arc_easy.safetensors" in out
