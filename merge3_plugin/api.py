"""merge3 from Python: a response matrix, a calibration made of it, and the estimate of a model's accuracy."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from merge3_plugin.domain import Calibration, Estimate, FloatArray, ResponseMatrix

__all__ = ["Calibration", "Estimate", "ResponseMatrix", "calibrate", "estimate"]

log = logging.getLogger(__name__)


def calibrate(
    responses: ResponseMatrix,
    n_anchors: int,
    *,
    seed: int,
    anchors: str = "auto",
    parents: ResponseMatrix | None = None,
    embeddings: FloatArray | None = None,
) -> Calibration:
    """Choose ``n_anchors`` anchors and learn, from other models' answers, to estimate accuracy from them.

    ``anchors`` names how they are chosen: ``"random"``, ``"stratified"`` by difficulty, ``"kd"`` (equal-size groups of
    items that behave alike), ``"mixed"`` (a quarter the most informative items, the others stratified),
    ``"irt-clusters"`` and ``"correctness-clusters"`` (as tinyBenchmarks), ``"representation-clusters"`` (of
    ``embeddings``, (n_items, d)), ``"neyman"`` (by the parents' answers); or ``"auto"``: kd (below 5 models stratified,
    with parents neyman), unless cross-validation shows beyond its noise that another one errs less. ``parents`` are the
    models that candidates are merged from: they join the responses, and merge-aware estimators are cross-validated on
    merges of theirs among these. As many anchors as items or more: all items. The same seed gives the same
    calibration. Models whose answers look wrong are named in warnings. Raises DataError for an empty or constant
    matrix, a single model, a model without answers, fewer than one anchor, and parents who did not answer the items;
    ConfigError for an unknown way to choose.
    """
    from merge3_plugin.calibrate import build_calibration
    from merge3_plugin.extract.checks import odd_models

    for line in odd_models(responses):
        log.warning("%s", line)
    return build_calibration(responses, n_anchors, seed=seed, anchors=anchors, parents=parents, embeddings=embeddings)


def estimate(
    calibration: Calibration,
    scores: Mapping[str, float],
    *,
    estimator: str = "auto",
    parents: ResponseMatrix | None = None,
    soft: Mapping[str, float] | None = None,
) -> Estimate:
    """Accuracy over all items of ``calibration`` of a model with these ``scores`` (item id -> score in [0, 1]).

    ``scores`` may leave anchors out or hold further items; if it holds all items, the result is their exact mean.
    ``estimator`` is a registered name or ``"auto"``: what the calibration's cross-validation chose for such evidence,
    which is core (with parents plog) unless another one is better by more than the noise. ``parents`` are the answers,
    on all items, of the models it was merged from; ``soft`` the probabilities (item id -> in [0, 1]) that the model
    gave to the right options, where known. Raises DataError for unknown items, scores outside [0, 1], none at all, and
    parents who are missing for ``estimator`` or did not answer the items; ConfigError for an unknown estimator.
    """
    from merge3_plugin.estimate.auto import resolve
    from merge3_plugin.estimate.base import gather, run_estimator

    evidence = gather(calibration, scores, parents, soft)
    found = resolve(estimator, calibration, parents_known=parents is not None, soft_known=bool(soft))
    return run_estimator(found, evidence)
