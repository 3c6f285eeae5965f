"""One run from config to result folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from merge3_plugin.config import RunConfig
from merge3_plugin.evolve.evaluate import Candidate
from merge3_plugin.evolve.files import replace_folder, replace_text
from merge3_plugin.evolve.front_files import write_front
from merge3_plugin.evolve.recipe import to_yaml
from merge3_plugin.evolve.run import Run
from merge3_plugin.evolve.setting import Setting, Watcher
from merge3_plugin.evolve.setup import Flags, opened
from merge3_plugin.evolve.summary import summarise

BEST_CONFIG, FINAL_MODEL, SUMMARY = "best_config.yaml", "final_model", "summary.json"


def evolve(config: RunConfig, folder: Path, flags: Flags, watcher: Watcher) -> dict[str, Any]:
    """Run, or go on with, the search of ``config`` in ``folder``; returns what ``summary.json`` holds.

    Writes the record as it goes, ``best_config.yaml`` after each improvement, and at the end ``final_model/``,
    ``summary.json`` and, of several objectives, the front. Raises Merge3Error children for what a person can mend,
    and run.Interrupted when stopped before there was a candidate.
    """
    with opened(config, folder, flags) as setting:
        outcome = Run(setting, watcher, lambda best: _write_best(setting, best)).execute()
        _write_best(setting, outcome.winner)
        if outcome.confirmation is not None and outcome.confirmation.front:
            write_front(setting, outcome.objectives, outcome.confirmation)
        if flags.save_final_model:
            setting.merger.merge(_recipe(outcome.winner))
            replace_folder(folder / FINAL_MODEL, setting.merger.save)
        summary = json.dumps(summarise(setting, outcome), indent=2, ensure_ascii=False)
        replace_text(folder / SUMMARY, summary + "\n")
        return dict(json.loads(summary))


def _recipe(candidate: Candidate) -> Mapping[str, Any]:
    return candidate.recipe or {}


def _write_best(setting: Setting, best: Candidate) -> None:
    replace_text(
        setting.folder / BEST_CONFIG,
        to_yaml(_recipe(best), random_seed=setting.config.merge3.seed, flags=setting.merger.flags),
    )
