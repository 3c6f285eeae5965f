"""The calibration file: one ``.safetensors`` of arrays with a checked JSON header, nothing that can run.

Arrays: ``discrimination`` (n_items, D), ``difficulty`` (n_items,), the same with ``_1``, ``_2`` ... for fits in other
dimensions, ``anchor_weights`` (n,), ``responses`` (n_models, n_items) as uint8 with 255 for "not asked" where all
scores are 0 or 1, and where they are known ``inclusion`` (n,), ``soft`` (n_models, n_items) and ``balance`` (n_items,).
All else stands in the header, under one metadata key, because several would come out in an order that changes from run
to run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import save

from merge3_plugin.domain import (
    LOGIT_CONVENTION,
    AnchorSet,
    Calibration,
    FloatArray,
    ItemParameters,
    ResponseMatrix,
)
from merge3_plugin.errors import DataError

SCHEMA = 2
_HEADER = "merge3_calibration"
_NOT_ASKED = 255


def save_calibration(calibration: Calibration, path: str | os.PathLike[str]) -> None:
    """Write ``calibration`` to ``path``, whole or not at all; equal calibrations give equal bytes.

    Raises DataError where the folder does not exist or cannot be written, and for provenance that is not plain JSON.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise DataError(f"calibration file: expected the folder {target.parent} to exist; create it first")
    if target.is_dir():
        raise DataError(f"calibration file: expected a file name, got the folder {target}; name a file in it")
    arrays, header = _arrays(calibration), _header(calibration)
    header["sha256"] = _digest(header, arrays)
    _write_atomically(target, save(arrays, metadata={_HEADER: _canonical(header)}))


def load_calibration(path: str | os.PathLike[str]) -> Calibration:
    """The calibration in ``path``, exactly as it was saved.

    Raises DataError where the file is missing, damaged, not a calibration, of a newer schema or in another logit
    convention.
    """
    header, arrays = _read(Path(path))
    if header.get("logit_convention") != LOGIT_CONVENTION:
        raise DataError(
            f"calibration {path}: expected the logit convention {LOGIT_CONVENTION!r}, "
            f"got {header.get('logit_convention')!r}; convert its parameters or calibrate again"
        )
    try:
        return Calibration(
            item_ids=tuple(header["item_ids"]),
            items=ItemParameters(arrays["discrimination"], arrays["difficulty"]),
            anchors=AnchorSet(
                tuple(header["anchor_ids"]), arrays["anchor_weights"], header["anchor_method"], arrays.get("inclusion")
            ),
            responses=ResponseMatrix(
                _unpack(arrays["responses"]),
                header["model_ids"],
                header["item_ids"],
                header["item_groups"],
                soft=arrays.get("soft"),
                balance=arrays.get("balance"),
            ),
            item_hashes=None if header["item_hashes"] is None else tuple(header["item_hashes"]),
            errors=header["errors"],
            provenance=header["provenance"],
            alternatives=tuple(
                ItemParameters(arrays[f"discrimination_{k}"], arrays[f"difficulty_{k}"])
                for k in range(1, header.get("n_alternatives", 0) + 1)
            ),
        )
    except KeyError as error:
        raise DataError(
            f"calibration {path}: expected the field {error.args[0]!r}, got none; calibrate again"
        ) from None


def _arrays(calibration: Calibration) -> dict[str, np.ndarray]:
    arrays = {
        "discrimination": calibration.items.discrimination,
        "difficulty": calibration.items.difficulty,
        "anchor_weights": calibration.anchors.weights,
        "responses": _pack(calibration.responses.values),
        "inclusion": calibration.anchors.inclusion,
        "soft": None if calibration.responses.soft is None else calibration.responses.soft.astype(np.float32),
        "balance": calibration.responses.balance,
    }
    for k, fit in enumerate(calibration.alternatives, 1):
        arrays |= {f"discrimination_{k}": fit.discrimination, f"difficulty_{k}": fit.difficulty}
    return {name: np.ascontiguousarray(values) for name, values in arrays.items() if values is not None}


