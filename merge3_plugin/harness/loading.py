"""lm-eval's tasks by name, without a scan of its 14,000 files where ours and the user's own will do."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge3_plugin.errors import ConfigError, DataError, nearest
from merge3_plugin.harness.local_data import local_task
from merge3_plugin.harness.registration import remember, running_task_manager, tasks_folder

if TYPE_CHECKING:
    from lm_eval.api.group import Group
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager


def find_task_manager(
    names: Iterable[str], include_paths: Sequence[str | Path] = (), metadata: Mapping[str, Any] | None = None
) -> TaskManager:
    """A TaskManager that knows all of ``names`` and what they are built from, remembered as the running one.

    ``metadata`` is lm_eval's ``--metadata``. lm-eval's own tasks are scanned (seconds, once a process) only where a
    name is not in our folder or ``include_paths``. Raises ConfigError for a folder that is not there, and for an
    unknown name, with the nearest.
    """
    for path in include_paths:
        if not Path(path).is_dir():
            raise ConfigError(f"include path: expected a folder of task YAML, got {str(path)!r}")
    folders = tuple(str(path) for path in (tasks_folder(), *include_paths))
    described = json.dumps(metadata or {}, sort_keys=True)
    manager = _scan(folders, described, include_defaults=False)
    if not all(_is_closed(manager.task_index, name) for name in names):
        manager = _scan(folders, described, include_defaults=True)
    for name in names:
        if name not in manager.task_index:
            raise ConfigError(f"task: expected a task of lm-eval, got {name!r}{nearest(name, manager.all_tasks)}")
    remember(manager)
    return manager


@lru_cache(maxsize=4)
def _scan(folders: tuple[str, ...], metadata: str, *, include_defaults: bool) -> TaskManager:
    from lm_eval.tasks import TaskManager

    return TaskManager(
        include_path=list(folders), include_defaults=include_defaults, metadata=json.loads(metadata) or None
    )


def _is_closed(index: Mapping[str, Any], entry: Any) -> bool:
    """Whether the index holds all that ``entry`` names: a task, or a group written out inside of another."""
    config = entry
    if not isinstance(entry, Mapping) or not isinstance(entry.get("task"), list):
        name = entry.get("task", entry.get("group")) if isinstance(entry, Mapping) else entry
        if not isinstance(name, str) or name not in index:
            return False
        config = index[name].cfg or {}
    members = config.get("task") if "group" in config else [config["base"]] if "base" in config else []
    return all(_is_closed(index, member) for member in members or ())


def load_leaves(
    name: str, base: str | None, fields: Mapping[str, Any], data: str | Path | None
) -> tuple[dict[str, Task], Group | None]:
    """The plain lm-eval tasks behind a task of ours, by name, and the group that they are of, if they are of one.

    They are those of ``base`` (a task, group or tag of the running TaskManager) with ``fields`` (task settings) over
    their own; without a ``base``, ``fields`` are the whole task. A single task goes by ``name``. ``data`` replaces
    their documents by local files. Raises ConfigError for an unknown base, DataError for documents that are not there
    or lack a field.
    """
    import jinja2
    from datasets.exceptions import DatasetsError
    from lm_eval.api.task import ConfigurableTask

    try:
        if base is not None:
            return _build(name, base, fields, data)
        make = ConfigurableTask if data is None else local_task(data)
        return {name: make(config={**fields, "task": name})}, None
    except (OSError, DatasetsError) as error:
        raise DataError(
            f"task {name!r}: expected its data ({fields.get('dataset_path') or base}), got {_line(error)}; "
            "without a network, name a local file of the same fields as data"
        ) from None
    except (KeyError, jinja2.UndefinedError) as error:
        raise DataError(
            f"task {name!r}: expected every field that its prompt reads, got {_line(error)}; rename the data's fields"
        ) from None


def _build(
    name: str, base: str, fields: Mapping[str, Any], data: str | Path | None
) -> tuple[dict[str, Task], Group | None]:
    from lm_eval.api.group import Group
    from lm_eval.tasks._index import Kind

    manager = running_task_manager()
    index = manager.task_index
    if base not in index:
        raise ConfigError(f"task {name!r}: expected lm-eval to know its base, got {base!r}{nearest(base, index)}")
    overrides = dict(fields)
    single = index[base].kind in (Kind.TASK, Kind.PY_TASK)
    if single:
        overrides["task"] = name
    if data is not None:
        if index[base].kind is Kind.PY_TASK:
            raise ConfigError(f"task {name!r}: expected a YAML task for local data, got {base!r}, which is Python")
        overrides["class"] = local_task(data, leaf_of_group=not single)
    built = manager._factory.build(index[base], overrides=overrides or None, registry=index)
    group = built if isinstance(built, Group) else None
    tasks = group.get_all_tasks() if group is not None else built if isinstance(built, list) else [built]
    if not tasks:
        raise ConfigError(f"task {name!r}: expected tasks in group {base!r}, got none")
    return {task.task_name: task for task in tasks}, group


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
