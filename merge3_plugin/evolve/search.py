"""The search itself: ask, evaluate, tell, until the budget is spent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from merge3_plugin.domain import Estimate, FloatArray
from merge3_plugin.evolve.evaluate import Candidate
from merge3_plugin.evolve.optimizers import Optimizer
from merge3_plugin.evolve.store import RunStore

# Generations that failed as a whole, in a row, before the search gives up: by then it is the setting, not the
# candidate.
HOPELESS_GENERATIONS = 3


@dataclass(frozen=True)
class Scored:
    """A candidate with what the search thinks of it; ``fitness`` is None when its evaluation failed."""

    candidate: Candidate
    vector: FloatArray
    fitness: float | None
    standard_error: float | None
    estimates: Mapping[str, Estimate]


@dataclass(frozen=True)
class SearchResult:
    """Every candidate of the search in the order of scoring, the centre of the final distribution, why it ended."""

    scored: tuple[Scored, ...]
    mean: FloatArray | None
    reason: str

    def ranked(self) -> list[Scored]:
        """The distinct candidates that did not fail, best first; of equals, the earlier first."""
        seen: dict[str, Scored] = {}
        for entry in self.scored:
            if entry.fitness is not None:
                seen.setdefault(entry.candidate.id, entry)
        return sorted(seen.values(), key=lambda s: -(s.fitness or 0.0))


class Search:
    """One run of an optimizer over vectors of genes.

    ``score`` turns an evaluated candidate into its Scored; ``improved`` hears of each new best, ``progress`` of every
    candidate; ``interrupted`` returns why to stop before the next candidate, or None.
    """

    def __init__(
        self,
        store: RunStore,
        optimizer: Optimizer,
        evaluate: Callable[[FloatArray], Scored],
        *,
        max_fevals: int,
        interrupted: Callable[[], str | None],
        progress: Callable[[Scored, Scored | None], None],
    ) -> None:
        self._store, self._optimizer, self._evaluate = store, optimizer, evaluate
        self._max_fevals, self._interrupted, self._progress = max_fevals, interrupted, progress
        self._scored: list[Scored] = []
        self._best: Scored | None = None

    def run(self, known: Sequence[FloatArray]) -> SearchResult:
        """Score the ``known`` vectors, then generations, until the budget, convergence, or an interruption."""
        reason = self._generations(known)
        return SearchResult(tuple(self._scored), self._optimizer.mean(), reason)

    def _generations(self, known: Sequence[FloatArray]) -> str:
        beside, reason = self._score_all(known)
        generation = failed = 0
        while reason is None:
            asked = self._optimizer.ask()
            self._store.event(f"ask {generation}", {"vectors": [x.tolist() for x in asked]})
            scored, reason = self._score_all(asked)
            if reason is not None:
                break
            told = scored + beside
            costs = [None if s.fitness is None else -s.fitness for s in told]
            learned = self._optimizer.tell([s.vector for s in told], costs)
            self._store.event(f"tell {generation}", {"costs": costs, "learned": learned})
            # Known points join the first generation that teaches something, once.
            beside = [] if learned else beside
            failed = 0 if learned else failed + 1
            generation += 1
            if failed == HOPELESS_GENERATIONS:
                reason = f"every candidate of {failed} generations in a row failed"
            elif stop := self._optimizer.stop():
                reason = "converged: " + ", ".join(f"{k} {v}" for k, v in sorted(stop.items()))
        return reason

    def _score_all(self, vectors: Sequence[FloatArray]) -> tuple[list[Scored], str | None]:
        """Score these in order; the reason says why some were left out, None when none was."""
        scored: list[Scored] = []
        for vector in vectors:
            if len(self._scored) >= self._max_fevals:
                return scored, f"budget of {self._max_fevals} candidates spent"
            reason = self._interrupted()
            if reason is not None:
                return scored, reason
            entry = self._evaluate(vector)
            scored.append(entry)
            self._scored.append(entry)
            improved = entry.fitness is not None and (
                self._best is None or self._best.fitness is None or entry.fitness > self._best.fitness
            )
            self._best = entry if improved else self._best
            self._progress(entry, entry if improved else None)
        return scored, None
