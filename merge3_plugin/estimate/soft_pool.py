"""Whose soft scores an estimate may learn from."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from merge3_plugin.domain import ResponseMatrix

# Share of the items that a model must have answered for its accuracy to count as known.
KNOWN_SHARE = 0.9


@lru_cache(maxsize=64)
def soft_pool(responses: ResponseMatrix, parents: ResponseMatrix | None) -> ResponseMatrix | None:
    """The models, parents included, whose soft scores are known on nearly all items of which any model's is.

    None where they are fewer than two. ``parents`` has the items of ``responses``.
    """
    pool = responses
    if parents is not None:
        pool = responses.joined(parents.models([m for m in parents.model_ids if m not in responses.model_ids]))
    if pool.soft is None:
        return None
    known = ~np.isnan(pool.soft)
    shares = known.sum(axis=1) / max(int(known.any(axis=0).sum()), 1)
    members = [model for model, share in zip(pool.model_ids, shares, strict=True) if share >= KNOWN_SHARE]
    return pool.models(members) if len(members) >= 2 else None
