"""merge3 from Python: a response matrix, a calibration made of it, and the estimate of a model's accuracy."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from merge3_plugin.domain import Calibration, Estimate, FloatArray, ResponseMatrix

if TYPE_CHECKING:
    from merge3_plugin.calibrate.adaptive import AdaptiveResult

__all__ = ["Calibration", "Estimate", "ResponseMatrix", "adaptive", "calibrate", "estimate"]

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
    ``embeddings``, (n_items, d)), ``"neyman"`` (by the parents' answers); or ``"auto"``: neyman with parents (from 16
    models on mixed), else kd (below 5 models stratified, from 16 on correctness-clusters), unless another one errs less
    in cross-validation, beyond its noise. ``parents`` are the models that candidates are merged from: they join the
    responses, and merge-aware estimators are cross-validated with them, on merges if these are. As many anchors as
    items or more: all items. The same seed gives the same calibration. Models whose answers look wrong are named in
    warnings. Raises DataError for an empty or constant matrix, a single model, a model without answers, fewer than one
    anchor, and parents who did not answer the items; ConfigError for an unknown way to choose.
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
    which is core (with parents plog, with their soft scores too factor-soft) unless another one is better by more than
    the noise. ``parents`` are the answers, on all items, of the models it was merged from; ``soft`` the probabilities
    (item id -> in [0, 1]) that the model gave to the right options, where known. Raises DataError for unknown items,
    scores outside [0, 1], none at all, and parents who are missing for ``estimator`` or did not answer the items;
    ConfigError for an unknown estimator.
    """
    from merge3_plugin.estimate.auto import run
    from merge3_plugin.estimate.base import gather

    return run(estimator, gather(calibration, scores, parents, soft))


def adaptive(
    calibration: Calibration,
    ask: Callable[[Sequence[str]], Mapping[str, float]],
    *,
    standard_error: float | None = None,
    budget: int | None = None,
    seed: int,
    batch: int = 8,
    parents: ResponseMatrix | None = None,
) -> AdaptiveResult:
    """Test one model on the items that tell most of it, until its accuracy is known as well as wanted.

    ``ask`` scores items (item ids -> score in [0, 1] of each), ``batch`` at a time (8 to 16 are a good number), until
    the ``standard_error`` is reached or ``budget`` items are asked; if that is all items, the result is their exact
    mean. Beside the adaptive items a probability sample is asked, whose residuals correct the estimate; the shares of
    the two, and the errors, are those of tests simulated on models left out of the calibration. With ``parents``, whose
    answers on all items are known, the test is of a merge of theirs. The same seed and answers give the same test.
    Raises ConfigError without an end to the test, DataError where ``ask`` leaves an item out or scores it outside
    [0, 1].
    """
    from merge3_plugin.calibrate.adaptive import run_adaptive

    return run_adaptive(
        calibration, ask, seed=seed, standard_error=standard_error, budget=budget, batch=batch, parents=parents
    )
