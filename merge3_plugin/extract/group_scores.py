"""How lm-eval weighed the sub-tasks of a group, read off the scores that it kept beside the logs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from merge3_plugin.domain import FloatArray
from merge3_plugin.extract.logs import Pair, SampleLog


def count_alike(logs: Sequence[SampleLog], group: str, leaves: Sequence[str], pair: Pair) -> bool:
    """Whether the group's score is the plain mean of its sub-tasks' (``weight_by_size: false``).

    A results file does not keep how the group was defined, but its score and those of the sub-tasks. False where no
    file holds a score of the group, and where sub-tasks of equal size or equal score leave nothing to tell.
    """
    key = ",".join(pair)
    for run in {id(log.results): log.results for log in logs if log.results is not None}.values():
        score: Any = run.results.get(group, {}).get(key)
        values: list[Any] = [run.results.get(leaf, {}).get(key) for leaf in leaves]
        counts: list[Any] = [run.n_samples[leaf].effective if leaf in run.n_samples else None for leaf in leaves]
        if not all(isinstance(number, int | float) for number in (score, *values, *counts)):
            continue
        alike = float(np.mean(values))
        if not math.isclose(alike, float(np.average(values, weights=counts)), abs_tol=1e-9):
            return math.isclose(score, alike, abs_tol=1e-9)
    return False


def balance(leaf_of_item: Sequence[str]) -> FloatArray:
    """Weight of each item, of mean 1, with which sub-tasks count alike: N / (n_sub n_i)."""
    _, place, sizes = np.unique(np.array(leaf_of_item), return_inverse=True, return_counts=True)
    return np.asarray(len(leaf_of_item) / (len(sizes) * sizes))[place]
