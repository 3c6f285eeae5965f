"""Which calibration a task uses, and whether it was made for this task as it is asked now."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from merge3_plugin.domain import Calibration
from merge3_plugin.errors import DataError
from merge3_plugin.harness.task_items import TaskItems


def user_folder() -> Path:
    """The user's merge3 folder: ``$MERGE3_HOME``, else ``~/.cache/merge3``."""
    return Path(os.environ.get("MERGE3_HOME") or Path.home() / ".cache" / "merge3")


def calibration_path(task: str, chosen: str | Path | None) -> Path | None:
    """The calibration file to use: ``chosen``, else the task's in the user's merge3 folder, else None.

    Files lie in ``calibrations/<task>.safetensors``.
    """
    if chosen is not None:
        return Path(chosen)
    path = user_folder() / "calibrations" / f"{task}.safetensors"
    return path if path.is_file() else None


def check_items(calibration: Calibration, items: TaskItems, path: Path) -> None:
    """Raise DataError unless all items of the calibration are among the task's, with equal documents and weights."""
    known = dict(zip(items.documents, items.hashes, strict=True))
    hashes = calibration.item_hashes or [None] * calibration.n_items
    for item, content in zip(calibration.item_ids, hashes, strict=True):
        if item not in known or content not in (None, known[item]):
            raise DataError(
                f"{path}: expected a calibration of task {items.name!r}, got one whose item {item!r} "
                f"{'has another text' if item in known else 'is not in the data'}; calibrate this task on this data"
            )
    # A calibration of some items only, by --limit, speaks of those alone and weighs them as lm-eval did there.
    if calibration.n_items == len(known):
        ours = items.balance_of(calibration.item_ids)
        weights = np.ones(len(known)) if ours is None else ours
        if not np.allclose(calibration.responses.item_weights, weights / weights.sum(), rtol=1e-6, atol=0):
            alike = "items" if ours is None else "sub-tasks"
            raise DataError(
                f"{path}: expected a calibration in which the {alike} of {items.name!r} count as in lm-eval's score of "
                "the group, got other weights; calibrate this task again"
            )


def check_settings(calibration: Calibration, now: Mapping[str, Any]) -> None:
    """Raise DataError where the calibration was made under another metric, language, few-shot count or chat template.

    ``now`` is the task's provenance, whose ``chat_template`` is a hash (`template_hash`), None without a template. A
    calibration that does not say its few-shot count (made from an .npz) says nothing of its template either.
    """
    # Logs always tell the few-shot count; those that tell no language were read before answers were checked for it.
    then = {**({"language": None} if "num_fewshot" in calibration.provenance else {}), **calibration.provenance}
    keys = ["metric", "filter", "language"] if then.get("metric") is not None else []
    if then.get("num_fewshot") is not None:
        keys += ["num_fewshot", "chat_template"]
    for key in keys:
        if key in then and then[key] != now[key]:
            raise DataError(
                f"task {now['task']!r}: expected a calibration for {key} {now[key]!r}, got one for {then[key]!r}; "
                "calibrate again, or run the task as it was calibrated"
            )
