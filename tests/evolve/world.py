"""A real but tiny run: a random Llama family and a multiple-choice task of 150 items, searched in seconds."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import yaml

from merge3_plugin.cli import evolve_main
from merge3_plugin.hookspecs import hookimpl
from merge3_plugin.plugins import plugin_host

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

# A run in a process of its own is a fork of one that has imported, for all of them, what takes seconds.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["cma", "lm_eval.models.huggingface", "merge3_plugin.evolve.session", "merge3_plugin.merging.outline"]
)


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


class Pause:
    """Stands still, deep inside a run, after the N-th new evaluation of a purpose, until a file says go."""

    def __init__(self, purpose: str, number: int, folder: Path) -> None:
        self.purpose, self.left, self.folder = purpose, number, folder

    @hookimpl
    def merge3_evaluation_finished(self, evaluation) -> None:
        self.left -= evaluation.purpose == self.purpose
        if self.left == 0 and evaluation.purpose == self.purpose:
            (self.folder / "paused").touch()
            while not (self.folder / "go").exists():
                time.sleep(0.01)


class RunProcess:
    """The command in a process of its own, whose output goes to ``folder``."""

    def __init__(self, config: Path, out: Path, folder: Path, pause: Pause | None = None) -> None:
        folder.mkdir()
        self.folder = folder
        environment = {**os.environ, "COLUMNS": "200"}
        self.process = FORKS.Process(target=_run, args=(arguments(config, out), environment, folder, pause))
        self.process.start()

    def finished(self, timeout: float = 300) -> tuple[int | None, str, str]:
        """Its exit status, None if it still runs after so many seconds, and its stdout and stderr."""
        self.process.join(timeout)
        return self.process.exitcode, *((self.folder / name).read_text() for name in ("stdout", "stderr"))

    def kill(self) -> None:
        self.process.kill()
        assert self.finished()[0] == -signal.SIGKILL


def arguments(config: Path, out: Path, *flags: str) -> list[str]:
    return [str(config), "--storage-path", str(out), "--task-search-path", str(config.parent / "tasks"), *flags]


def _run(arguments: list[str], environment: dict[str, str], folder: Path, pause: Pause | None) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), number)
    if pause is not None:
        plugin_host().add(pause, "pause", "test")
    sys.argv = ["mergekit-evolve-merge3", *arguments]
    evolve_main()


def run_paused(config: Path, out: Path, purpose: str, number: int, folder: Path) -> RunProcess:
    """Start a run and return once it stands after that evaluation."""
    run = RunProcess(config, out, folder, Pause(purpose, number, folder))
    deadline = time.monotonic() + 200
    while not (folder / "paused").exists():
        if not run.process.is_alive() or time.monotonic() > deadline:
            run.process.kill()
            raise AssertionError(run.finished())
        time.sleep(0.02)
    return run


def run_here(config: Path, out: Path, *flags: str) -> int:
    """The command in this process, which has all its libraries: its exit status."""
    from merge3_plugin.cli import run as run_command
    from merge3_plugin.cli_evolve import evolve as command_here

    return run_command(command_here, "mergekit-evolve-merge3", arguments(config, out, *flags))


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
