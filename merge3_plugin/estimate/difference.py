"""Control variates: what the items' predicted scores miss on the anchors is what they miss on average.

The difference estimator of survey sampling (Särndal, Swensson and Wretman 1992, chapter 6); prediction-powered
inference (arXiv 2301.09633) is the same for a drawn pool.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from merge3_plugin.domain import Estimate, FloatArray
from merge3_plugin.estimate.ability import fits, prior_probabilities
from merge3_plugin.estimate.base import Evidence, calibrated, misfit
from merge3_plugin.estimate.irt_estimators import p_irt_in


def corrected(evidence: Evidence, predicted: FloatArray, weights: FloatArray) -> float:
    """Mean of ``predicted`` (N,) over all items, plus the weighted sum of score - prediction over the scored ones."""
    return float(evidence.item_weights @ predicted + weights @ (evidence.scores - predicted[evidence.positions]))


@dataclass(frozen=True)
class Difference:
    """Predictions made before the answers were seen, corrected by what they miss on the anchors.

    They are the parents' mean answers where those are known, else the probabilities at the mean ability. As they do
    not depend on the answers, the estimate is unbiased over the draws of the anchors, however wrong the predictions
    are, wherever `unbiased` says so; but for the rare one outside [0, 1], which is cut.
    """

    name: str = "difference"
    needs_parents: bool = False

    def estimate(self, evidence: Evidence) -> Estimate:
        weights = evidence.weights if evidence.design_weights is None else evidence.design_weights
        return calibrated(evidence, corrected(evidence, prior_probabilities(evidence), weights), self.name)

    def unbiased(self, evidence: Evidence) -> bool:
        """Whether the scored items are just the anchors and were drawn, each with a known probability."""
        return evidence.design_weights is not None


@dataclass(frozen=True)
class ShrunkenDifference:
    """(1 - c) p-IRT + c difference, both with the probabilities fitted to the answers: gd.

    The fit is the calibration's in ``n_dimensions``, by default the one in most. c = b^2 / (b^2 + s^2 sum w^2), with b
    the cross-validated misfit of p-IRT, s^2 the mean variance p (1 - p) of an answer and w the anchors' weights: the
    mix of least expected squared error of a term with the bias b and one with the variance s^2 sum w^2. 1/2 where b is
    not known.
    """

    name: str = "gd"
    n_dimensions: int | None = None
    needs_parents: bool = False

    def estimate(self, evidence: Evidence) -> Estimate:
        return calibrated(evidence, self.accuracy(evidence), self.name)

    def accuracy(self, evidence: Evidence) -> float:
        """The estimate itself, in [0, 1] but for sampling error."""
        irt = p_irt_in(self.n_dimensions or max(fits(evidence.calibration)))
        return shrunken(evidence, irt.probabilities(evidence), misfit(evidence.calibration, irt.name, *irt.error_like))


def shrunken(evidence: Evidence, predicted: FloatArray, bias: float | None) -> float:
    """(1 - c) (answers where known, else ``predicted`` (N,)) + c `corrected`, c = bias^2 / (bias^2 + variance).

    The variance is that of the corrected one, s^2 sum w^2. c is 1/2 where the ``bias`` of the first is not known.
    """
    variance = float(evidence.item_weights @ (predicted * (1.0 - predicted)) * np.sum(evidence.weights**2))
    c = 0.5 if bias is None else bias**2 / (bias**2 + variance) if bias > 0 else 0.0
    return (1.0 - c) * evidence.completed(predicted) + c * corrected(evidence, predicted, evidence.weights)
