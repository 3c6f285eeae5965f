"""Items that behave oddly: answered alike by all models, or more rightly by the weaker ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from merge3_plugin.domain import FloatArray, ResponseMatrix

# Share of false findings that is accepted among the items that are named (Benjamini and Hochberg 1995).
FALSE_FINDINGS = 0.05
# With fewer models no single item can be told from chance.
FEWEST_MODELS = 6


class OddItem(NamedTuple):
    """An item, the models' ``accuracy`` on it, and the ``correlation`` of their scores on it and on all others."""

    item_id: str
    accuracy: float
    correlation: float


@dataclass(frozen=True)
class OddItems:
    """``all_right`` and ``all_wrong`` items say nothing of a model, ``negative`` ones, oddest first, mislead.

    Negative items are answered rightly by weaker models rather than by stronger ones, beyond chance: a wrong key, or a
    question whose right answer only looks wrong. ``n_negative`` counts all items of negative correlation: with few
    models most are so by chance. An item that drifted (another text, or known by heart to some models) looks like one
    that tells little: which models it drifted for cannot be known from their answers to it.
    """

    n_items: int
    all_right: tuple[str, ...]
    all_wrong: tuple[str, ...]
    negative: tuple[OddItem, ...]
    n_negative: int


def odd_items(responses: ResponseMatrix) -> OddItems:
    """The odd ones among the responses' items."""
    values = responses.values
    known = ~np.isnan(values)
    asked = known.sum(axis=0)
    accuracy = np.nan_to_num(values).sum(axis=0) / np.maximum(asked, 1)
    lowest, highest = np.where(known, values, np.inf).min(axis=0), np.where(known, values, -np.inf).max(axis=0)
    correlation = _rest_correlation(values)
    names = responses.item_ids
    return OddItems(
        responses.n_items,
        tuple(names[j] for j in np.flatnonzero((asked > 1) & (lowest == 1))),
        tuple(names[j] for j in np.flatnonzero((asked > 1) & (highest == 0))),
        tuple(OddItem(names[j], float(accuracy[j]), float(correlation[j])) for j in _beyond_chance(correlation, asked)),
        int((correlation < 0).sum()),
    )


def _rest_correlation(values: FloatArray) -> FloatArray:
    """Correlation of each item's scores with the models' mean scores on the other items, shape (n_items,).

    0 where it is not defined.
    """
    known = ~np.isnan(values)
    scores, counts = np.nan_to_num(values).sum(axis=1, keepdims=True), known.sum(axis=1, keepdims=True)
    rest = (scores - np.nan_to_num(values)) / np.maximum(counts - known, 1)
    n = np.maximum(known.sum(axis=0), 1)
    ours = np.where(known, values - np.nan_to_num(values).sum(axis=0) / n, 0.0)
    theirs = np.where(known, rest - np.where(known, rest, 0.0).sum(axis=0) / n, 0.0)
    spread = np.sqrt((ours**2).sum(axis=0) * (theirs**2).sum(axis=0))
    products = (ours * theirs).sum(axis=0)
    return np.divide(products, spread, out=np.zeros(len(n)), where=spread > 1e-12)


def _beyond_chance(correlation: FloatArray, asked: NDArray[np.intp]) -> list[int]:
    """Positions of the correlations that are too negative for chance, by Fisher's transformation, the worst first."""
    from scipy.special import ndtr

    deviations = np.arctanh(np.clip(correlation, -0.999, 0.999)) * np.sqrt(np.maximum(asked - 3, 0))
    deviations[asked < FEWEST_MODELS] = 0.0
    order = np.argsort(deviations, kind="stable")
    allowed = FALSE_FINDINGS * np.arange(1, len(order) + 1) / len(order)
    below = np.flatnonzero(ndtr(deviations[order]) <= allowed)
    return order[: below[-1] + 1].tolist() if len(below) else []
