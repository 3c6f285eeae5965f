"""The one task class behind every ``merge3_*`` task: another lm-eval task, asked on its anchor items only."""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
import random
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval.api.task import Task
from lm_eval.config.task import TaskConfig

from merge3_plugin.domain import Calibration, Estimate
from merge3_plugin.errors import ConfigError, DataError, nearest
from merge3_plugin.harness.anchors import Anchors, Scored
from merge3_plugin.harness.calibrations import check_settings
from merge3_plugin.harness.documents import Document
from merge3_plugin.harness.labels import check_labels
from merge3_plugin.harness.loading import load_leaves
from merge3_plugin.harness.registration import known_tasks, print_errors_in_one_line
from merge3_plugin.harness.settings import SETTINGS, check_task_names, read_settings, tasks_of_run
from merge3_plugin.harness.task_items import TaskItems, template_hash

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.tasks import TaskManager

log = logging.getLogger(__name__)

_OWN_KEYS = ("class", "base", "metric", "task", "metadata", *SETTINGS)
_TASK_FIELDS = tuple(field.name for field in dataclasses.fields(TaskConfig))
_alive: weakref.WeakSet[AnchorTask] = weakref.WeakSet()

# lm_eval's command knows nothing of our errors; this module is imported as soon as it loads a task of ours.
print_errors_in_one_line()


