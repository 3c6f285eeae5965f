"""How far apart vectors are."""

from __future__ import annotations

import numpy as np

from merge3_plugin.domain import FloatArray


def squared_distances(first: FloatArray, second: FloatArray) -> FloatArray:
    """Of all pairs of rows, (k, m) and (n, m): shape (k, n)."""
    lengths = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1)
    return np.maximum(lengths - 2 * first @ second.T, 0.0)
