"""A run's record and config in a new folder, to go on with a greater budget there while the old run stays as it is."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from merge3_plugin.errors import ConfigError, RunError
from merge3_plugin.evolve.assessor import spent_by_search
from merge3_plugin.evolve.files import replace_folder
from merge3_plugin.evolve.guard import EVIL_FLAG
from merge3_plugin.evolve.history import History, read_history
from merge3_plugin.evolve.setup import FLAGS
from merge3_plugin.evolve.store import RunStore

CONFIG = "config.yml"


def fork(folder: Path, new: Path, budgets: Mapping[str, int | float]) -> str:
    """Make the folder ``new`` of the record in ``folder`` as it is now; returns the command that goes on there.

    ``budgets`` are new values of `claim.BUDGET_KEYS`; those not named are none, and of candidates as many as the search
    began with. Raises ConfigError for budgets that are spent already, RunError where there is no record, or where
    ``new`` is not free.
    """
    if new.exists() and (not new.is_dir() or any(new.iterdir())):
        raise RunError(f"{new}: expected a new or empty folder, got something there; name another")
    store = RunStore.open(folder)
    try:
        history = read_history(store)
        search = {"max_fevals": max(history.budget or 0, history.begun), **budgets}
        _check_unspent(store, history, search)
        tree = history.config.model_dump(mode="json")
        tree["merge3"]["search"] |= search

        def save(target: Path) -> None:
            target.mkdir(parents=True)
            store.copy_to(target)
            (target / CONFIG).write_text(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), encoding="utf-8")

        replace_folder(new, save)
        return _command(new, store.meta().get(FLAGS, {}))
    finally:
        store.close()


def _check_unspent(store: RunStore, history: History, search: Mapping[str, int | float]) -> None:
    spent = spent_by_search(store)
    known = {"max_fevals": history.begun, "max_items": spent.items, "max_tokens": spent.tokens}
    for key, used in known.items():
        if search.get(key) is not None and search[key] <= used:
            raise ConfigError(
                f"--{key.replace('_', '-')}: expected more than the {used:,.0f} that the search has spent, "
                f"got {search[key]:,}; raise it"
            )


def _command(folder: Path, flags: Mapping[str, Any]) -> str:
    words = ["mergekit-evolve-merge3", str(folder / CONFIG), "--storage-path", str(folder)]
    for path in flags.get("task_search_path", ()):
        words += ["--task-search-path", path]
    if not flags.get("save_final_model", True):
        words.append("--no-save-final-model")
    words += [f"--{name.replace('_', '-')}" for name in ("trust_remote_code", "allow_crimes") if flags.get(name)]
    words += [EVIL_FLAG] * bool(flags.get("allow_benchmark_tasks"))
    return shlex.join(words)
