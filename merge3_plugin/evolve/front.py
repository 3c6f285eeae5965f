"""Fronts of several objectives, all of them to be maximised: what is on one, how it is spread, and its volume."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from merge3_plugin.domain import FloatArray
from merge3_plugin.evolve.search import Scored, ranked


def front(scored: Sequence[Scored]) -> list[Scored]:
    """The best compromises among the ``scored``, extremes first, so that any head of the list is spread out well.

    Of candidates of equal values one is listed, by its tie-breaker. Constraints go before values (constrained
    domination, Deb et al., IEEE Trans. Evol. Comp. 6, 2002): feasible candidates alone, or where there is none those
    that break constraints least. Empty where nothing was scored.
    """
    known = [(entry, entry.assessment) for entry in ranked(scored) if entry.assessment is not None]
    least = min((assessment.violation for _, assessment in known), default=0.0)
    allowed = [(entry, assessment.values) for entry, assessment in known if assessment.violation <= least]
    distinct: dict[tuple[float, ...], Scored] = {}
    # Equal values have one weighted sum, so that their rank, by which they come, is by tie-breaker.
    for entry, of in allowed:
        distinct.setdefault(of, entry)
    entries, values = list(distinct.values()), np.array(list(distinct))
    on = np.flatnonzero(non_dominated(values))
    return [entries[on[i]] for i in spread(values[on])]


def by_fronts(entries: Sequence[Scored]) -> list[Scored]:
    """Those that did not fail, front by front: what only members of earlier fronts dominate; within one, as in `front`.

    So any head of the list has the best compromises, well spread (multi-objective asynchronous halving: Schmucker et
    al., arXiv 2106.12639).
    """
    left = [entry for entry in entries if entry.assessment is not None]
    found: list[Scored] = []
    while left:
        members = front(left)
        taken = set(map(id, members))
        left = [entry for entry in left if id(entry) not in taken]
        found += members
    return found


def non_dominated(values: FloatArray) -> NDArray[np.bool_]:
    """Which of the points (n, objectives) no other dominates: none is as good everywhere and better somewhere."""
    if not len(values):
        return np.zeros(0, dtype=bool)
    as_good = (values[:, None] >= values[None]).all(axis=2)
    better = (values[:, None] > values[None]).any(axis=2)
    return np.asarray(~(as_good & better).any(axis=0))


def crowding(values: FloatArray) -> FloatArray:
    """The crowding distance of each point (n, objectives), shape (n,); infinite for the extremes (Deb et al. 2002).

    It is the sum over objectives of the gap between a point's two neighbours, as a share of the objective's range.
    """
    n, objectives = values.shape
    distance = np.zeros(n)
    for column in range(objectives):
        order = np.argsort(values[:, column], kind="stable")
        of = values[order, column]
        span = of[-1] - of[0]
        if span > 0:
            distance[order[1:-1]] += (of[2:] - of[:-2]) / span
            distance[order[[0, -1]]] = np.inf
    return distance


def spread(values: FloatArray) -> list[int]:
    """All points (n, objectives) in an order of which every head is spread out: extremes first.

    The point in the densest place is taken away again and again, each time with the distances of those that are left
    (Kukkonen and Deb, CEC 2006); the order is the reverse of that.
    """
    left, gone = list(range(len(values))), []
    while left:
        distance = crowding(values[left])
        # Of equals the last one goes: the list comes best first.
        densest = len(left) - 1 - int(np.argmin(distance[::-1]))
        gone.append(left.pop(densest))
    return gone[::-1]


def hypervolume(values: FloatArray, reference: FloatArray) -> float:
    """The volume that points (n, objectives) dominate above ``reference`` (objectives,), exactly.

    By exclusive volumes (WFG: While, Bradstreet and Barone, IEEE Trans. Evol. Comp. 16, 2012). 0.0 without points.
    """
    points = np.asarray(values, dtype=np.float64).reshape(-1, len(reference)) - reference
    points = points[(points > 0).all(axis=1)]
    return _volume(np.unique(points, axis=0))


def _volume(points: FloatArray) -> float:
    points = points[non_dominated(points)]
    if not len(points):
        return 0.0
    if points.shape[1] == 1:
        return float(points.max())
    points = points[np.argsort(-points[:, 0], kind="stable")]
    if points.shape[1] == 2:
        below = np.concatenate([[0.0], points[:-1, 1]])
        return float(points[:, 0] @ (points[:, 1] - below))
    total = 0.0
    for i, point in enumerate(points):
        # What the point alone adds to those after it: its own box less what they dominate of it.
        shared = np.unique(np.minimum(points[i + 1 :], point), axis=0)
        total += float(np.prod(point)) - _volume(shared)
    return total
