"""Benchmarks as the search sees them: all items of a task by id, and where they come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merge3_plugin.domain import FloatArray
from merge3_plugin.harness.labels import check_labels
from merge3_plugin.harness.task_items import TaskItems


@dataclass(frozen=True, eq=False)
class Benchmark:
    """All items of one task, under one of its metrics.

    ``provenance`` is plain JSON: task, metric, filter, language, few-shot count, data set, licence. Benchmarks of one
    task under several metrics share its documents.
    """

    name: str
    items: TaskItems
    provenance: Mapping[str, Any]

    @property
    def task(self) -> str:
        """The task as lm-eval knows it; ``name`` may tell its metrics apart."""
        return self.items.name

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

    def balance_among(self, item_ids: Iterable[str]) -> FloatArray | None:
        """How much each of these items counts where no other is asked, as in a run with ``--limit``; None: alike."""
        return self.items.balance_among(item_ids)

    @property
    def per_item(self) -> bool:
        """False for a metric of the whole set (perplexity, say), which no subset of items can stand for."""
        return self.items.per_item


def load_benchmarks(
    metrics: Mapping[str, str | None],
    *,
    tasks: Mapping[str, str] | None = None,
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
    ``merge3_acc,none`` its metric); a name in ``tasks`` stands for the task there, so that one task can have several
    metrics. By task, ``data`` names local files in place of its own documents, and ``language`` the language in which
    a generated answer must be to count (None: any), where that is not the task's own. As in lm-eval, ``num_fewshot``
    does not override a task that sets 0; ``fewshot_seed`` defaults to lm-eval's; ``metadata`` is its ``--metadata``.
    Raises ConfigError or DataError.
    """
    from merge3_plugin.harness.anchor_task import anchor_task
    from merge3_plugin.harness.loading import find_task_manager

    task_of = {name: (tasks or {}).get(name, name) for name in metrics}
    manager = find_task_manager(task_of.values(), include_paths, metadata)
    benchmarks: dict[str, Benchmark] = {}
    for name, metric in metrics.items():
        source = task_of[name]
        known = next((benchmark for benchmark in benchmarks.values() if benchmark.task == source), None)
        if known is not None:
            items = known.items.with_metric(metric)
            changed = {"metric": items.metric, "filter": items.filter}
            benchmarks[name] = Benchmark(name, items, {**known.provenance, **changed})
            continue
        given = {"language": language[source]} if language and source in language else {}
        task = anchor_task(manager, source, metric=metric, data=(data or {}).get(source), id_field=id_field, **given)
        check_labels(task.items, task.items.documents.values())
        if num_fewshot is not None and task.get_config("num_fewshot") != 0:
            task.set_config("num_fewshot", num_fewshot)
        elif task.get_config("num_fewshot") is None:
            task.set_config("num_fewshot", 0)
        task.set_fewshot_seed(fewshot_seed)
        benchmarks[name] = Benchmark(name, task.items, task.provenance())
    return benchmarks
