"""What a person may set for an anchor task: in its YAML, or at lm_eval's command line through ``--metadata``."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from merge3_plugin.errors import ConfigError, nearest
from merge3_plugin.extract.items import drawn_order


@dataclass(frozen=True)
class AnchorSettings:
    """How one anchor task runs. ``anchors`` and ``seed`` say which items are asked where there is no calibration.

    ``language`` (ISO 639 code) is that in which a generated answer must be to count.
    """

    data: str | Path | None = None
    id_field: str | None = None
    calibration: str | Path | None = None
    estimator: str = "auto"
    anchors: int = 100
    seed: int = 0
    language: str | None = None


SETTINGS = tuple(field.name for field in fields(AnchorSettings))


def read_settings(name: str, config: Mapping[str, Any]) -> AnchorSettings:
    """The settings of task ``name``: those of its YAML, under those of ``{"merge3": {"tasks": {name: ...}}}``.

    The latter stands in the task's metadata, where lm-eval puts ``--metadata``. Raises ConfigError for unknown keys.
    """
    chosen = {key: config[key] for key in SETTINGS if key in config}
    settings = AnchorSettings(**{**chosen, **tasks_of_run(config).get(name, {})})
    if not isinstance(settings.anchors, int) or settings.anchors < 1:
        raise ConfigError(f"merge3.tasks.{name}.anchors: expected a number of items, got {settings.anchors!r}")
    return settings


def tasks_of_run(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The block ``merge3.tasks`` of a task's metadata; empty without one.

    Raises ConfigError for another shape, and for settings that there are not.
    """
    block = (config.get("metadata") or {}).get("merge3") or {}
    tasks = block.get("tasks") or {} if isinstance(block, Mapping) else None
    if not isinstance(tasks, Mapping) or not all(isinstance(of, Mapping) for of in tasks.values()):
        raise ConfigError(f'metadata: expected {{"merge3": {{"tasks": {{name: {{setting: value}}}}}}}}, got {block!r}')
    for key in block:
        if key != "tasks":
            raise ConfigError(f"metadata: unknown key {key!r} under merge3{nearest(key, ['tasks'])}")
    for name, of in tasks.items():
        for key in of:
            if key not in SETTINGS:
                raise ConfigError(f"merge3.tasks.{name}: unknown setting {key!r}{nearest(key, SETTINGS)}")
    return tasks


def check_task_names(named: Collection[str], running: Collection[str]) -> None:
    """Raise ConfigError where ``merge3.tasks`` names a task that is not among the anchor tasks of this run."""
    for name in named:
        if name not in running:
            raise ConfigError(f"merge3.tasks: {name!r} is not an anchor task of this run{nearest(name, running)}")


def random_sample(item_ids: Sequence[str], n: int, seed: int) -> list[str]:
    """``n`` of the items, drawn by a seeded hash of the id, in the order in which they are given."""
    drawn = set(drawn_order(item_ids, seed, "sample")[:n])
    return [item for item in item_ids if item in drawn]
