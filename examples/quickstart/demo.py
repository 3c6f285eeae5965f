"""merge3 end to end: train tiny models, calibrate, evolve a merge on estimates, confirm it, score it with lm_eval."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from train import Settings, prepare

HERE = Path(__file__).resolve().parent
CONFIG = HERE / "evolve.yml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="seed of items, models and search  [0]")
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="folder to make everything in  [demo-out]")
    options = parser.parse_args()
    started = time.monotonic()
    prepare(options.out, Settings(seed=options.seed))
    evolve(options.out, options.seed)
    score(options.out)
    print(f"\nThis took {time.monotonic() - started:.0f} s. Items, models and the run are in {options.out}.")


def evolve(out: Path, seed: int, *, config: Path = CONFIG, run_folder: str = "run") -> None:
    """Search, confirm, and print the table. What an interrupted demo left is resumed, a finished run begun anew."""
    if (out / run_folder / "summary.json").exists():
        shutil.rmtree(out / run_folder)
    command = ["mergekit-evolve-merge3", str(config), "--storage-path", run_folder]
    run([*command, "--task-search-path", str(HERE / "tasks"), "--random-seed", str(seed)], out)


def score(out: Path) -> None:
    """Run the plain lm_eval command on the evolved model, with the items of all skills in place of merge3_arc_ja's."""
    data = {"merge3": {"tasks": {"merge3_arc_ja": {"data": "data/all.jsonl"}}}}
    command = ["lm_eval", "--model", "hf", "--model_args", "pretrained=run/final_model,dtype=float32"]
    command += ["--tasks", "merge3_arc_ja", "--device", "cpu", "--batch_size", "256", "--metadata", json.dumps(data)]
    run(command, out)


def run(command: Sequence[str], folder: Path) -> None:
    """Run a command of this environment in ``folder``, showing it first; exits as it does where it fails."""
    print(f"\n$ cd {folder} && {shlex.join(command)}", flush=True)
    program = Path(sys.executable).with_name(command[0])
    # One thread: for models as small as these, two wait for each other more than they work.
    settings = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    code = subprocess.run([str(program), *command[1:]], cwd=folder, env=os.environ | settings, check=False).returncode
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main()
