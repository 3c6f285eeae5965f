"""merge3 end to end: train tiny models, calibrate, evolve a merge on estimates, confirm it, score it with lm_eval."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from table import table
from train import Settings, prepare

HERE = Path(__file__).resolve().parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="seed of items, models and search  [0]")
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="folder to make everything in  [demo-out]")
    options = parser.parse_args()
    started = time.monotonic()
    summary = evolve(options.out, options.seed)
    print(table(summary), flush=True)
    score(options.out)
    print(f"\nAll of it took {time.monotonic() - started:.0f} s; models, items and the run are in {options.out}.")
    return 0


def evolve(out: Path, seed: int) -> dict:
    """Train what is not there, then search; returns the run's summary. An unfinished run is resumed."""
    prepare(out, Settings(seed=seed))
    summary = out / "run" / "summary.json"
    if summary.exists():
        shutil.rmtree(out / "run")
    command = ["mergekit-evolve-merge3", str(HERE / "evolve.yml"), "--storage-path", "run"]
    run([*command, "--task-search-path", str(HERE / "tasks"), "--random-seed", str(seed)], out)
    return json.loads(summary.read_text(encoding="utf-8"))


def score(out: Path) -> None:
    """The plain lm_eval command on the evolved model: all three skills, under the name of a benchmark that it knows."""
    data = {"merge3": {"tasks": {"merge3_arc_ja": {"data": "data/all.jsonl"}}}}
    command = ["lm_eval", "--model", "hf", "--model_args", "pretrained=run/final_model,dtype=float32"]
    command += ["--tasks", "merge3_arc_ja", "--device", "cpu", "--batch_size", "256", "--metadata", json.dumps(data)]
    run(command, out)


def run(command: Sequence[str], folder: Path) -> None:
    """Run a command of this environment in ``folder``, showing it as one would type it; exit as it does if it fails."""
    print("\n$ cd", folder, "&&", " ".join(f"'{word}'" if " " in word else word for word in command), flush=True)
    program = Path(sys.executable).with_name(command[0])
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    code = subprocess.run([str(program), *command[1:]], cwd=folder, env=os.environ | offline).returncode
    if code:
        sys.exit(code)
