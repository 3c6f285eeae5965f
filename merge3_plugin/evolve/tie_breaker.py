"""Whether soft scores may decide between candidates whose estimates are equal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from merge3_plugin.domain import FloatArray, ResponseMatrix
from merge3_plugin.estimate.base import FEWEST_MODELS, KNOWN_SHARE

DRAWS = 50


@dataclass(frozen=True)
class SoftScores:
    """What soft scores add to the scores, on ``models`` models whose accuracy is known.

    ``without`` and ``with_soft`` are the root mean squared errors of a left-out model's accuracy: as a line predicts it
    from its mean score on anchors, and from the mean of its scores and soft scores there, which is as many parameters.
    Both are None with too few models to say.
    """

    models: int
    without: float | None = None
    with_soft: float | None = None

    @property
    def help(self) -> bool:
        return self.without is not None and self.with_soft is not None and self.with_soft < self.without


def soft_scores(responses: ResponseMatrix, n_anchors: int, rng: np.random.Generator) -> SoftScores:
    """Cross-validated, over draws of ``n_anchors`` items, on the models that answered nearly all items."""
    if responses.soft is None:
        return SoftScores(0)
    known = ~np.isnan(responses.values) & ~np.isnan(responses.soft)
    rows = known.mean(axis=1) >= KNOWN_SHARE
    if rows.sum() < FEWEST_MODELS:
        return SoftScores(int(rows.sum()))
    # The few items that one of them was not asked are left out for all.
    columns = np.flatnonzero(known[rows].all(axis=0))
    right, soft = responses.values[np.ix_(rows, columns)], responses.soft[np.ix_(rows, columns)]
    accuracy = np.average(right, axis=1, weights=responses.item_weights[columns])
    squares = []
    for _ in range(DRAWS):
        drawn = rng.choice(len(columns), size=min(n_anchors, len(columns)), replace=False)
        hard, graded = right[:, drawn].mean(axis=1), soft[:, drawn].mean(axis=1)
        squares.append([_left_out_error(predictor, accuracy) for predictor in (hard, (hard + graded) / 2)])
    without, with_soft = np.sqrt(np.mean(squares, axis=0))
    return SoftScores(len(right), float(without), float(with_soft))


def _left_out_error(predictor: FloatArray, target: FloatArray) -> float:
    """Mean squared error of the least-squares line, each point predicted from the others."""
    design = np.column_stack([np.ones(len(predictor)), predictor])
    hat = design @ np.linalg.pinv(design)
    leverage = np.minimum(np.diag(hat), 1.0 - 1e-6)
    return float(np.mean(((target - hat @ target) / (1.0 - leverage)) ** 2))
