"""Above extract and estimate: from responses to a calibration whose errors are known."""

from merge3_plugin.calibrate.build import build_calibration, restrict
from merge3_plugin.calibrate.folds import eligible
from merge3_plugin.calibrate.report import FEWEST_LEFT_OUT, LeaveOneOut, ModelError, leave_one_model_out

__all__ = [
    "FEWEST_LEFT_OUT",
    "LeaveOneOut",
    "ModelError",
    "build_calibration",
    "eligible",
    "leave_one_model_out",
    "restrict",
]