def _header(calibration: Calibration) -> dict[str, Any]:
    hashes = calibration.item_hashes
    groups = calibration.responses.item_groups
    return {
        "schema": SCHEMA,
        "logit_convention": LOGIT_CONVENTION,
        "task": calibration.provenance.get("task"),
        "metric": calibration.provenance.get("metric"),
        "dataset_fingerprint": dataset_fingerprint(calibration),
        "item_ids": list(calibration.item_ids),
        "item_hashes": None if hashes is None else list(hashes),
        "item_groups": None if groups is None else list(groups),
        "model_ids": list(calibration.responses.model_ids),
        "anchor_ids": list(calibration.anchors.item_ids),
        "anchor_method": calibration.anchors.method,
        "n_alternatives": len(calibration.alternatives),
        "errors": {name: float(error) for name, error in calibration.errors.items()},
        "provenance": dict(calibration.provenance),
    }


def dataset_fingerprint(calibration: Calibration) -> str:
    """Sha256 of the benchmark's items (ids, and content hashes where known), whatever their order."""
    hashes = calibration.item_hashes or (None,) * calibration.n_items
    items = sorted(zip(calibration.item_ids, hashes, strict=True))
    return hashlib.sha256(_canonical(items).encode()).hexdigest()


def _pack(values: FloatArray) -> np.ndarray:
    known = values[~np.isnan(values)]
    if np.isin(known, (0.0, 1.0)).all():
        return np.nan_to_num(values, nan=_NOT_ASKED).astype(np.uint8)
    return values


def _unpack(values: np.ndarray) -> FloatArray:
    if values.dtype == np.uint8:
        return np.where(values == _NOT_ASKED, np.nan, values.astype(np.float64))
    return values


def _canonical(content: object) -> str:
    try:
        return json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"calibration file: expected plain JSON in errors and provenance, got: {error}") from None


def _digest(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(_canonical({key: value for key, value in header.items() if key != "sha256"}).encode())
    for name, values in sorted(arrays.items()):
        digest.update(f"{name}:{values.dtype}:{values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def _write_atomically(target: Path, content: bytes) -> None:
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
        folder = os.open(target.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise DataError(f"calibration file: expected to write {target}, got: {error.strerror or error}") from None


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and arrays, their sha256 checked. The header comes first: a foreign file may be gigabytes of weights."""
    if not path.is_file():
        got = "a folder" if path.is_dir() else "nothing"
        raise DataError(f"calibration {path}: expected a file, got {got}; make one with `merge3 calibrate`")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            header = _parse(path, file.metadata() or {})
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except OSError as error:
        raise DataError(f"calibration {path}: expected to read it, got: {error.strerror or error}") from None
    except (safetensors.SafetensorError, TypeError, ValueError) as error:
        raise DataError(
            f"calibration {path}: expected a whole .safetensors file, got a damaged or foreign one ({error}); "
            "fetch it again or calibrate again"
        ) from None
    if header.get("sha256") != _digest(header, arrays):
        raise DataError(
            f"calibration {path}: expected the content that its sha256 names, got a damaged file; "
            "fetch it again or calibrate again"
        )
    return header, arrays


def _parse(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    if _HEADER not in metadata:
        raise DataError(
            f"calibration {path}: expected a file written by `merge3 calibrate`, got another .safetensors file"
        )
    header = json.loads(metadata[_HEADER])
    if not isinstance(header, dict) or not isinstance(header.get("schema"), int):
        raise DataError(f"calibration {path}: expected a schema number in its header, got none; calibrate again")
    if header["schema"] > SCHEMA:
        raise DataError(
            f"calibration {path}: expected schema {SCHEMA} or older, got {header['schema']}; upgrade merge3-plugin"
        )
    return header
