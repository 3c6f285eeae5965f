"""A calibration under other anchors than it was made with."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from merge3_plugin.domain import AnchorSet, Calibration

# Where such a calibration's provenance keeps with how many anchors its errors were measured.
MEASURED_AT = "measured_at"


@lru_cache(maxsize=256)
def with_anchors(calibration: Calibration, anchors: AnchorSet) -> Calibration:
    """The calibration with other anchors; its errors stay those that were measured with the number that it had."""
    if anchors is calibration.anchors:
        return calibration
    provenance = {**calibration.provenance, MEASURED_AT: measured_at(calibration)}
    return replace(calibration, anchors=anchors, provenance=provenance)


def measured_at(calibration: Calibration) -> int:
    """The number of anchors that a calibration's errors belong to."""
    return int(calibration.provenance.get(MEASURED_AT, len(calibration.anchors)))
