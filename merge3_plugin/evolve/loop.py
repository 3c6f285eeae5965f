"""The search itself: ask, score, tell, each result as it comes, until a budget or the search is spent."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from merge3_plugin.domain import FloatArray
from merge3_plugin.evolve.evaluate import Candidate
from merge3_plugin.evolve.executor import Executor, Step
from merge3_plugin.evolve.fidelity.ladder import ANCHORS, Ladder, Place
from merge3_plugin.evolve.fidelity.strategies import Fidelity
from merge3_plugin.evolve.optimizers import Optimizer, Result, Trial
from merge3_plugin.evolve.search import Scored, SearchResult, ranked
from merge3_plugin.evolve.stopping import Limits
from merge3_plugin.evolve.store import RunStore
from merge3_plugin.harness.scoring import NOTHING, Price

ASK, TELL = "ask ", "tell "
# Of a result, as the record keeps it.
_TOLD = ("trial", "values", "variances", "disagreements", "violation", "tie_breaker", "items")


@dataclass(frozen=True, eq=False)
class Job:
    """One piece of work: a ``vector`` to be scored at a ``place``; ``trial`` is None for what no strategy asked for.

    ``again`` marks an incumbent that is scored on the items of a further batch.
    """

    number: int
    trial: int | None
    candidate: Candidate
    vector: FloatArray
    place: Place
    price: Price
    again: bool = False


class Scoring(Protocol):
    """Turns vectors into scored candidates; ``spent`` is what the record holds of that."""

    ladder: Ladder

    @property
    def spent(self) -> Price: ...

    def candidate(self, vector: FloatArray) -> Candidate: ...

    def price(self, candidate: Candidate, place: Place) -> Price: ...

    def begin(self, candidate: Candidate, place: Place) -> None: ...

    def score(self, candidate: Candidate, vector: FloatArray, place: Place) -> Scored: ...

    def disagreements(self, entry: Scored, *, apart: bool) -> tuple[float, ...]: ...

    def due(self, scored: Sequence[Scored]) -> Price | None: ...

    def refine(self, scored: Sequence[Scored]) -> list[Scored]: ...


def steps(store: RunStore) -> list[Step]:
    """What the record holds of a search, in its order."""
    named = [name.split() for name, _ in store.events() if name.startswith((ASK, TELL))]
    return [Step(kind == TELL.strip(), int(number)) for kind, number in named]


class Search:
    """One run of an optimizer over vectors of genes.

    ``several``: whether the optimizer is told the value of each objective, or the fitness alone. ``fidelity`` says how
    far each trial goes, ``limits`` when to end. ``scoring.refine`` gives all that were scored a better assessment,
    where that is due once the optimizer has learned. ``improved`` hears of each new best (after how many candidates,
    it, the previous one), ``progress`` of every result; ``interrupted`` returns why to begin nothing more, or None, and
    ``late`` why to begin nothing more that costs.

    The record holds the sequence: "ask N" when the N-th piece of work is begun, "tell N" when its result is told. All
    that is decided follows from that sequence, so a record that is replayed (`executor.Replay`) is a resume.
    """

    def __init__(
        self,
        store: RunStore,
        optimizer: Optimizer,
        scoring: Scoring,
        fidelity: Fidelity,
        limits: Limits,
        executor: Executor,
        *,
        several: bool = False,
        interrupted: Callable[[], str | None] = lambda: None,
        late: Callable[[], str | None] = lambda: None,
        improved: Callable[[int, Scored, Scored | None], None] = lambda number, best, previous: None,
        progress: Callable[[Scored], None] = lambda entry: None,
    ) -> None:
        self._store, self._optimizer, self._scoring = store, optimizer, scoring
        self._fidelity, self._limits, self._executor = fidelity, limits, executor
        self._several, self._interrupted, self._late = several, interrupted, late
        self._improved, self._progress = improved, progress
        self._known: deque[FloatArray] = deque()
        self._asked: Trial | None = None  # by the optimizer, not begun yet
        self._flight: dict[int, Job] = {}
        self._trials: dict[int, Trial] = {}
        self._begun = self._candidates = 0  # pieces of work; trials and known vectors
        self._scored: dict[str, Scored] = {}
        self._trial_of: dict[str, int | None] = {}  # by candidate
        self._best: Scored | None = None
        self._over: str | None = None  # why the search cannot go on, once it cannot
        self._renewed: set[tuple[str, int]] = set()  # incumbents and batches that they were sent to

    def run(self, known: Sequence[FloatArray]) -> SearchResult:
        """Score the ``known`` vectors, then trials, until nothing more may be begun."""
        self._known.extend(known)
        given = {self._scoring.candidate(vector).id for vector in known}
        reason = self._loop()
        reason += self._completed(given)
        return SearchResult(tuple(self._scored.values()), self._optimizer.mean(), reason)

    def _loop(self) -> str:
        reason: str | None = None
        while True:
            while reason is None and self._executor.free():
                reason = self._over or self._limits.gives_up() or self._interrupted()
                reason = reason or (None if self._is_free() else self._late())
                job = None if reason else self._next()
                if job is None:
                    break
                reason = self._limits.refuses(job.price, self._committed())
                if reason is None:
                    self._begin(job)
            if not self._flight:
                return reason or self._enough() or "the strategy asks for nothing more"
            number, entry = self._executor.result()
            self._take(self._flight.pop(number), entry)

    def _next(self) -> Job | None:
        """What to begin now; None while there is nothing to begin, or nothing any more."""
        if (promotion := self._fidelity.promote()) is not None:
            trial = self._trials[promotion.trial]
            return self._job(trial.number, trial.vector, self._place(trial, promotion.rung))
        if self._enough() is not None:
            return None
        if self._known:
            self._candidates += 1
            return self._job(None, self._known.popleft(), ANCHORS)
        self._asked = self._asked or next(iter(self._optimizer.ask(1)), None)
        if self._asked is None:
            return None
        batch = self._scoring.ladder.batch(self._asked.batch)
        if (again := self._incumbent_in(batch)) is not None:
            return again
        trial, self._asked = self._asked, None
        self._candidates += 1
        self._trials[trial.number] = trial
        rung = trial.level or self._fidelity.start(trial, batch)
        return self._job(trial.number, trial.vector, self._place(trial, rung))

    def _is_free(self) -> bool:
        """Whether what comes next is a known vector that costs nothing: a parent, which was scored before."""
        return bool(self._known) and self._scoring.price(self._scoring.candidate(self._known[0]), ANCHORS) == NOTHING

    def _place(self, trial: Trial, rung: int) -> Place:
        return Place((self._scoring.ladder.batch(trial.batch),), rung)

    def _incumbent_in(self, batch: int) -> Job | None:
        """The incumbent on the anchors of a batch that is asked for, once; where it falls there, who follows it.

        So luck is found out from the top down, for as long as it is what is at the top.
        """
        best = self._best
        if best is None or batch in best.place.batches or (best.candidate.id, batch) in self._renewed:
            return None
        self._renewed.add((best.candidate.id, batch))
        return replace(self._job(self._trial_of[best.candidate.id], best.vector, Place((batch,))), again=True)

    def _job(self, trial: int | None, vector: FloatArray, place: Place) -> Job:
        candidate = self._scoring.candidate(vector)
        before = self._scored.get(candidate.id)
        if before is not None and before.complete and before.assessment is not None:
            place = before.place.joined(place)
        return Job(self._begun, trial, candidate, vector, place, self._scoring.price(candidate, place))

    def _begin(self, job: Job) -> None:
        asked = {"trial": job.trial, "candidate": job.candidate.id, "vector": job.vector.tolist(), "again": job.again}
        self._store.event(f"{ASK}{job.number}", asked | {"batches": job.place.batches, "rung": job.place.rung})
        self._begun += 1
        self._flight[job.number] = job
        self._scoring.begin(job.candidate, job.place)
        self._executor.submit(job.number, lambda: self._scoring.score(job.candidate, job.vector, job.place))

    def _committed(self) -> Price:
        """What is spent, and what the work in flight may take."""
        total = self._scoring.spent
        for job in self._flight.values():
            total = total.plus(job.price)
        return total

    def _enough(self) -> str | None:
        return self._limits.enough(self._candidates, self._optimizer.stop())

    def _take(self, job: Job, entry: Scored) -> None:
        new = entry.candidate.id not in self._scored
        self._scored[entry.candidate.id] = entry
        self._trial_of.setdefault(entry.candidate.id, job.trial)
        better = self._rise(entry)
        if not job.again:
            self._limits.hear(entry, new=new, better=better)
        self._progress(entry)
        learned = self._tell(job, entry)
        if job.trial is not None:
            self._fidelity.hear(job.trial, entry, self._best)
        if learned:
            self._refine()

    def _rise(self, entry: Scored) -> bool:
        """Whether a candidate became the best by this entry; the best may fall by its own, and another follow it."""
        previous = self._best
        if previous is not None and previous.candidate.id == entry.candidate.id:
            self._follow(entry)
            return False
        if entry.assessment is None or not entry.complete or (previous and entry.rank <= previous.rank):
            return False
        self._best = entry
        self._improved(len(self._scored), entry, previous)
        return True

    def _follow(self, previous: Scored) -> None:
        """Take who is the best of all now, after the ``previous`` one was judged anew."""
        best = next((entry for entry in ranked(list(self._scored.values())) if entry.complete), None)
        self._best = best
        if best is not None and best.candidate.id != previous.candidate.id:
            self._improved(len(self._scored), best, previous)

    def _tell(self, job: Job, entry: Scored) -> bool:
        result = self._result(job.trial, entry)
        # What is asked of an incumbent beside the strategy's trials is told where it is a trial: there it replaces.
        told = not job.again or job.trial is not None
        learned = self._optimizer.tell([result]) if told else False
        body: dict[str, Any] = {key: getattr(result, key) for key in _TOLD}
        body |= {"candidate": entry.candidate.id, "batches": entry.place.batches, "rung": entry.rung}
        body |= {"paid": entry.paid.items, "tokens": entry.paid.tokens, "complete": entry.complete, "learned": learned}
        self._store.event(f"{TELL}{job.number}", body)
        return learned

    def _result(self, trial: int | None, entry: Scored) -> Result:
        assessment = entry.assessment
        if assessment is None:
            return Result(trial, entry.vector, None, cost=entry.paid.items)
        return Result(
            trial,
            entry.vector,
            assessment.values if self._several else (assessment.fitness,),
            assessment.variances if self._several else (assessment.standard_error**2,),
            self._scoring.disagreements(entry, apart=self._several),
            assessment.violation,
            assessment.tie_breaker,
            entry.n_items,
            entry.paid.items,
        )

    def _refine(self) -> None:
        """Go on with better assessments, where it is time for them; the best may be another then."""
        scored = list(self._scored.values())
        if (price := self._scoring.due(scored)) is None:
            return
        # To go on without them would be another search than the one that a greater budget goes on with.
        self._over = self._limits.refuses(price, self._committed())
        if self._over:
            return
        refined = self._scoring.refine(scored)
        self._scored = {entry.candidate.id: entry for entry in refined}
        if self._best is not None:
            self._follow(self._scored[self._best.candidate.id])
        for entry in refined:
            trial = self._trial_of[entry.candidate.id]
            if trial is not None:
                self._fidelity.hear(trial, entry, self._best)

    def _completed(self, known: set[str]) -> str:
        """Score the best of the search's own on all anchors where none was; what there is to say of it.

        Only complete candidates may be confirmed. This is no step of the sequence: with a greater budget the search
        goes on as if it had not been, but for what it cost.
        """
        own = [entry for id, entry in self._scored.items() if id not in known and entry.assessment is not None]
        if not own or any(entry.complete for entry in own):
            return ""
        best = max(own, key=lambda entry: (entry.rung, entry.rank))
        job = self._job(self._trial_of[best.candidate.id], best.vector, best.place._replace(rung=0))
        if self._interrupted() or self._late() or self._limits.refuses(job.price, self._committed()):
            return "; none of its merges could be scored on all anchors"
        entry = self._scoring.score(job.candidate, job.vector, job.place)
        self._scored[entry.candidate.id] = entry
        self._rise(entry)
        self._progress(entry)
        return "; the best of its merges was scored on all anchors then"
