"""The real lm_eval command in a process of its own, on a tiny transformer and local data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from merge3_plugin.api import ResponseMatrix, calibrate, estimate
from merge3_plugin.artifact import save_calibration
from merge3_plugin.harness.registration import tasks_folder


def lm_eval(model: Path, home: Path, metadata: dict[str, Any], *flags: str) -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).parents[2])
    return subprocess.run(
        [sys.executable, "-m", "lm_eval", "--model", "hf", "--model_args", f"pretrained={model},dtype=float32",
         "--device", "cpu", "--batch_size", "8", "--include_path", str(tasks_folder()),
         "--metadata", json.dumps(metadata), *flags],
        env={**os.environ, "PYTHONPATH": root, "MERGE3_HOME": str(home), "MERGE3_AUTOLOAD": "0"},
        cwd=home, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def write_arc(path: Path, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    choices, labels = list("一二三四"), rng.integers(4, size=n).tolist()
    rows = [{"_id": f"q{i}", "prompt": f"{i}は", "choices": choices, "label": labels[i]} for i in range(n)]
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")


def test_the_table_holds_the_estimate_and_its_error(model_folder, tmp_path):
    for language in ("ja", "en"):
        write_arc(tmp_path / f"{language}.jsonl", 40, 0)
    rng = np.random.default_rng(1)
    soft = rng.random((6, 40))
    answers = (rng.random((6, 40)) < soft).astype(float)
    made = calibrate(ResponseMatrix(answers, range(6), [f"q{i}" for i in range(40)], soft=soft), 10, seed=0)
    (tmp_path / "calibrations").mkdir()
    save_calibration(made, tmp_path / "calibrations" / "merge3_arc_ja.safetensors")
    data = {f"merge3_arc_{language}": {"data": f"{language}.jsonl"} for language in ("ja", "en")}
    data["merge3_arc_en"]["anchors"] = 7
    run = lm_eval(
        model_folder, tmp_path, {"merge3": {"tasks": data}},
        "--tasks", "merge3_arc_ja,merge3_arc_en", "--output_path", "out", "--log_samples",
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in run.stdout.splitlines() if "merge3_" in line]
    assert [row[4] for row in rows] == [f"merge3_{name}" for name in ("acc", "hi", "items", "lo", "se")] * 2
    assert {row[2] for row in rows} == {"none"}
    assert [rows[2][6], rows[7][6]] == ["7.0000", "10.0000"] or [rows[2][6], rows[7][6]] == ["10.0000", "7.0000"]
    assert run.stderr.count("is not calibrated") == 1 and "merge3_arc_en is not calibrated" in run.stderr
    (results,) = (tmp_path / "out").glob("*/results_*.json")
    of = json.loads(results.read_text())["results"]["merge3_arc_ja"]
    assert of["merge3_lo,none"] <= of["merge3_acc,none"] <= of["merge3_hi,none"] and of["merge3_se,none"] > 0
    (samples,) = (tmp_path / "out").glob("*/samples_merge3_arc_ja_*.jsonl")
    logged = [json.loads(line) for line in samples.read_text().splitlines()]
    asked = [sample["doc"]["_id"] for sample in logged]
    assert set(asked) == set(made.anchors.item_ids) and len(asked) == 10
    scored = [sample["merge3_acc"] for sample in logged]
    expected = estimate(made, {i: score for i, score, _ in scored}, soft={i: graded for i, _, graded in scored})
    assert (of["merge3_acc,none"], of["merge3_se,none"]) == (expected.accuracy, expected.standard_error)
    for sample, (_, score, graded) in zip(logged, scored, strict=True):
        of_options = np.exp([float(response[0]) for response in sample["filtered_resps"]])
        assert graded == pytest.approx(of_options[sample["doc"]["label"]] / of_options.sum())
        assert score == float(of_options.argmax() == sample["doc"]["label"])


def test_a_mistake_is_one_line_and_exit_status_2(model_folder, tmp_path):
    write_arc(tmp_path / "ja.jsonl", 5, 0)
    metadata = {"merge3": {"tasks": {"merge3_arc_jp": {"data": "ja.jsonl"}, "merge3_arc_ja": {"data": "ja.jsonl"}}}}
    run = lm_eval(model_folder, tmp_path, metadata, "--tasks", "merge3_arc_ja")
    assert run.returncode == 2
    assert "Traceback" not in run.stderr
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "merge3: error: merge3.tasks: 'merge3_arc_jp' is not an anchor task of this run; did you mean"
    )
