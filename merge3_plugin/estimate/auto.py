"""Which estimator to use: what the answers allow and what made the smallest cross-validated error."""

from __future__ import annotations

from collections.abc import Mapping

from merge3_plugin.domain import Calibration
from merge3_plugin.estimate.base import Estimator, find_estimator, trusted_errors

AUTO = "auto"


def best(errors: Mapping[str, float], *, parents_known: bool) -> str:
    """The one of gmp-irt (if the parents are known), gp-irt and mean that has the smallest of these ``errors``.

    gmp-irt counts as good as gp-irt where it was not measured. Without errors: gmp-irt with parents, and mean without,
    since items fitted to two or three models say little about a fourth that is not made of them.
    """
    if not errors:
        return "gmp-irt" if parents_known else "mean"
    expected = {name: errors[name] for name in ("gmp-irt", "gp-irt", "mean") if name in errors}
    if parents_known:
        expected = {"gmp-irt": errors.get("gmp-irt", errors["gp-irt"])} | expected
    else:
        expected.pop("gmp-irt", None)
    return min(expected, key=expected.__getitem__)


def resolve(name: str, calibration: Calibration, *, parents_known: bool) -> Estimator:
    """The registered estimator ``name``, for ``"auto"`` the `best` by the calibration's errors. Raises ConfigError."""
    return find_estimator(best(trusted_errors(calibration), parents_known=parents_known) if name == AUTO else name)
