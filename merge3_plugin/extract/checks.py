"""Models whose answers look wrong, though a calibration can be made of them."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from merge3_plugin.domain import FloatArray, ResponseMatrix
from merge3_plugin.errors import DataError

# With fewer items in common, equal answers and answers at odds with the others are no surprise.
FEWEST_ITEMS = 30


# A model that shares fewer of its items with others is likely to name them otherwise.
_SHARED = 0.5


def check_shared_items(responses: ResponseMatrix) -> None:
    """DataError where no item was answered by two models: their items are named otherwise, or are other ones."""
    known = ~np.isnan(responses.values)
    if responses.n_models < 2 or (known.sum(axis=0) > 1).any():
        return
    first, second = (int(row) for row in np.flatnonzero(known.any(axis=1))[:2])
    names = [
        f"{responses.item_ids[int(known[row].argmax())]!r} of {responses.model_ids[row]!r}" for row in (first, second)
    ]
    raise DataError(
        f"responses: expected items that several models answered, got none, but {names[0]} and {names[1]}; score the "
        "models on one data set, or name the field that tells an item (--id-field)"
    )


def odd_models(responses: ResponseMatrix) -> list[str]:
    """A line on each oddity of a model, saying what it costs; in the order of the models.

    Named are models without answers, models most of whose items no other was asked, models that answered all their
    items alike, models with the same answers as another, and models whose answers have nothing to do with the others':
    such a model guesses, or its items are named or ordered otherwise. Only models without answers keep a calibration
    from being made.
    """
    answered = (~np.isnan(responses.values)).any(axis=1)
    lines = [f"{model}: has no answers" for model in np.array(responses.model_ids)[~answered]]
    lines += [
        f"{model}: {alone:,} of its {asked:,} items were asked of no other model, and teach nothing; are they named as "
        "those of the others?"
        for model, alone, asked in zip(responses.model_ids, *_asked_alone(responses), strict=True)
        if asked and alone > (1 - _SHARED) * asked
    ]
    constant = [_constant(row) for row in responses.values]
    lines += [
        f"{model}: scored {score:g} on every item, which says nothing of single items; check its metric and prompts"
        for model, score in zip(responses.model_ids, constant, strict=True)
        if score is not None
    ]
    lines += [
        f"{', '.join(same)}: gave the same answers to all {responses.n_items:,} items, so they count as one model; "
        "another one in place of the double makes a better calibration"
        for same in duplicate_models(responses)
    ]
    return lines + [
        f"{model}: its answers have nothing to do with the other models' (correlation {r:+.2f}): it guesses, or its "
        "items are named or ordered otherwise; leave it out, unless it answered rightly and candidates may be like it"
        for model, r in zip(responses.model_ids, _agreement(responses), strict=True)
        if r is not None
    ]


def duplicate_models(responses: ResponseMatrix) -> list[tuple[str, ...]]:
    """Groups of two or more models with the same answers to the same items, each group in the order of the models."""
    if responses.n_items < FEWEST_ITEMS:
        return []
    rows: dict[bytes, list[str]] = defaultdict(list)
    for model, row in zip(responses.model_ids, np.nan_to_num(responses.values, nan=-1.0), strict=True):
        if _constant(row) is None:
            rows[row.tobytes()].append(model)
    return [tuple(models) for models in rows.values() if len(models) > 1]


def _asked_alone(responses: ResponseMatrix) -> tuple[list[int], list[int]]:
    """How many items each model alone was asked, and how many at all."""
    known = ~np.isnan(responses.values)
    alone = known & (known.sum(axis=0) == 1)
    return alone.sum(axis=1).tolist(), known.sum(axis=1).tolist()


def _constant(row: FloatArray) -> float | None:
    """The one score that a model has, if it has but one on several items."""
    known = row[~np.isnan(row)]
    return float(known[0]) if len(known) > 1 and known.min() == known.max() else None


def _agreement(responses: ResponseMatrix) -> list[float | None]:
    """Correlation of each model's answers with the mean of the others', where it is no more than chance; else None."""
    values = responses.values
    known = ~np.isnan(values)
    total, count = np.nan_to_num(values).sum(axis=0), known.sum(axis=0)
    found: list[float | None] = []
    for row, asked in zip(values, known, strict=True):
        shared = asked & (count > 1)
        n = int(shared.sum())
        others = (total[shared] - row[shared]) / (count[shared] - 1)
        if n < FEWEST_ITEMS or np.ptp(row[shared]) == 0 or np.ptp(others) == 0 or responses.n_models < 3:
            found.append(None)
            continue
        r = float(np.corrcoef(row[shared], others)[0, 1])
        found.append(r if r * np.sqrt(n) < 1.64 else None)  # one-sided, 5 %
    return found
