"""The estimator: anything with a name, ``needs_parents`` and a method ``estimate``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from merge3_plugin.domain import Estimate
from merge3_plugin.estimate.base import Evidence, calibrated


@dataclass(frozen=True)
class ParentDifference:
    """The mean of the answers, less what the same items flatter the parents by.

    A merge finds hard what its parents find hard: anchors that are easy for the parents flatter it as well.
    """

    name: str = "parent-difference"
    needs_parents: bool = True

    def estimate(self, evidence: Evidence) -> Estimate:
        parents = np.nanmean(evidence.parents.values, axis=0)
        flattery = evidence.weights @ parents[evidence.positions] - parents.mean()
        return calibrated(evidence, float(evidence.weights @ evidence.scores - flattery), self.name)
