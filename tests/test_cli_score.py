"""``merge3 score`` on real models of a few thousand weights: to the end, killed and gone on with, and refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from merge3_plugin.api import ResponseMatrix, calibrate
from merge3_plugin.artifact import load_calibration, save_calibration
from merge3_plugin.cli import merge3, run
from tests.commands import refused
from tests.lm_eval_runs import choice_documents

TASK = "merge3_arc_ja"
N_ITEMS = 60

# The command in a process that stands still once some batches of answers are on disk.
DRIVER = """
import sys, time
from pathlib import Path
from merge3_plugin.cli import merge3, run
from merge3_plugin.harness.answer_record import AnswerRecord
pause, batches, *arguments = sys.argv[1:]
add, done = AnswerRecord.add, []
def stand_still(self, scores):
    add(self, scores)
    done.append(scores)
    if len(done) == int(batches):
        Path(pause).touch()
        time.sleep(300)
AnswerRecord.add = stand_still
sys.exit(run(merge3, "merge3", arguments))
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> dict[str, Any]:
    """A calibration by six tiny models, a seventh to score, the data, and all the answers of the seventh."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from merge3_plugin.harness.benchmark import load_benchmarks
    from merge3_plugin.harness.scoring import Scorer
    from merge3_plugin.testing import make_tiny_llama

    folder = tmp_path_factory.mktemp("score")
    documents = [{"_id": f"i{k}", "prompt": d["q"], **d} for k, d in enumerate(choice_documents(N_ITEMS, ids=False))]
    data = folder / "ja.jsonl"
    data.write_text("".join(json.dumps(d, ensure_ascii=False) + "\n" for d in documents))
    benchmark = load_benchmarks({TASK: None}, data={TASK: data})[TASK]
    models, rows = [make_tiny_llama(folder / f"m{seed}", seed) for seed in range(7)], []
    for model in models:
        loaded = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
        scorer = Scorer({TASK: benchmark}, *loaded)
        scores = scorer.score(TASK, benchmark.item_ids).right
        rows.append([scores[item] for item in benchmark.item_ids])
    responses = ResponseMatrix(rows[:6], [str(model) for model in models[:6]], benchmark.item_ids)
    made = calibrate(responses, 10, seed=0, anchors="stratified")
    provenance = {**scorer.provenance(TASK), **made.provenance}
    file = folder / "ja.safetensors"
    save_calibration(replace(made, item_hashes=benchmark.item_hashes, provenance=provenance), file)
    answers = dict(zip(benchmark.item_ids, rows[6], strict=True))
    return {"file": file, "model": models[6], "data": data, "answers": answers}


@pytest.fixture
def arguments(world) -> list[str]:
    metadata = {"merge3": {"tasks": {TASK: {"data": str(world["data"]), "calibration": str(world["file"])}}}}
    found = ["score", "--task", TASK, "--model", world["model"], "--metadata", json.dumps(metadata)]
    return [str(argument) for argument in [*found, "--dtype", "float32", "--device", "cpu"]]


def test_scoring_within_a_budget(command, arguments, world, tmp_path, capsys):
    status = run(merge3, "merge3", [*arguments, "--budget", "24", "--json"])
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert status == 0 and found["stopped"] == "budget spent" and found["method"] == "merge3_adaptive"
    assert found["n_scored"] == 24 and found["n_items"] == N_ITEMS and len(set(found["order"])) == 24
    truth = sum(world["answers"].values()) / N_ITEMS
    assert found["interval"][0] <= truth <= found["interval"][1]
    assert [step["n_items"] for step in found["steps"]] == [8, 16, 24]
    assert not list(tmp_path.iterdir()) and "item/s" not in err  # nothing on disk, no bar where nobody looks
    status, out, _ = command(*arguments, "--se", "0.001", "--budget", 16)
    assert status == 0 and "0.001 was not reached within the budget: it is 0." in out
    assert f"16 of {N_ITEMS} items asked (budget spent)" in out


def test_all_items_are_the_models_own_accuracy(command, arguments, world):
    out = command(*arguments, "--se", "0.0001", "--json")[1]
    found = json.loads(out)
    assert found["stopped"] == "all items asked" and found["n_scored"] == N_ITEMS
    assert found["accuracy"] == pytest.approx(sum(world["answers"].values()) / N_ITEMS)
    assert found["standard_error"] == 0


def test_a_killed_test_goes_on_to_the_same_end(command, arguments, world, tmp_path):
    limits = ["--budget", "40", "--json", "--record"]
    unbroken = command(*arguments, *limits, "whole.jsonl")
    pause, record = tmp_path / "pause", tmp_path / "broken.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(pause), "3", *arguments, *limits, str(record)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 200
    while not pause.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError(process.communicate()[1])
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    kept = record.read_bytes()
    assert kept.count(b"\n") == 4  # whose it is, and three batches
    with record.open("ab") as file:
        file.write(b'{"scores": {"i')  # as if killed while it wrote
    again = command(*arguments, *limits, record)
    assert again[:2] == unbroken[:2], again
    assert record.read_bytes() == Path("whole.jsonl").read_bytes() and record.read_bytes().startswith(kept)
    assert command(*arguments, "--se", "0.05", "--json", "--record", record)[0] == 0
    batches = [json.loads(line)["scores"] for line in record.read_text(encoding="utf-8").splitlines()[1:]]
    asked = [item for batch in batches for item in batch]
    assert len(asked) == len(set(asked)) >= 40  # another plan may ask further items, but none of the known ones again


def test_answers_are_not_taken_for_another_models(command, arguments, world):
    assert command(*arguments, "--budget", 8, "--record", "r.jsonl")[0] == 0
    other = ["--model", world["model"].with_name("m1")]
    assert "another model" in refused(command(*arguments, *other, "--budget", 8, "--record", "r.jsonl"))


def test_a_merge_of_the_calibrations_models(command, arguments, world):
    parents = load_calibration(world["file"]).responses.model_ids[:2]
    status, out, _ = command(*arguments, "--budget", 16, "--parents", *parents)
    assert status == 0 and "16 of 60 items asked" in out
    assert "expected a known model id, got 'nobody'" in refused(
        command(*arguments, "--budget", 16, "--parents", "nobody")
    )


def test_what_cannot_be_scored(command, arguments, world, tmp_path, monkeypatch):
    monkeypatch.setenv("MERGE3_HOME", str(tmp_path))
    assert "a standard error to reach or a budget of items, got neither" in refused(command(*arguments))
    assert "between 0 and 0.5, got 2" in refused(command(*arguments, "--se", 2))
    assert "model 'nowhere'" in refused(command(*arguments, "--model", "nowhere", "--budget", 8))
    data = json.dumps({"merge3": {"tasks": {TASK: {"data": str(world["data"])}}}})
    bare = [*arguments, "--budget", 8, "--metadata", data]
    assert "--calibration: expected a calibration of merge3_arc_ja, got none" in refused(command(*bare))
    assert "expected a file, got nothing" in refused(command(*bare, "--calibration", "no.safetensors"))
    calibration = load_calibration(world["file"])
    save_calibration(
        replace(calibration, item_hashes=("0" * 64, *calibration.item_hashes[1:])), tmp_path / "other.safetensors"
    )
    assert "has another text" in refused(command(*bare, "--calibration", "other.safetensors"))


@pytest.mark.parametrize(("setting", "value"), [("num_fewshot", 1), ("chat_template", "abc"), ("language", "ja")])
def test_a_calibration_of_other_prompts_is_refused(command, arguments, world, tmp_path, setting, value):
    calibration = load_calibration(world["file"])
    file = tmp_path / "other.safetensors"
    save_calibration(replace(calibration, provenance={**calibration.provenance, setting: value}), file)
    line = refused(command(*arguments, "--budget", 8, "--calibration", file))
    assert f"expected a calibration for {setting}" in line and f"got one for {value!r}" in line
