"""The search itself: ask, evaluate, tell, until the budget is spent."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from merge3_plugin.domain import FloatArray
from merge3_plugin.estimate.paired import PairedDifference
from merge3_plugin.evolve.evaluate import Candidate
from merge3_plugin.evolve.objectives import Assessment
from merge3_plugin.evolve.optimizers import Optimizer
from merge3_plugin.evolve.store import RunStore

# Generations that failed as a whole, in a row, before the search gives up: by then it is the setting, not the
# candidate.
HOPELESS_GENERATIONS = 3


@dataclass(frozen=True, eq=False)
class Scored:
    """A candidate with what the search thinks of it; ``assessment`` is None when its evaluation failed."""

    candidate: Candidate
    vector: FloatArray
    assessment: Assessment | None


@dataclass(frozen=True, eq=False)
class Improvement:
    """A new best after ``number`` candidates, and its paired differences; None where there is nothing to compare."""

    number: int
    best: Scored
    against_previous: PairedDifference | None
    against_uniform: PairedDifference | None


@dataclass(frozen=True, eq=False)
class SearchResult:
    """Every candidate of the search in the order of scoring, the centre of the final distribution, why it ended."""

    scored: tuple[Scored, ...]
    mean: FloatArray | None
    reason: str

    def ranked(self) -> list[Scored]:
        """The distinct candidates that did not fail, best first; of equals, the earlier first."""
        return ranked(self.scored)


def ranked(scored: Sequence[Scored]) -> list[Scored]:
    """The distinct candidates that did not fail, best first; of equals, the earlier first."""
    seen: dict[str, Scored] = {}
    for entry in scored:
        if entry.assessment is not None:
            seen.setdefault(entry.candidate.id, entry)
    return sorted(seen.values(), key=_rank, reverse=True)


def costs(scored: Sequence[Scored]) -> list[float | None]:
    """What an optimizer minimises: -fitness, None for failures.

    Of equal fitness, those of lower tie-breaker cost more by as little as a float can: so the ranks tell them apart,
    and an optimizer that looks at the values sees equals.
    """
    found: list[float | None] = [None] * len(scored)
    before: Scored | None = None
    last = -math.inf
    for place in sorted(
        (place for place, s in enumerate(scored) if s.assessment is not None),
        key=lambda place: _rank(scored[place]),
        reverse=True,
    ):
        cost = -_rank(scored[place])[0]
        if before is not None and cost <= last:
            cost = last if _rank(before) == _rank(scored[place]) else math.nextafter(last, math.inf)
        found[place] = last = cost
        before = scored[place]
    return found


def _rank(entry: Scored) -> tuple[float, float]:
    return (-math.inf, 0.0) if entry.assessment is None else entry.assessment.rank


class Search:
    """One run of an optimizer over vectors of genes.

    ``score`` turns a vector into its Scored; ``refine`` may give all that were scored a better assessment after a
    generation; ``improved`` hears of each new best (after how many candidates, it, the previous one), ``progress`` of
    every candidate; ``interrupted`` returns why to stop before the next candidate, or None.
    """

    def __init__(
        self,
        store: RunStore,
        optimizer: Optimizer,
        score: Callable[[FloatArray], Scored],
        *,
        max_fevals: int,
        interrupted: Callable[[], str | None],
        refine: Callable[[Sequence[Scored]], list[Scored] | None],
        improved: Callable[[int, Scored, Scored | None], None],
        progress: Callable[[Scored], None],
    ) -> None:
        self._store, self._optimizer, self._score = store, optimizer, score
        self._max_fevals, self._interrupted, self._refine = max_fevals, interrupted, refine
        self._improved, self._progress = improved, progress
        self._scored: list[Scored] = []
        self._best: Scored | None = None

    def run(self, known: Sequence[FloatArray]) -> SearchResult:
        """Score the ``known`` vectors, then generations, until the budget, convergence, or an interruption."""
        reason = self._generations(known)
        return SearchResult(tuple(self._scored), self._optimizer.mean(), reason)

    def _generations(self, known: Sequence[FloatArray]) -> str:
        reason = self._score_all(known)
        n_beside = len(self._scored)
        generation = failed = 0
        while reason is None:
            asked = self._optimizer.ask()
            self._store.event(f"ask {generation}", {"vectors": [x.tolist() for x in asked]})
            reason = self._score_all(asked)
            if reason is not None:
                break
            told = self._scored[-len(asked) :] + self._scored[:n_beside]
            told_costs = costs(told)
            learned = self._optimizer.tell([s.vector for s in told], told_costs)
            self._store.event(f"tell {generation}", {"costs": told_costs, "learned": learned})
            # Known points join the first generation that teaches something, once.
            n_beside = 0 if learned else n_beside
            failed = 0 if learned else failed + 1
            generation += 1
            if failed == HOPELESS_GENERATIONS:
                reason = f"every candidate of {failed} generations in a row failed"
            elif stop := self._optimizer.stop():
                reason = "converged: " + ", ".join(f"{k} {v}" for k, v in sorted(stop.items()))
            elif len(self._scored) < self._max_fevals and (reason := self._interrupted()) is None:
                self._take(self._refine(self._scored))
        return reason

    def _take(self, refined: list[Scored] | None) -> None:
        """Go on with better assessments; the best may be another then."""
        if refined is None:
            return
        self._scored = refined
        best = next(iter(ranked(refined)), None)
        if best is None or self._best is None:
            return
        previous = next(s for s in refined if s.candidate.id == self._best.candidate.id)
        if best.candidate.id != previous.candidate.id:
            self._improved(len(refined), best, previous)
        self._best = best

    def _score_all(self, vectors: Sequence[FloatArray]) -> str | None:
        """Score these in order; returns why some were left out, None when none was."""
        for vector in vectors:
            if len(self._scored) >= self._max_fevals:
                return f"budget of {self._max_fevals} candidates spent"
            reason = self._interrupted()
            if reason is not None:
                return reason
            entry = self._score(vector)
            self._scored.append(entry)
            if entry.assessment is not None and (self._best is None or _rank(entry) > _rank(self._best)):
                self._improved(len(self._scored), entry, self._best)
                self._best = entry
            self._progress(entry)
        return None
