"""What lm-eval says of a task's metrics: which there are, how they aggregate, and which way they point."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, SupportsFloat

from merge3_plugin.errors import ConfigError, nearest

if TYPE_CHECKING:
    from lm_eval.api.group import Group
    from lm_eval.api.task import Task

DEFAULT_METRIC = "acc,none"  # mergekit-evolve's too


def metric_and_filter(name: str, leaves: Mapping[str, Task], metric: str | None) -> tuple[str, str]:
    """The metric (``metric,filter``) that all leaves have; None stands for the only one, else acc,none.

    Raises ConfigError, with the nearest or all of them, where there is no such metric. ``name`` is the task's.
    """
    known: list[tuple[str, str]] = []
    for number, leaf in enumerate(leaves.values()):
        pairs = [(m, ensemble.name) for m in leaf.aggregation() for ensemble in leaf._filters]
        known = [pair for pair in known if pair in pairs] if number else pairs
    names = [f"{m},{f}" for m, f in known]
    if metric is None:
        metric = names[0] if len(names) == 1 else DEFAULT_METRIC if DEFAULT_METRIC in names else None
    if metric not in names:
        got = "none" if metric is None else repr(metric)
        hint = nearest(metric or "", names)
        raise ConfigError(f"task {name!r}: expected its metric as metric,filter, got {got}{hint}")
    return known[names.index(metric)]


def unit_score(value: Any) -> float | None:
    """``value`` as a score, None where it is no number in [0, 1]."""
    # Plain numbers first: whether a value follows a protocol takes longer to see than all the rest.
    number = isinstance(value, float | int | SupportsFloat)
    return float(value) if number and 0.0 <= float(value) <= 1.0 else None


def is_mean(aggregation: Callable[[Iterable[float]], float]) -> bool:
    """Whether a metric over all items is the mean of those of the items."""
    from lm_eval.api.metrics import mean, nanmean

    return aggregation in (mean, nanmean)


def leaf_shares(group: Group, sizes: Mapping[str, int], metric: str) -> dict[str, float] | None:
    """Each leaf task's share (of sum 1) of lm-eval's score of ``group`` for ``metric,filter``; None if it has no such.

    lm-eval's score is linear in those of the leaves, so its own aggregation is asked, with one leaf all right and the
    others all wrong: whatever it does about nested groups is done here. ``sizes`` are the leaves' numbers of items.
    """
    shares = {}
    for leaf in sizes:
        results = {other: {metric: float(other == leaf), "sample_len": size} for other, size in sizes.items()}
        share = group.aggregate(results).get(metric)
        if share is None:
            return None
        shares[leaf] = float(share)
    return shares


def higher_is_better(leaves: Iterable[Task], metric: str) -> bool | None:
    """Which way ``metric`` points, as the tasks say; None where they say nothing, or not the same."""
    directions = {leaf.higher_is_better().get(metric) for leaf in leaves}
    return directions.pop() if len(directions) == 1 else None
