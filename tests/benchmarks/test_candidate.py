"""The measurement of a candidate runs, and says what it claims to; how fast anything is, it alone can tell."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import candidate


@pytest.fixture(autouse=True)
def _only_here(no_environment_report: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it settles for its own process, it does not settle for that of all tests."""
    monkeypatch.setattr(candidate, "_hush", lambda: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)


def test_a_candidate_is_measured_against_peer_and_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = tmp_path / "found.json"
    monkeypatch.setattr(
        sys, "argv",
        ["candidate.py", "--size", "XS", "--items", "5", "--fewshot", "0", "1", "--method", "linear",
         "--repeats", "2", "--peer-batch", "32", "--json", str(found)],
    )  # fmt: skip
    candidate.main()
    lines = capsys.readouterr().out.splitlines()
    assert "XS, 5 items, 1-shot, 3 x linear" in lines[3]
    plain, shot = json.loads(found.read_text())["candidates"]
    # 4 options of 5 to 8 tokens behind a question of 32 to 45, of which the last is scored and not read.
    assert 5 * (33 + 4 * 4) <= plain["tokens"] <= 5 * (47 + 4 * 7) < shot["tokens"]
    for row in (plain, shot):
        assert 5 * 4 * 4 < row["scored_tokens"] <= 5 * 4 * 8
        parts = row["merge_seconds"] + row["forward_seconds"] + row["overhead_seconds"]
        assert min(row["merge_seconds"], row["forward_seconds"], row["overhead_seconds"]) > 0
        assert row["seconds_range"][0] < parts * 1.5 and parts < row["seconds_range"][1] * 1.5
        low, high = row["ratio_to_peer_bs32_range"]
        assert 0 < low <= row["ratio_to_peer_bs32"] <= high and row["ratio_to_limit"] > 1


def test_memory_is_counted_against_the_bytes_of_parents_and_live_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """How much is in use above that of a process that has done nothing, only a process of its own can tell."""
    candidate._written(tmp_path, "XS", 2)
    command = ["candidate.py", "--size", "XS", "--parents", "2", "--measure-memory", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", command)
    candidate.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    weights = sum((tmp_path / "XS-2" / name / "model.safetensors").stat().st_size for name in ("base", "parent1"))
    assert found["tensor_bytes"] == pytest.approx(2 * weights, rel=0.05), "of a base, two parents and the merge"
    assert found["ratio"] == pytest.approx(found["peak_bytes"] / found["tensor_bytes"])
