"""Which items the search may read, and which only the confirmation."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from merge3_plugin.errors import DataError
from merge3_plugin.extract.items import drawn_order


@dataclass(frozen=True)
class Population:
    """The two disjoint sets of a benchmark's items, each in the benchmark's order."""

    search: tuple[str, ...]
    held_out: tuple[str, ...]


def split_items(
    item_ids: Collection[str],
    *,
    anchors: Collection[str] = (),
    searchable: Collection[str] | None = None,
    fraction: float,
    seed: int,
    limit: int | None = None,
) -> Population:
    """Hold out ``fraction`` of the items that are not anchors, drawn by a seeded hash of the item id.

    A hash, unlike a shuffle, draws the same items however the data are ordered or extended. ``searchable`` are the
    items that estimates can be made of (None: all). ``limit`` keeps that many of the search items, anchors first, the
    others drawn likewise. Raises DataError when either set would be empty.
    """
    kept = set(anchors)
    unknown = kept - set(item_ids)
    if unknown:
        raise DataError(f"anchors: expected items of the data, got {min(unknown)!r}; the calibration is of other data")
    free = [item for item in item_ids if item not in kept]
    held_out = set(drawn_order(free, seed, "held-out")[: round(fraction * len(free))])
    usable = set(item_ids if searchable is None else searchable) - held_out
    searched = [item for item in item_ids if item in usable]
    if limit is not None and limit < len(searched):
        chosen = [*kept, *drawn_order(set(searched) - kept, seed, "limit")][: max(limit, len(kept))]
        keep = set(chosen)
        searched = [item for item in searched if item in keep]
    if not held_out or not searched:
        raise DataError(
            f"expected enough items to search on and to hold out, got {len(item_ids)} items with {len(kept)} anchors; "
            "use fewer anchors or more data"
        )
    return Population(tuple(searched), tuple(item for item in item_ids if item in held_out))
