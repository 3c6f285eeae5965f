"""core: the mean of gd in several dimensions and ridge, which err in different ways."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from merge3_plugin.domain import Estimate
from merge3_plugin.estimate.ability import fits
from merge3_plugin.estimate.base import Evidence, calibrated
from merge3_plugin.estimate.difference import ShrunkenDifference
from merge3_plugin.estimate.ridge import Ridge


@dataclass(frozen=True)
class Core:
    """Mean of gd in each number of dimensions that the calibration holds a fit of, and ridge."""

    name: str = "core"
    needs_parents: bool = False

    def estimate(self, evidence: Evidence) -> Estimate:
        by_dimension = [
            ShrunkenDifference(n_dimensions=n_dimensions).accuracy(evidence)
            for n_dimensions in fits(evidence.calibration)
        ]
        return calibrated(evidence, float(np.mean([*by_dimension, Ridge().accuracy(evidence)])), self.name)