class AnchorTask(Task):
    """A lm-eval task that asks a base task's anchor items and reports the estimated accuracy over all of its items.

    In YAML: ``class: !function merge3_plugin.harness.anchor_task.AnchorTask``, ``metric`` (``metric,filter`` of the
    base), and either ``base`` (the name of a task, group or tag) with any task setting over the base's own, or a whole
    task. Documents, few-shot context, requests and filters are the base's; every setting that lm-eval makes on this
    task reaches the base.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        # Not Task.__init__: it would download a data set of its own.
        name = config["task"]
        for key in config:
            if key not in _OWN_KEYS and key not in _TASK_FIELDS:
                raise ConfigError(f"task {name!r}: unknown key {key!r}{nearest(key, [*_OWN_KEYS, *_TASK_FIELDS])}")
        base = config.get("base")
        fields = {key: value for key, value in config.items() if key not in _OWN_KEYS}
        metadata = dict(config.get("metadata") or {})
        self.settings = read_settings(name, config)
        self._run = metadata.get("merge3")
        try:
            leaves, group = load_leaves(
                name, base, fields if base else {**fields, "metadata": metadata}, self.settings.data
            )
        except DataError:
            # The data may have been named for a task that is misspelt: that is then what to say.
            if known := known_tasks():
                check_task_names(tasks_of_run(config), [name, *known])
            raise
        if any(isinstance(leaf, AnchorTask) for leaf in leaves.values()):
            raise ConfigError(f"task {name!r}: expected a plain task as its base, got {base!r}, an anchor task")
        self.items = TaskItems(
            name,
            leaves,
            group=group,
            metric=config.get("metric"),
            id_field=self.settings.id_field,
            language=self.settings.language,
        )
        first = next(iter(leaves.values()))
        self._config = copy.copy(first.config)
        self._config.task, self._config.metadata = name, metadata
        self._config.task_alias = config.get("task_alias")
        self._config.generation_kwargs = copy.deepcopy(first.config.generation_kwargs)
        self.OUTPUT_TYPE = first.OUTPUT_TYPE
        self.VERSION = metadata.get("version", first.VERSION)
        self.UNSAFE_CODE = any(getattr(leaf, "UNSAFE_CODE", False) for leaf in leaves.values())
        self.MULTIMODAL = any(getattr(leaf, "MULTIMODAL", False) for leaf in leaves.values())
        self._training_docs = self._fewshot_docs = None
        self._instances: list[Instance] | None = None
        self._filters: list[Any] = []
        self.fewshot_rnd: random.Random | None = None
        self._anchors = Anchors(self.items, self.settings)
        _alive.add(self)

    def provenance(self) -> dict[str, Any]:
        """Where the items come from and how they are asked, as plain JSON."""
        leaf = next(iter(self.items.leaves.values())).config
        metadata = self.config.metadata or {}
        return {
            "task": self.task_name,
            "metric": self.items.metric,
            "filter": self.items.filter,
            "num_fewshot": self.config.num_fewshot or 0,
            "dataset_path": leaf.dataset_path,
            "dataset_name": None if self.items.grouped else leaf.dataset_name,
            "revision": (leaf.dataset_kwargs or {}).get("revision"),
            "data": None if self.settings.data is None else Path(self.settings.data).name,
            "split": metadata.get("split") or leaf.test_split or leaf.validation_split,
            "source_benchmark": metadata.get("source_benchmark"),
            "licence": metadata.get("licence"),
            "language": self.settings.language,
        }

    # Which documents

    @property
    def calibration(self) -> Calibration | None:
        """The calibration in use; None where the task is a random sample."""
        return self._anchors.calibration

    @property
    def eval_docs(self) -> list[Document]:
        """The anchors' documents, in the order of the base task."""
        return self._anchors.documents

    # Settings that lm-eval makes on a task

    def set_config(self, key: str, value: Any, update: bool = False) -> None:
        super().set_config(key, value, update)
        self.items.set_config(key, value, update)

    def set_fewshot_seed(self, seed: int | None = None) -> None:
        self.items.fewshot_seed = seed

    def override_metric(self, metric_name: str) -> None:
        for leaf in self.items.leaves.values():
            leaf.override_metric(metric_name)
        self.items.metric = metric_name

    # Requests, filters, scores

    def build_all_requests(
        self,
        *,
        limit: int | None = None,
        samples: list[int] | None = None,
        rank: int = 0,
        world_size: int = 1,
        system_instruction: str | None = None,
        apply_chat_template: bool = False,
        fewshot_as_multiturn: bool = False,
        chat_template: Callable[..., str] | None = None,
        **caching: Any,
    ) -> None:
        """As in lm-eval, but never from its cache of requests, which does not know one anchor set from another."""
        if self._run is not None:
            check_task_names(tasks_of_run({"metadata": {"merge3": self._run}}), self._names_of_run())
        if self.items.metric != "bypass":  # lm_eval --predict_only
            self.items.check_per_item()
        documents = list(self.doc_iterator(rank=rank, limit=limit, samples=samples, world_size=world_size))
        check_labels(self.items, [document for _, document in documents])
        if self.calibration is not None:
            template = template_hash(chat_template) if apply_chat_template and chat_template else None
            check_settings(self.calibration, {**self.provenance(), "chat_template": template})
        if rank == 0 and (note := self._anchors.note()):
            log.warning(note)
        requests = self.items.requests(
            {document.item_id: number for number, document in documents},
            system_instruction=system_instruction,
            apply_chat_template=apply_chat_template,
            fewshot_as_multiturn=fewshot_as_multiturn,
            chat_template=chat_template,
        )
        self._instances = [instance for _, document in documents for instance in requests[document.item_id]]

    def _names_of_run(self) -> list[str]:
        return [task.task_name for task in _alive if task._run is self._run]

    def apply_filters(self) -> list[Instance] | None:
        self.items.apply_filter(self._instances or [])
        return self._instances

    def process_results(self, doc: Document, results: Sequence[Any]) -> dict[str, Any]:
        """The item's scores under every metric: each aggregation needs those of all items, in whatever order."""
        if self.items.metric == "bypass":  # lm_eval --predict_only
            return self.items.leaf(doc).process_results(doc, results)
        if self.OUTPUT_TYPE != "generate_until" and not all(math.isfinite(result[0]) for result in results):
            raise DataError(
                f"task {self.task_name!r}, item {doc.item_id!r}: expected finite log-likelihoods of the model"
            )
        scored = Scored(doc.item_id, self.items.score(doc, results), self.items.soft(doc, results))
        return dict.fromkeys(_METRICS, scored)

    def aggregation(self) -> dict[str, Callable[[Sequence[Scored]], float]]:
        if self.items.metric == "bypass":
            return next(iter(self.items.leaves.values())).aggregation()
        return {name: self._metric(of) for name, of in _METRICS.items()}

    def higher_is_better(self) -> dict[str, bool]:
        return {"merge3_acc": True, "merge3_lo": True, "merge3_hi": True, "merge3_se": False}

    def _metric(self, of: Callable[[Estimate], float]) -> Callable[[Sequence[Scored]], float]:
        return lambda scored: of(self._anchors.estimate(scored))

    # What else the evaluator asks of a task, answered by the document's own task

    def doc_to_text(self, doc: Document) -> Any:
        return self.items.leaf(doc).doc_to_text(doc)

    def doc_to_target(self, doc: Document) -> Any:
        return self.items.leaf(doc).doc_to_target(doc)

    def construct_requests(self, doc: Document, ctx: Any, **kwargs: Any) -> Any:
        return self.items.leaf(doc).construct_requests(doc, ctx, **kwargs)

    def has_training_docs(self) -> bool:
        return False

    def has_validation_docs(self) -> bool:
        return False

    def has_test_docs(self) -> bool:
        return True

    def test_docs(self) -> list[Document]:
        return self.eval_docs


_METRICS: dict[str, Callable[[Estimate], float]] = {
    "merge3_acc": lambda estimate: estimate.accuracy,
    "merge3_se": lambda estimate: estimate.standard_error,
    "merge3_lo": lambda estimate: estimate.interval[0],
    "merge3_hi": lambda estimate: estimate.interval[1],
    "merge3_items": lambda estimate: estimate.n_scored,
}


def anchor_task(
    manager: TaskManager, name: str, *, metric: str | None, data: str | Path | None, id_field: str | None, **more: Any
) -> AnchorTask:
    """The task ``name`` as an anchor task: itself if it is one, else wrapped. ``merge3_acc,none`` is its own metric.

    ``more`` are settings over those of its YAML, None included.
    """
    entry = manager.task_index[name]
    config = manager._factory._load_full_config(entry)
    given = {"data": data, "id_field": id_field, "metric": None if metric == "merge3_acc,none" else metric}
    given = {key: value for key, value in given.items() if value is not None} | more
    if isinstance(config.get("class"), type) and issubclass(config["class"], AnchorTask):
        return config["class"](config={**config, **given})
    return AnchorTask({"task": name, "base": name, **given})
