"""Above extract and estimate: from responses to a calibration whose errors are known."""

from merge3_plugin.calibrate.build import build_calibration, restrict
from merge3_plugin.calibrate.folds import eligible, items_for
from merge3_plugin.calibrate.report import (
    FEWEST_LEFT_OUT,
    MOST_FITS,
    LeaveOneOut,
    ModelError,
    leave_one_model_out,
)
from merge3_plugin.calibrate.study import study

__all__ = [
    "FEWEST_LEFT_OUT",
    "MOST_FITS",
    "LeaveOneOut",
    "ModelError",
    "build_calibration",
    "eligible",
    "items_for",
    "leave_one_model_out",
    "restrict",
    "study",
]
