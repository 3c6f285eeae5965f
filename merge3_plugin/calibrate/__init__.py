"""Above extract and estimate: from responses to a calibration whose errors are known."""

from merge3_plugin.calibrate.build import build_calibration, restrict
from merge3_plugin.calibrate.report import LeaveOneOut, ModelError, leave_one_model_out

__all__ = ["LeaveOneOut", "ModelError", "build_calibration", "leave_one_model_out", "restrict"]
