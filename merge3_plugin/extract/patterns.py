"""Items that all models answer alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from merge3_plugin.domain import FloatArray


def distinct_rows(rows: ArrayLike) -> tuple[FloatArray, NDArray[np.intp], NDArray[np.intp]]:
    """The distinct rows of a matrix, which of them each row is, and how often each comes; NaN equals NaN.

    Sorted, but not by their numbers: bytes are compared at once, which for many columns is ten times as fast.
    """
    numbers = np.ascontiguousarray(rows, dtype=np.float64) + 0.0  # + 0: there is one zero only
    as_bytes = np.where(np.isnan(numbers), np.nan, numbers).view(f"S{numbers.itemsize * numbers.shape[1]}")[:, 0]
    _, first, row_of, counts = np.unique(as_bytes, return_index=True, return_inverse=True, return_counts=True)
    return numbers[first], row_of, counts
