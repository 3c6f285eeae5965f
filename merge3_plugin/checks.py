"""What the value types of `domain` check of the arrays and ids that they are built from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from merge3_plugin.errors import DataError, nearest

FloatArray = NDArray[np.float64]


def frozen(values: ArrayLike, ndim: int, what: str) -> FloatArray:
    """A read-only copy; DataError unless it has ``ndim`` dimensions."""
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{what}: expected numbers in {ndim} dimension(s), got {type(values).__name__}: {error}"
        ) from None
    if array.ndim != ndim:
        raise DataError(f"{what}: expected {ndim} dimension(s), got shape {array.shape}")
    array.flags.writeable = False
    return array


def unique(ids: Iterable[Any], what: str) -> tuple[str, ...]:
    """The ids as text; DataError if one comes twice, or is text that no file can hold."""
    names = tuple(str(i) for i in ids)
    try:
        "".join(names).encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{what}: expected text, got a lone surrogate ({error}); mend the data's encoding") from None
    if len(set(names)) != len(names):
        seen: set[str] = set()
        twice = next(n for n in names if n in seen or seen.add(n))  # type: ignore[func-returns-value]
        raise DataError(f"{what}: expected distinct ids, got {twice!r} more than once; rename or drop the double")
    return names


def check_unit(values: FloatArray, what: str) -> None:
    """DataError unless all that is not NaN lies in [0, 1]."""
    known = values[~np.isnan(values)]
    if np.isinf(known).any() or (known < 0).any() or (known > 1).any():
        bad = known[np.isinf(known) | (known < 0) | (known > 1)][0]
        raise DataError(f"{what}: expected scores in [0, 1], got {bad:g}; rescale the metric")


def checked_soft(soft: ArrayLike, shape: tuple[int, ...]) -> FloatArray:
    """A read-only copy in single precision, which is how files keep it; DataError unless of this shape, in [0, 1]."""
    array = frozen(frozen(soft, 2, "soft scores").astype(np.float32), 2, "soft scores")
    if array.shape != shape:
        raise DataError(f"soft scores: expected the shape of the scores, {shape}, got {array.shape}")
    check_unit(array, "soft scores")
    return array


def checked_balance(balance: ArrayLike, n_items: int) -> FloatArray:
    """A read-only copy; DataError unless there is a positive number for each item."""
    array = frozen(balance, 1, "balance")
    if len(array) != n_items:
        raise DataError(f"balance: expected {n_items} weights, one for each item, got {len(array)}")
    if not (np.isfinite(array).all() and (array > 0).all()):
        raise DataError("balance: expected positive finite weights; leave out items that do not count")
    return array


def checked_inclusion(inclusion: ArrayLike, n_anchors: int) -> FloatArray:
    """A read-only copy; DataError unless there is a probability above 0 for each anchor."""
    array = frozen(inclusion, 1, "inclusion probabilities")
    if len(array) != n_anchors:
        raise DataError(f"inclusion probabilities: expected {n_anchors}, one for each anchor, got {len(array)}")
    possible = (array > 0) & (array <= 1)
    if not possible.all():
        raise DataError(f"inclusion probabilities: expected numbers in (0, 1], got {array[~possible][0]:g}")
    return array


def checked_embeddings(embeddings: ArrayLike, n_items: int) -> FloatArray:
    """A read-only copy; DataError unless there is a vector of finite numbers for each item."""
    array = frozen(embeddings, 2, "embeddings")
    if len(array) != n_items or not array.size:
        raise DataError(
            f"embeddings: expected shape ({n_items}, d), got {array.shape}; embed the items of these responses"
        )
    if not np.isfinite(array).all():
        raise DataError("embeddings: expected finite numbers, got NaN or infinity; embed the items in another dtype")
    return array


def positions(known: Sequence[str], wanted: Iterable[str], what: str) -> list[int]:
    """Where the wanted ids stand among the known ones; DataError for one that does not."""
    index = {name: position for position, name in enumerate(known)}
    try:
        return [index[name] for name in wanted]
    except KeyError as error:
        name = error.args[0]
        raise DataError(
            f"expected a known {what} id, got {name!r}, which is not among the {len(known)}{nearest(str(name), known)}"
        ) from None
