"""A calibration from responses, and the part of one that belongs to some of its items."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from numbers import Integral

import numpy as np

from merge3_plugin.calibrate.folds import items_for
from merge3_plugin.calibrate.study import AUTO, study
from merge3_plugin.domain import Calibration, FloatArray, ResponseMatrix
from merge3_plugin.errors import DataError


def build_calibration(
    responses: ResponseMatrix,
    n_anchors: int,
    *,
    seed: int,
    anchors: str = AUTO,
    parents: ResponseMatrix | None = None,
    embeddings: FloatArray | None = None,
) -> Calibration:
    """See `merge3_plugin.api.calibrate`."""
    check_size(n_anchors)
    made = study(responses, seed=seed, parents=parents, embeddings=embeddings, max_items=items_for(n_anchors))
    return made.calibration(n_anchors, anchors)


def check_size(n_anchors: int) -> None:
    """DataError unless it is a number of anchors."""
    if not isinstance(n_anchors, Integral) or n_anchors < 1:
        raise DataError(f"anchors: expected a whole number, at least 1, got {n_anchors}; 50 is a good start")


def restrict(calibration: Calibration, item_ids: Iterable[str]) -> Calibration:
    """The calibration of the sub-benchmark of these items, in the calibration's order.

    The errors are kept: they belong to the number of anchors, which stays. Raises DataError for unknown items, and if
    an anchor would be lost.
    """
    wanted = set(item_ids)
    unknown = wanted - set(calibration.item_ids)
    if unknown:
        raise DataError(f"restrict: expected items of the calibration, got {min(unknown)!r}, which it does not hold")
    lost = [item for item in calibration.anchors.item_ids if item not in wanted]
    if lost:
        raise DataError(f"restrict: expected all anchors among the items, got none of {lost[0]!r}; keep the anchors")
    keep = np.array([item in wanted for item in calibration.item_ids])
    kept = tuple(item for item, stays in zip(calibration.item_ids, keep, strict=True) if stays)
    hashes = calibration.item_hashes
    return replace(
        calibration,
        item_ids=kept,
        items=calibration.items.take(np.flatnonzero(keep)),
        alternatives=tuple(fit.take(np.flatnonzero(keep)) for fit in calibration.alternatives),
        responses=calibration.responses.items(kept),
        item_hashes=None if hashes is None else tuple(h for h, stays in zip(hashes, keep, strict=True) if stays),
    )
