"""A real but tiny run: a random Llama family and a multiple-choice task of 150 items, searched in seconds."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).parents[2]
N_ITEMS = 150

TASK = """\
task: tiny_sum
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}="
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{label}}}}"
target_delimiter: ""
num_fewshot: 0
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 1}}
"""

# Pauses a run, deep inside, after the N-th new evaluation of a purpose: the process is alive in that very phase.
DRIVER = """
import sys, time
from pathlib import Path
from merge3_plugin.cli import evolve_main
from merge3_plugin.hookspecs import hookimpl
from merge3_plugin.plugins import plugin_host

purpose, number, folder = sys.argv.pop(1), int(sys.argv.pop(1)), Path(sys.argv.pop(1))

class Pause:
    seen = 0

    @hookimpl
    def merge3_evaluation_finished(self, evaluation):
        if evaluation.purpose == purpose:
            self.seen += 1
            if self.seen == number:
                (folder / "paused").touch()
                while not (folder / "go").exists():
                    time.sleep(0.01)

plugin_host().add(Pause(), "pause", "test")
evolve_main()
"""


def make_world(folder: Path, models: list[Path], **merge3) -> Path:
    """Write data, task and config; returns the config's path."""
    draw = random.Random(0)
    rows = []
    for number in range(N_ITEMS):
        a, b = draw.randrange(10), draw.randrange(10)
        choices = draw.sample("0123456789", 4)
        rows.append(
            {"_id": f"q{number}", "prompt": f"{a}+{b}+{number}", "choices": choices, "label": draw.randrange(4)}
        )
    (folder / "tasks").mkdir()
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "tasks" / "tiny_sum.yaml").write_text(TASK.format(data=data))
    base, *others = map(str, models)
    config = {
        "genome": {"models": others, "merge_method": "task_arithmetic", "base_model": base, "layer_granularity": 1},
        "tasks": ["tiny_sum"],
        "merge3": {
            "anchors": 20,
            "auto_merges": 3,
            "confirm": 2,
            "dtype": "float32",
            "device": "cpu",
            "reuse": False,  # two runs of one world cost the same
            "search": {"max_fevals": 14, "popsize": 4},
            **merge3,
        },
    }
    path = folder / "config.yml"
    path.write_text(yaml.safe_dump(config))
    return path


def command(config: Path, out: Path, *flags: str, driver: tuple[str, ...] = ()) -> list[str]:
    script = DRIVER if driver else "from merge3_plugin.cli import evolve_main; evolve_main()"
    paths = ["--storage-path", str(out), "--task-search-path", str(config.parent / "tasks")]
    return [sys.executable, "-c", script, *driver, str(config), *paths, *flags]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "200"}


def run(config: Path, out: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(config, out, *flags), capture_output=True, text=True, env=environment(), timeout=300, check=False
    )


def run_here(config: Path, out: Path, *flags: str) -> int:
    """The command in this process, which has all its libraries: its exit status."""
    from merge3_plugin.cli import run as run_command
    from merge3_plugin.cli_evolve import evolve as command_here

    return run_command(command_here, "mergekit-evolve-merge3", command(config, out, *flags)[3:])


def run_paused(config: Path, out: Path, purpose: str, number: int, folder: Path) -> subprocess.Popen[str]:
    """Start a run and return once it stands after that evaluation."""
    folder.mkdir()
    process = subprocess.Popen(
        command(config, out, driver=(purpose, str(number), str(folder))),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    deadline = time.monotonic() + 200
    while not (folder / "paused").exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError(process.communicate()[1])
        time.sleep(0.02)
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def canonical(out: Path) -> str:
    from merge3_plugin.evolve.store import RunStore

    store = RunStore.open(out)
    genome = store.meta()["config"]["genome"]
    return "\n".join(store.canonical([*genome["models"], genome["base_model"]]))


def evolve_here(config: Path, out: Path, watcher=None, **changes):
    """The run in this process; ``changes`` are dotted config keys."""
    from merge3_plugin.config import load_config
    from merge3_plugin.evolve.session import evolve
    from merge3_plugin.evolve.setting import Watcher
    from merge3_plugin.evolve.setup import Flags

    flags = Flags(task_search_path=(str(config.parent / "tasks"),))
    changed = {key.replace("__", "."): value for key, value in changes.items()}
    return evolve(load_config(config, changed), out, flags, watcher or Watcher())
