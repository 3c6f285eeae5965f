"""The anchors of one task: which items it asks, and the estimate from their scores."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from merge3_plugin.domain import Calibration, Estimate
from merge3_plugin.errors import DataError
from merge3_plugin.estimate.auto import run
from merge3_plugin.estimate.base import gather
from merge3_plugin.estimate.design import sample_mean
from merge3_plugin.harness.calibrations import calibration_path, check_items
from merge3_plugin.harness.documents import Document
from merge3_plugin.harness.settings import AnchorSettings, random_sample
from merge3_plugin.harness.task_items import TaskItems


class Scored(NamedTuple):
    """One item's score, and the probability given to its right option; None where there is none. Logged as a list."""

    item: str
    score: float
    soft: float | None


class Anchors:
    """The anchors among ``items``: those of the calibration that ``settings`` find, else a seeded random sample."""

    def __init__(self, items: TaskItems, settings: AnchorSettings) -> None:
        self._items, self._settings = items, settings
        self._estimated: tuple[tuple[Scored, ...], Estimate] | None = None

    @cached_property
    def calibration(self) -> Calibration | None:
        """None without a calibration. Raises DataError for one that is damaged, or of another task's items."""
        path = calibration_path(self._items.name, self._settings.calibration)
        if path is None:
            return None
        from merge3_plugin.artifact import load_calibration

        calibration = load_calibration(path)
        check_items(calibration, self._items, path)
        return calibration

    @cached_property
    def documents(self) -> list[Document]:
        """The anchors' documents, in the order of the task."""
        known = self._items.documents
        if self.calibration is None:
            chosen = set(random_sample(list(known), self._settings.anchors, self._settings.seed))
        else:
            chosen = set(self.calibration.anchors.item_ids)
        return [document for item, document in known.items() if item in chosen]

    def note(self) -> str | None:
        """What a reader of the estimate must know."""
        name, n_items, n_anchors = self._items.name, len(self._items.documents), len(self.documents)
        if self.calibration is None:
            return (
                f"{name} is not calibrated: it reports the mean of a random sample of {n_anchors} of its {n_items} "
                f"items; to calibrate it: merge3 calibrate --task {name} --models A B C --anchors 50 --out FILE"
            )
        if (known := self.calibration.n_items) < n_items:
            return f"{name}: its calibration holds {known} of the {n_items} items, and speaks of those alone"
        return None

    def estimate(self, scored: Sequence[Scored]) -> Estimate:
        """The estimate from scores in any order. DataError for an item that is doubled or no anchor."""
        key = tuple(scored)  # lm-eval asks once for every metric
        if self._estimated is None or self._estimated[0] != key:
            self._estimated = (key, self._estimate(key))
        return self._estimated[1]

    def _estimate(self, scored: Sequence[Scored]) -> Estimate:
        scores = {one.item: one.score for one in scored}
        soft = {one.item: one.soft for one in scored if one.soft is not None}
        if len(scores) < len(scored) or not scores.keys() <= {document.item_id for document in self.documents}:
            raise DataError(f"task {self._items.name!r}: expected each anchor once, got others or one twice")
        if self.calibration is None:
            balance = self._items.balance_of(scores)
            return sample_mean(np.array(list(scores.values())), len(self._items.documents), weights=balance)
        return run(self._settings.estimator, gather(self.calibration, scores, soft=soft))
