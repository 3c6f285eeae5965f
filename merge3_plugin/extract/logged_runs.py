"""The runs behind a set of logs: which are read, whether they agree, and what they were."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from merge3_plugin.errors import DataError, nearest
from merge3_plugin.extract.logs import Pair, SampleLog


def tasks_of(logs: Iterable[SampleLog]) -> set[str]:
    """The tasks of which there are logs."""
    return {log.task for log in logs}


def leaves_behind(logs: Sequence[SampleLog], task: str, base: Sequence[str]) -> tuple[list[str], str | None]:
    """Leaf tasks behind ``base`` or, where the logs lack that, ``task``, and the group's name if it is one.

    Raises DataError, with the nearest name, where there are logs of neither.
    """
    groups: dict[str, list[str]] = {}
    for log in logs:
        # Releases of lm-eval before 0.4.10 list every task there, one that is no group with no subtasks.
        subtasks = {} if log.results is None else log.results.group_subtasks
        groups |= {name: below for name, below in subtasks.items() if below}
    known = tasks_of(logs) | groups.keys()
    names = list(base) if base and known.issuperset(base) else [task]
    if not known.issuperset(names):
        raise DataError(f"logs: expected samples of task {task!r}, got none{nearest(task, known)}")
    group = names[0] if names[0] in groups else task if len(names) > 1 or task in groups else None
    leaves: dict[str, None] = {}
    opened: set[str] = set()
    while names:
        name = names.pop(0)
        if name not in groups:
            leaves[name] = None
        elif name not in opened:  # a damaged file may put a group into itself
            opened.add(name)
            names += groups[name]
    return list(leaves), group


def newest(logs: Iterable[SampleLog]) -> tuple[list[SampleLog], list[str]]:
    """The newest log of each (task, model), sorted, and a note on each that was passed over."""
    chosen: dict[tuple[str, str], SampleLog] = {}
    notes = []
    for log in sorted(logs, key=lambda log: (log.date, log.path)):
        older = chosen.get((log.task, log.model))
        if older is not None:
            notes.append(f"{log.model}: {log.task} was run more than once; reading {log.path.name}, not {older.date}")
        chosen[log.task, log.model] = log
    return [chosen[key] for key in sorted(chosen)], notes


def check_settings(logs: Sequence[SampleLog]) -> None:
    """Raise DataError unless the logs, of one task, were made under one setting; logs without results do not say."""
    known = [log for log in logs if log.settings]
    for log in known[1:]:
        for what, value in log.settings.items():
            first = known[0].settings[what]
            if value != first:
                raise DataError(
                    f"{log.task}: expected one {what} in all logs, got {first!r} for {known[0].model!r} "
                    f"and {value!r} for {log.model!r}; give logs of one setting"
                )


def provenance_of(logs: Sequence[SampleLog], task: str, pair: Pair | None) -> dict[str, Any]:
    """What the results files say of the runs, as `Responses.provenance` has it."""
    by_leaf: dict[str, dict[str, Any]] = {}
    for log in logs:
        if log.task in by_leaf or log.results is None:
            continue
        by_leaf[log.task] = {
            "num_fewshot": log.settings["few-shot count"],
            "chat_template": log.settings["chat template"],
            "dataset_path": log.config.dataset_path,
            "dataset_name": log.config.dataset_name,
            "revision": (log.config.dataset_kwargs or {}).get("revision"),
            "split": log.config.test_split or log.config.validation_split,
        }
    names = next(iter(by_leaf.values()), {})
    common = {name: _common({leaf: found[name] for leaf, found in by_leaf.items()}) for name in names}
    counts = {log.task: log.n_documents for log in logs if log.n_documents is not None}
    n_documents = sum(counts.values()) if counts.keys() == {log.task for log in logs} else None
    metric, filter_name = pair or (None, None)
    return {"task": task, "metric": metric, "filter": filter_name, **common, "n_documents": n_documents}


def _common(by_leaf: Mapping[str, Any]) -> Any:
    first, *others = by_leaf.values()
    return dict(by_leaf) if any(value != first for value in others) else first
