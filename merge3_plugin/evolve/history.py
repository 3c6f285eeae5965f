"""What the record of a run says of its search, in whatever state the run is: progress, front, genes, cost.

Figures are as they were recorded, by the calibration of their time: a search that recalibrates has judged its
candidates anew since.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from merge3_plugin.config import RunConfig, parse_config
from merge3_plugin.domain import FloatArray
from merge3_plugin.errors import RunError
from merge3_plugin.evolve.assessor import SEARCH
from merge3_plugin.evolve.front import non_dominated, spread
from merge3_plugin.evolve.loop import ASK, TELL
from merge3_plugin.evolve.searching import BUDGET, VARIABLES
from merge3_plugin.evolve.spaces.variables import Variable, read_variable
from merge3_plugin.evolve.store import FAILED, RunStore, last_line


@dataclass(frozen=True, eq=False)
class Result:
    """One scoring of a candidate by the search; ``fitness`` is None where it failed.

    ``estimates`` are by task, as the record keeps them, from the anchors of ``batch`` and of those before; ``complete``
    says whether all anchors were scored. What the strategy was told of it, ``values`` by objective and ``violation``,
    is there once it was told; ``whole`` are its whole-benchmark metrics.
    """

    candidate: str
    fitness: float | None
    standard_error: float
    estimates: Mapping[str, Mapping[str, Any]]
    complete: bool
    batch: int = 0
    values: tuple[float, ...] = ()
    violation: float = 0.0
    tie_breaker: float = 0.0
    whole: Mapping[str, float] = field(default_factory=dict)

    @property
    def figures(self) -> dict[str, Any]:
        """The estimates and the whole-benchmark metrics by task."""
        return {**self.estimates, **self.whole}

    @property
    def rank(self) -> tuple[float, ...]:
        """As `search.Scored.rank`: greater is better."""
        return () if self.fitness is None else (-self.violation, self.fitness, self.tie_breaker)


@dataclass(frozen=True, eq=False)
class BestSoFar:
    """The best after so many candidates."""

    candidates: int
    best: Result


@dataclass(frozen=True, eq=False)
class History:
    """What a record says.

    ``results`` of the search are in their order. By candidate, ``vectors`` have the coordinates in the order of
    ``variables``, and ``trials`` the number that the strategy first asked it under (None: it did not); all three are
    empty for a record of version 0.1. ``begun`` counts candidates as a budget does, each trial and each known vector;
    the search began with a ``budget`` of so many, None before it.
    """

    config: RunConfig
    results: Sequence[Result]
    variables: Sequence[Variable]
    vectors: Mapping[str, FloatArray]
    trials: Mapping[str, int | None]
    begun: int
    budget: int | None

    @property
    def latest(self) -> dict[str, Result]:
        """The last result of each candidate, in the order in which they were first scored."""
        return {result.candidate: result for result in self.results}

    def ranked(self) -> list[Result]:
        """Who was scored on all anchors without failing, best first."""
        return sorted(filter(_counts, self.latest.values()), key=_rank, reverse=True)

    def best_so_far(self) -> list[BestSoFar]:
        """The best after each candidate, from the first on that was scored on all anchors; one entry a candidate."""
        latest: dict[str, Result] = {}
        best: Result | None = None
        series: dict[int, BestSoFar] = {}
        for result in self.results:
            latest[result.candidate] = result
            again = best is not None and best.candidate == result.candidate  # it may fall, and another follow it
            best = _best(latest.values() if again or best is None else (best, result))
            if best is not None:
                series[len(latest)] = BestSoFar(len(latest), best)
        return list(series.values())

    def front(self) -> list[Result]:
        """Of several objectives: the candidates that no other dominates by its estimates, extremes first."""
        known = [result for result in self.ranked() if len(result.values) > 1]
        least = min((result.violation for result in known), default=0.0)
        distinct = {result.values: result for result in reversed(known) if result.violation <= least}
        values = np.array(list(distinct)) if distinct else np.zeros((0, 2))
        on = np.flatnonzero(non_dominated(values))
        return [list(distinct.values())[on[i]] for i in spread(values[on])]


def read_history(store: RunStore) -> History:
    """What the record says. Raises RunError for a record in which nothing was begun."""
    meta = store.meta()
    if "config" not in meta:
        raise RunError(f"{store.path}: expected the record of a run, got one in which none was begun; begin it")
    config = parse_config(meta["config"], str(store.path))
    asked, told = _steps(store)
    budget, variables = meta.get(BUDGET), [read_variable(description) for description in meta.get(VARIABLES, [])]
    return History(
        config,
        [_result(config, row, told) for row in store.rows() if row["purpose"] == SEARCH],
        variables,
        {body["candidate"]: np.array(body["vector"], dtype=np.float64) for body in reversed(asked) if variables},
        {body["candidate"]: body["trial"] for body in reversed(asked)},
        len({body["candidate"] if body["trial"] is None else body["trial"] for body in asked}),
        None if budget is None else int(budget),
    )


def progress(history: History) -> dict[str, Any]:
    """The best so far as JSON: its fitness after each candidate in ``series``, and in ``steps`` whenever it changed."""
    series = history.best_so_far()
    steps = [entry for i, entry in enumerate(series) if not i or entry.best is not series[i - 1].best]
    return {
        "budget": history.budget,
        "candidates": len(history.latest),
        "series": [entry.best.fitness for entry in series],
        "steps": [
            {
                "candidates": entry.candidates,
                "candidate": entry.best.candidate,
                "fitness": entry.best.fitness,
                "standard_error": entry.best.standard_error,
                "violation": entry.best.violation,
            }
            for entry in steps
        ],
    }


def failures(store: RunStore) -> list[tuple[str, str, int]]:
    """Purpose, last line of the error and how often it came, the most frequent first."""
    counts = Counter((row["purpose"], last_line(row["error"])) for row in store.rows() if row["state"] == FAILED)
    return [(purpose, error, count) for (purpose, error), count in counts.most_common()]


def _steps(store: RunStore) -> tuple[list[dict[str, Any]], dict[tuple[str, int, int], dict[str, Any]]]:
    """What was asked, and what was told by candidate, batch and rung; records before version 0.2 name no candidate."""
    known = [(name, body) for name, body in store.events() if "candidate" in body]
    told = {(b["candidate"], b["batches"][-1], b["rung"]): b for name, b in known if name.startswith(TELL)}
    return [body for name, body in known if name.startswith(ASK)], told


def _result(
    config: RunConfig, row: Mapping[str, Any], told: Mapping[tuple[str, int, int], Mapping[str, Any]]
) -> Result:
    body = told.get((row["candidate"], row["batch"], row["rung"]), {})
    return Result(
        row["candidate"],
        row["fitness"],
        _standard_error(config, row["estimates"]),
        {task: row["estimates"][task] for task in config.objectives() if task in row["estimates"]},
        row["rung"] >= 0,
        row["batch"],
        tuple(body.get("values") or ()),
        body.get("violation", 0.0),
        body.get("tie_breaker", 0.0),
        row["whole"],
    )


def _standard_error(config: RunConfig, estimates: Mapping[str, Mapping[str, Any]]) -> float:
    """Of the fitness, as in `objectives.Objectives`: errors of metrics of the same items add up, others do not."""
    errors: dict[str, float] = defaultdict(float)
    for name, task in config.objectives().items():
        if name in estimates:
            errors[task.name] += abs(task.weight) * estimates[name]["standard_error"]
    return math.hypot(*errors.values())


def _counts(result: Result) -> bool:
    return result.complete and result.fitness is not None


def _best(results: Iterable[Result]) -> Result | None:
    """The best that counts, of equals the first."""
    return max(filter(_counts, results), key=_rank, default=None)


def _rank(result: Result) -> tuple[float, ...]:
    return result.rank
