"""The measurement of a candidate runs, and says what it claims to; how fast anything is, it alone can tell."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "candidate.py"


def test_a_candidate_is_measured_against_peer_and_limit(tmp_path):
    found = tmp_path / "found.json"
    run = subprocess.run(
        [sys.executable, str(SCRIPT), "--size", "XS", "--items", "5", "--fewshot", "0", "1", "--method", "ties",
         "--repeats", "2", "--peer-batch", "32", "--threads", "1", "--memory", "--json", str(found)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert "XS, 5 items, 1-shot, 3 x ties" in lines[3] and lines[4].startswith("memory at XS")
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
