"""Benchmarks as the search sees them: all items of a task by id, and where they come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merge3_plugin.domain import FloatArray
from merge3_plugin.harness.task_items import TaskItems, check_labels


@dataclass(frozen=True, eq=False)
class Benchmark:
    """All items of one task. ``provenance`` is plain JSON: task, metric, filter, few-shot count, data set, licence."""

    name: str
    items: TaskItems
    provenance: Mapping[str, Any]

    @property
    def item_ids(self) -> tuple[str, ...]:
        return tuple(self.items.documents)

    @property
    def item_hashes(self) -> tuple[str, ...]:
        """Content hash of each item's document, in the order of ``item_ids``."""
        return self.items.hashes

    @property
    def item_groups(self) -> tuple[str, ...] | None:
        """Leaf task of each item where the benchmark is a group of tasks, else None."""
        return self.items.groups

    def balance_of(self, item_ids: Iterable[str]) -> FloatArray | None:
        """How much each of these items counts in the benchmark's accuracy, as lm-eval weighs a group; None: alike."""
        return self.items.balance_of(item_ids)

    @property
    def per_item(self) -> bool:
        """False for a metric of the whole set (perplexity, say), which no subset of items can stand for."""
        return self.items.per_item


def load_benchmarks(
    metrics: Mapping[str, str | None],
    *,
    include_paths: Sequence[str | Path] = (),
    num_fewshot: int | None = None,
    data: Mapping[str, str | Path] | None = None,
    id_field: str | None = None,
    language: Mapping[str, str | None] | None = None,
    fewshot_seed: int = 1234,
    metadata: Mapping[str, Any] | None = None,
) -> dict[str, Benchmark]:
    """Every task of ``metrics`` (name -> ``metric,filter``, or None for its own) with all of its items.

    A name is any task, group or tag of lm-eval, or an anchor task (ours or the user's, then its base is meant, and
    ``merge3_acc,none`` its metric). ``data`` names local files in place of a task's own documents; ``language`` the
    language in which a generated answer must be to count (None: any), where that is not the task's own. As in lm-eval,
    ``num_fewshot`` does not override a task that sets 0; ``fewshot_seed`` defaults to lm-eval's; ``metadata``
    is its ``--metadata``. Raises ConfigError or DataError.
    """
    from merge3_plugin.harness.anchor_task import anchor_task
    from merge3_plugin.harness.loading import find_task_manager

    manager = find_task_manager(metrics, include_paths, metadata)
    benchmarks = {}
    for name, metric in metrics.items():
        given = {"language": language[name]} if language and name in language else {}
        task = anchor_task(manager, name, metric=metric, data=(data or {}).get(name), id_field=id_field, **given)
        check_labels(task.items, task.items.documents.values())
        if num_fewshot is not None and task.get_config("num_fewshot") != 0:
            task.set_config("num_fewshot", num_fewshot)
        elif task.get_config("num_fewshot") is None:
            task.set_config("num_fewshot", 0)
        task.set_fewshot_seed(fewshot_seed)
        benchmarks[name] = Benchmark(name, task.items, task.provenance())
    return benchmarks
