"""Evolutionary merging of language models on estimates from a few anchor items: extract, estimate, evolve."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from merge3_plugin.domain import AnchorSet, Calibration, Estimate, ItemParameters, ResponseMatrix
    from merge3_plugin.errors import Merge3Error

__version__ = "0.1.0"

# Resolved on first use, so that importing the package costs nothing; no name may be that of a subpackage.
_EXPORTS = {
    "AnchorSet": "domain",
    "Calibration": "domain",
    "Estimate": "domain",
    "ItemParameters": "domain",
    "Merge3Error": "errors",
    "ResponseMatrix": "domain",
}

__all__ = ["AnchorSet", "Calibration", "Estimate", "ItemParameters", "Merge3Error", "ResponseMatrix", "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
