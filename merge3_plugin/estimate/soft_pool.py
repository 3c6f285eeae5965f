"""Whose soft scores an estimate may learn from."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from merge3_plugin.domain import ResponseMatrix

# Share of the items that a model must have answered for its accuracy to count as known.
KNOWN_SHARE = 0.9


@lru_cache(maxsize=64)
def soft_pool(responses: ResponseMatrix, parents: ResponseMatrix | None) -> ResponseMatrix | None:
    """The models, parents included, whose soft scores are known on nearly all items.

    None where they are fewer than two, or leave an item without any. ``parents`` has the items of ``responses``.
    """
    pool = responses
    if parents is not None:
        pool = responses.joined(parents.models([m for m in parents.model_ids if m not in responses.model_ids]))
    if pool.soft is None:
        return None
    known = (~np.isnan(pool.soft)).mean(axis=1) >= KNOWN_SHARE
    pool = pool.models([model for model, knows in zip(pool.model_ids, known, strict=True) if knows])
    enough = pool.n_models >= 2 and pool.soft is not None and not np.isnan(pool.soft).all(axis=0).any()
    return pool if enough else None
