"""Results, in whatever order they come, as generations that can be told together."""

from __future__ import annotations

import math
from collections.abc import Sequence

from merge3_plugin.evolve.optimizers import Result


class Generations:
    """Collects results of trials until ``size`` of them are there; results of no trial go with the next generation.

    A later result of a trial that is still here replaces the earlier one; of one that is gone it is too late.
    """

    def __init__(self) -> None:
        self._waiting: dict[int, Result] = {}
        self._beside: list[Result] = []
        self._gone: set[int] = set()

    def add(self, results: Sequence[Result]) -> None:
        for result in results:
            if result.trial is None:
                self._beside.append(result)
            elif result.trial not in self._gone:
                self._waiting[result.trial] = result

    def take(self, size: int) -> list[Result] | None:
        """The first ``size`` trials' results and all that came beside, or None while there are too few.

        Results of which none has values are dropped: there is nothing to learn from them. What came beside waits then
        for a generation that has some.
        """
        if len(self._waiting) < size:
            return None
        numbers = list(self._waiting)[:size]
        self._gone.update(numbers)
        taken = [self._waiting.pop(number) for number in numbers]
        if all(result.values is None for result in taken) and all(result.values is None for result in self._beside):
            return []
        taken, self._beside = [*taken, *self._beside], []
        return taken


def costs(results: Sequence[Result]) -> list[float]:
    """What a strategy of one objective minimises: -value; broken constraints rank behind all values, failures last.

    Of equal values, those of lower tie-breaker cost more by as little as a float can: so the ranks tell them apart,
    and a strategy that looks at the values sees equals.
    """
    feasible = [-r.values[0] for r in results if r.values is not None and r.violation <= 0]
    floor = max(feasible, default=0.0) + 1.0
    worst = floor + max((r.violation for r in results if r.values is not None), default=0.0) + 1.0
    found = [worst] * len(results)
    order = sorted(
        (i for i, r in enumerate(results) if r.values is not None and r.violation <= 0),
        key=lambda i: (results[i].values, results[i].tie_breaker),
        reverse=True,
    )
    before: Result | None = None
    last = -math.inf
    for i in order:
        result = results[i]
        cost = -(result.values or (0.0,))[0]
        if before is not None and cost <= last:
            same = (before.values, before.tie_breaker) == (result.values, result.tie_breaker)
            cost = last if same else math.nextafter(last, math.inf)
        found[i] = last = cost
        before = result
    for i, result in enumerate(results):
        if result.values is not None and result.violation > 0:
            found[i] = floor + result.violation
    return found
