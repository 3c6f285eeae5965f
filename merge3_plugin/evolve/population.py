"""Which items the search may read, and which only the confirmation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
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
    groups: Sequence[str] | None = None,
    fraction: float,
    seed: int,
    limit: int | None = None,
) -> Population:
    """Hold out ``fraction`` of the items that are not anchors, drawn by a seeded hash of the item id.

    A hash, unlike a shuffle, draws the same items however the data are ordered or extended. ``searchable`` are the
    items that estimates can be made of (None: all). ``groups`` names the sub-task of each item: each gives its share,
    so that none is missing where it counts. ``limit`` keeps that many of the search items, anchors first, the others
    drawn likewise. Raises DataError when either set would be empty.
    """
    kept = set(anchors)
    unknown = kept - set(item_ids)
    if unknown:
        raise DataError(f"anchors: expected items of the data, got {min(unknown)!r}; the calibration is of other data")
    group_of = dict(zip(item_ids, groups or [""] * len(item_ids), strict=True))
    free = [item for item in item_ids if item not in kept]
    held_out = set(_in_shares(drawn_order(free, seed, "held-out"), group_of)[: round(fraction * len(free))])
    usable = set(item_ids if searchable is None else searchable) - held_out
    searched = [item for item in item_ids if item in usable]
    if limit is not None and limit < len(searched):
        others = _in_shares(drawn_order(set(searched) - kept, seed, "limit"), group_of)
        keep = {*kept, *others[: max(limit - len(kept), 0)]}
        searched = [item for item in searched if item in keep]
    if not held_out or not searched:
        raise DataError(
            f"expected enough items to search on and to hold out, got {len(item_ids)} items with {len(kept)} anchors; "
            "use fewer anchors or more data"
        )
    return Population(tuple(searched), tuple(item for item in item_ids if item in held_out))


def drawn_items(
    item_ids: Sequence[str], groups: Sequence[str] | None = None, *, seed: int, limit: int | None
) -> tuple[str, ...]:
    """``limit`` of the items (None: all), drawn by a seeded hash of their ids, each of ``groups`` by its share."""
    if limit is None or limit >= len(item_ids):
        return tuple(item_ids)
    group_of = dict(zip(item_ids, groups or [""] * len(item_ids), strict=True))
    kept = set(_in_shares(drawn_order(item_ids, seed, "limit"), group_of)[:limit])
    return tuple(item for item in item_ids if item in kept)


def _in_shares(drawn: Sequence[str], group_of: Mapping[str, str]) -> list[str]:
    """The items in an order of which every head holds each group's share; of a single group, the order as drawn."""
    sizes = Counter(group_of[item] for item in drawn)
    seen: Counter[str] = Counter()
    share = {}
    for item in drawn:
        group = group_of[item]
        share[item] = (seen[group] + 0.5) / sizes[group]
        seen[group] += 1
    return sorted(drawn, key=share.__getitem__)
