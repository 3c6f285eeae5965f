"""One candidate: merge, score, record. What the record already holds is never computed again."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

from merge3_plugin.evolve.objectives import Assessment
from merge3_plugin.evolve.reuse import Known
from merge3_plugin.evolve.store import COMPLETE, FAILED, Evaluation, RunStore
from merge3_plugin.evolve.workers import ItemScorer, Worker, Workers
from merge3_plugin.harness.scoring import NOTHING, Price, Scores


@dataclass(frozen=True)
class Candidate:
    """A model of the run: a merge by ``recipe``, or, where ``parent`` is set, that parent as it is.

    A parent that the search space can express exactly has both: its answers are the same either way.
    """

    id: str
    recipe: Mapping[str, Any] | None = None
    parent: str | None = None


class EarlierAnswers(Protocol):
    """What earlier runs know of a parent (`reuse.Reuse`)."""

    def find(self, parent: str, items: Mapping[str, Sequence[str]], whole: Sequence[str]) -> Known: ...

    def keep(self, parent: str, items: Mapping[str, Sequence[str]], whole: Sequence[str], known: Known) -> None: ...


# Answers by task, and whole-benchmark values by task, to what they say of the candidate.
Assess = Callable[[Mapping[str, Scores], Mapping[str, float]], Assessment]


class Evaluator:
    """Evaluates candidates through the record; ``finished`` hears of every new evaluation once it is on disk.

    What ``earlier`` runs know of a parent goes into the record as if it were scored now, and is not paid for. The
    ``workers`` merge and score, in threads of their own if they are several; all else, and so what the record holds at
    any time, is in the thread that calls. ``scorer`` says what scoring costs.
    """

    def __init__(
        self,
        store: RunStore,
        workers: Workers,
        scorer: ItemScorer,
        finished: Callable[[Evaluation], None],
        earlier: EarlierAnswers | None = None,
    ) -> None:
        self._store, self._scorer, self._finished = store, scorer, finished
        self._workers, self._earlier = workers, earlier
        self._begun: dict[tuple[str, str, int, int], _Begun] = {}

    @property
    def live_models(self) -> int:
        """How many candidates can be at work at a time."""
        return len(self._workers)

    def begin(
        self,
        candidate: Candidate,
        purpose: str,
        items: Mapping[str, Sequence[str]],
        whole: Iterable[str] = (),
        *,
        batch: int = 0,
        rung: int = 0,
    ) -> None:
        """Let a worker begin with what `evaluate` will be asked by the same arguments, where there are several.

        Nothing is begun of what the record holds, nor of a candidate whose answers are on the way: what is to be asked
        beyond those is known once they are there.
        """
        key = candidate.id, purpose, batch, rung
        on_the_way = {candidate for candidate, *_ in self._begun}
        if len(self._workers) > 1 and candidate.id not in on_the_way and self._store.find(*key) is None:
            self._begun[key] = self._begin(candidate, items, whole)

    def drop(self) -> None:
        """Forget what was begun and nobody asked for yet; the live models are free then."""
        for begun in self._begun.values():
            begun.answered.cancel()
        wait([begun.answered for begun in self._begun.values()])
        self._begun.clear()

    def evaluate(
        self,
        candidate: Candidate,
        purpose: str,
        items: Mapping[str, Sequence[str]],
        whole: Iterable[str] = (),
        assess: Assess | None = None,
        *,
        batch: int = 0,
        rung: int = 0,
    ) -> Evaluation:
        """Score the candidate on ``items`` (task -> ids) and on the tasks of ``whole``, unless recorded.

        ``assess`` turns all its answers on the items, and its ``whole`` values, into the estimates and the fitness that
        are kept. The evaluation holds only the answers that the record lacked; ``answers`` gives them all. A candidate
        that cannot be merged or scored is a FAILED evaluation, with its traceback; it costs what it would have cost,
        once it is merged. ``batch`` and ``rung`` tell sets of items of one purpose apart.
        """
        recorded = self._store.find(candidate.id, purpose, batch, rung)
        if recorded is not None:
            return recorded
        ahead = self._begun.pop((candidate.id, purpose, batch, rung), None)
        begun = ahead or self._begin(candidate, items, whole)
        answered = begun.answered.result()
        started = time.monotonic()
        if ahead is not None:
            # As if it were begun now: what happens to be asked twice meanwhile is no part of the run.
            begun = begun._replace(left=self._left(candidate, items, whole))
        left, asked = begun.left, begun.asked_of_left
        price = self._scorer.price(asked.items, asked.whole) if answered.merged else NOTHING
        reused = self._scorer.price(left.items, left.whole).less(price) if answered.new is not None else NOTHING
        evaluation = self._evaluation(candidate, purpose, items, begun, answered, assess)
        evaluation = replace(
            evaluation,
            recipe=candidate.recipe,
            seconds=answered.seconds + time.monotonic() - started,
            batch=batch,
            rung=rung,
            tokens=price.tokens + reused.tokens,
            beside=price.items + reused.items - evaluation.n_items,
            reused_items=reused.items,
            reused_tokens=reused.tokens,
        )
        self._store.add(evaluation)
        self._finished(evaluation)
        return evaluation

    def _begin(self, candidate: Candidate, items: Mapping[str, Sequence[str]], whole: Iterable[str]) -> _Begun:
        left = self._left(candidate, items, whole)
        earlier, asked = self._known_earlier(candidate, left)
        return _Begun(left, earlier, asked, self._workers.submit(lambda worker: _answer(worker, candidate, asked)))

    def price(self, candidate: Candidate, items: Mapping[str, Sequence[str]], whole: Iterable[str] = ()) -> Price:
        """What an evaluation of the candidate would take now: what the record does not know yet."""
        left = self._left(candidate, items, whole)
        return self._scorer.price(left.items, left.whole)

    def answers(self, candidate: Candidate, task: str, item_ids: Iterable[str]) -> Scores:
        """The recorded scores of the candidate on these items, in their order; items never asked are absent."""
        return _on(self._store.known_answers(candidate.id, task), item_ids)

    def _left(self, candidate: Candidate, items: Mapping[str, Sequence[str]], whole: Iterable[str]) -> _Left:
        known = {task: self._store.known_answers(candidate.id, task) for task in items}
        missing = {task: [item for item in ids if item not in known[task].right] for task, ids in items.items()}
        values = self._store.known_whole(candidate.id)
        asked = list(whole)
        return _Left(
            {task: ids for task, ids in missing.items() if ids},
            [task for task in asked if task not in values],
            known,
            {task: values[task] for task in asked if task in values},
        )

    def _known_earlier(self, candidate: Candidate, left: _Left) -> tuple[Known, _Left]:
        """What earlier runs know of what is left to ask, and what then is still to be asked."""
        if self._earlier is None or candidate.parent is None:
            return Known(), left
        known = self._earlier.find(candidate.parent, left.items, left.whole)
        items = {task: ids for task, ids in left.items.items() if task not in known.answers}
        return known, left._replace(items=items, whole=[task for task in left.whole if task not in known.whole])

    def _evaluation(
        self,
        candidate: Candidate,
        purpose: str,
        items: Mapping[str, Sequence[str]],
        begun: _Begun,
        answered: _Answered,
        assess: Assess | None,
    ) -> Evaluation:
        if answered.new is None:
            return Evaluation(candidate.id, purpose, FAILED, error=answered.error)
        new, left, earlier = answered.new, begun.left, begun.earlier
        try:
            if self._earlier is not None and candidate.parent is not None:
                self._earlier.keep(candidate.parent, begun.asked.items, begun.asked.whole, new)
            scored = {
                task: _only(of, left.items.get(task, ())) for task, of in {**earlier.answers, **new.answers}.items()
            }
            values = {**left.values, **earlier.whole, **new.whole}
            found = None
            if assess is not None:
                everything = {task: _joined(left.known[task], scored.get(task)) for task in items}
                found = assess({task: _on(everything[task], ids) for task, ids in items.items()}, values)
        except Exception:  # noqa: BLE001 - the candidate boundary, as in `_answer`
            return Evaluation(candidate.id, purpose, FAILED, error=traceback.format_exc())
        return Evaluation(
            candidate.id,
            purpose,
            COMPLETE,
            {task: scores.right for task, scores in scored.items()},
            values,
            {} if found is None else found.estimates,
            None if found is None else found.fitness,
            soft={task: scores.soft for task, scores in scored.items()},
        )


class _Left(NamedTuple):
    """What is left to ask of a candidate, items by task and whole tasks, and what of both is ``known``."""

    items: Mapping[str, Sequence[str]]
    whole: Sequence[str]
    known: Mapping[str, Scores]
    values: Mapping[str, float]


class _Answered(NamedTuple):
    """What a worker made of a candidate: whether it could be merged, and its answers or the traceback of a failure."""

    merged: bool
    new: Known | None
    error: str | None
    seconds: float


class _Begun(NamedTuple):
    """What was ``left`` to ask of a candidate, what ``earlier`` runs knew of it, and the rest, which is on the way."""

    left: _Left
    earlier: Known
    asked: _Left
    answered: Future[_Answered]

    @property
    def asked_of_left(self) -> _Left:
        """What was asked of what is left."""
        left = {task: set(ids) for task, ids in self.left.items.items()}
        asked = {task: ids for task, ids in self.asked.items.items() if task in left}
        items = {task: [item for item in ids if item in left[task]] for task, ids in asked.items()}
        return self.left._replace(items=items, whole=[task for task in self.asked.whole if task in self.left.whole])


def _answer(worker: Worker, candidate: Candidate, asked: _Left) -> _Answered:
    """Merge and ask, in the worker's thread."""
    started, merged, new, error = time.monotonic(), False, None, None
    try:
        if asked.items or asked.whole:
            if candidate.parent is not None:
                worker.live.load_parent(candidate.parent)
            else:
                worker.live.merge(candidate.recipe or {})
        merged = True
        new = Known(*worker.scorer.evaluate(asked.items, asked.whole))
    except Exception:  # noqa: BLE001 - the candidate boundary: what fails in here is no failure of the run
        error = traceback.format_exc()
    return _Answered(merged, new, error, time.monotonic() - started)


def _only(scores: Scores, item_ids: Iterable[str]) -> Scores:
    """The scores of these items alone."""
    ids = set(item_ids)
    return Scores(*({item: score for item, score in of.items() if item in ids} for of in scores))


def _joined(known: Scores, new: Scores | None) -> Scores:
    return known if new is None else Scores(known.right | new.right, known.soft | new.soft)


def _on(scores: Scores, item_ids: Iterable[str]) -> Scores:
    """The scores of these items, in their order."""
    ids = list(item_ids)
    return Scores(
        {item: scores.right[item] for item in ids if item in scores.right},
        {item: scores.soft[item] for item in ids if item in scores.soft},
    )
