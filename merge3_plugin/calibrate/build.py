"""A calibration from responses: dimension, items, anchors, and the cross-validated errors of the estimators."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from numbers import Integral

import numpy as np
from numpy.random import default_rng

from merge3_plugin import __version__
from merge3_plugin.calibrate.crossval import cross_validate, eligible, fit_folds
from merge3_plugin.domain import Calibration, ResponseMatrix
from merge3_plugin.errors import ConfigError, DataError
from merge3_plugin.estimate.base import CROSS_VALIDATION, FEWEST_MODELS, align_parents
from merge3_plugin.extract.anchors import select_anchors
from merge3_plugin.extract.fit import fit_items

AUTO = "auto"


def build_calibration(
    responses: ResponseMatrix,
    n_anchors: int,
    *,
    seed: int,
    anchors: str = AUTO,
    parents: ResponseMatrix | None = None,
) -> Calibration:
    """See `merge3_plugin.api.calibrate`."""
    if not isinstance(seed, Integral) or seed < 0:
        raise ConfigError(f"seed: expected a whole number, at least 0, got {seed!r}")
    everyone, parent_ids = with_parents(responses, parents)
    check_responses(everyone, n_anchors)
    n_anchors = min(n_anchors, everyone.n_items)
    method, n_dimensions = anchor_method(anchors, everyone), dimensions(everyone)
    anchor_rng, fold_rng = default_rng(seed).spawn(2)
    items, _ = fit_items(everyone, n_dimensions)
    chosen = select_anchors(everyone, items, n_anchors, method=method, rng=anchor_rng)
    provenance = {
        "models": list(everyone.model_ids),
        "parents": list(parent_ids),
        "seed": int(seed),
        "version": __version__,
    }
    calibration = Calibration(everyone.item_ids, items, chosen, everyone, provenance=provenance)
    if len(eligible(everyone, parent_ids)) < FEWEST_MODELS or n_anchors == everyone.n_items:
        return calibration
    folds = fit_folds(everyone, n_dimensions, fold_rng, parent_ids)
    outcome = cross_validate(everyone, folds, n_anchors, method=method, rng=fold_rng, parents=parent_ids)
    errors, record = outcome.findings()
    return replace(calibration, errors=errors, provenance={**provenance, CROSS_VALIDATION: record})


def with_parents(responses: ResponseMatrix, parents: ResponseMatrix | None) -> tuple[ResponseMatrix, tuple[str, ...]]:
    """``responses`` joined by those parents whom it lacks, and the parents' ids (none: empty)."""
    if parents is None:
        return responses, ()
    aligned = align_parents(parents, responses.item_ids)
    new = [m for m in aligned.model_ids if m not in responses.model_ids]
    if not new:
        return responses, aligned.model_ids
    return responses.joined(aligned.models(new)), aligned.model_ids


def check_responses(responses: ResponseMatrix, n_anchors: int) -> None:
    """DataError unless these responses can be calibrated on."""
    if not isinstance(n_anchors, Integral) or n_anchors < 1:
        raise DataError(f"anchors: expected a whole number, at least 1, got {n_anchors}; 50 is a good start")
    if not responses.n_items or not responses.n_models:
        raise DataError(f"responses: expected models and items, got shape {responses.values.shape}; add both")
    answered = ~np.isnan(responses.values)
    if not answered.any(axis=1).all():
        silent = responses.model_ids[int((~answered.any(axis=1)).argmax())]
        raise DataError(f"responses: expected answers from every model, got none from {silent!r}; drop or score it")
    if responses.n_models < 2:
        raise DataError("responses: expected at least 2 models, got 1; add the answers of others")
    known = responses.values[answered]
    if known.min() == known.max():
        raise DataError(f"responses: expected right and wrong answers, got only {known[0]:g}; check the metric")


def anchor_method(name: str, responses: ResponseMatrix) -> str:
    """``name``; for ``"auto"`` kd, or stratified where so few models hardly say which items behave alike."""
    if name != AUTO:
        return name
    return "kd" if responses.n_models >= FEWEST_MODELS else "stratified"


def dimensions(responses: ResponseMatrix) -> int:
    """Two dimensions where there are models enough to tell them apart, else one."""
    return 2 if responses.n_models >= FEWEST_MODELS else 1


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
