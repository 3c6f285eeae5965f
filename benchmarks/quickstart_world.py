"""The quickstart's models and tasks as a world to search in: every candidate is a merge, and every answer a model's."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples" / "quickstart"))

import demo
import world
from train import Settings, prepare

from merge3_plugin.config import parse_config
from merge3_plugin.domain import FloatArray
from merge3_plugin.evolve.evaluate import Candidate
from merge3_plugin.evolve.setting import Setting
from merge3_plugin.evolve.setup import Flags, opened

# Of each skill's items the first so many, which are a fair sample: to search on, to confirm on (a tenth of all), and
# the rest to judge a finished run on. lm-eval makes its requests anew in each run: all 3,104 would cost most of it.
ITEMS, SEARCHED, HELD_OUT = 1104, 400, 0.1

CONFIG: dict[str, Any] = yaml.safe_load(demo.CONFIG.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Quickstart:
    """The models in ``folder``, trained there where they are not; searches read ``searched`` items of each skill."""

    folder: Path
    settings: Settings = field(default_factory=Settings)
    searched: int = SEARCHED

    models = tuple(CONFIG["genome"]["models"])
    tasks = tuple(CONFIG["tasks"])
    # What parents answer is the same in every run: they are asked once.
    merge3 = {key: CONFIG["merge3"][key] for key in ("dtype", "device", "eval")} | {"held_out": HELD_OUT, "reuse": True}

    def at(self, seed: int) -> Quickstart:
        """These models: a seed is that of a search."""
        return self

    @contextmanager
    def opened(self, config: Mapping[str, Any], folder: Path) -> Iterator[Setting]:
        prepare(self.folder, self.settings)
        data = {}
        for task, skill in zip(self.tasks, world.SKILLS, strict=True):
            lines = (self.folder / "data" / f"{skill}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
            data[task] = str(folder / f"{skill}.jsonl")
            Path(data[task]).write_text("".join(lines[:ITEMS]), encoding="utf-8")
        chosen = parse_config({**config, "merge3": {**config["merge3"], "data": data}, "limit": self.searched})
        os.environ["MERGE3_HOME"] = str(self.folder.resolve() / "home")
        flags = Flags(task_search_path=(str(demo.HERE / "tasks"),), save_final_model=False)
        with chdir(self.folder), opened(chosen, folder, flags) as setting:
            yield setting

    def accuracy(self, setting: Setting, candidate: Candidate) -> FloatArray:
        known = dict(setting.store.events())
        read = {task: {item for ids in known[f"items {task}"].values() for item in ids} for task in self.tasks}
        items = {
            task: [item for item in benchmark.item_ids if item not in read[task]]
            for task, benchmark in setting.benchmarks.items()
        }
        setting.evaluator.evaluate(candidate, "judged", items)
        answers = {task: setting.evaluator.answers(candidate, task, ids).right for task, ids in items.items()}
        return np.array([np.mean([answers[task][item] for item in ids]) for task, ids in items.items()])
