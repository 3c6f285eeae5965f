"""One candidate: merge, score, record. What the record already holds is never computed again."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

from merge3_plugin.evolve.objectives import Assessment
from merge3_plugin.evolve.reuse import Known
from merge3_plugin.evolve.store import COMPLETE, FAILED, Evaluation, RunStore
from merge3_plugin.harness.scoring import NOTHING, Price, Scores


@dataclass(frozen=True)
class Candidate:
    """A model of the run: a merge by ``recipe``, or, where ``parent`` is set, that parent as it is.

    A parent that the search space can express exactly has both: its answers are the same either way.
    """

    id: str
    recipe: Mapping[str, Any] | None = None
    parent: str | None = None


class LiveModel(Protocol):
    """What changes the weights of the model that the scorer reads."""

    def merge(self, recipe: Mapping[str, Any]) -> None: ...

    def load_parent(self, name: str) -> None: ...


class ItemScorer(Protocol):
    """What scores the live model as it is now."""

    def evaluate(
        self, items: Mapping[str, Sequence[str]], whole: Iterable[str]
    ) -> tuple[Mapping[str, Scores], Mapping[str, float]]: ...

    def price(self, items: Mapping[str, Sequence[str]], whole: Iterable[str]) -> Price: ...


class EarlierAnswers(Protocol):
    """What earlier runs know of a parent (`reuse.Reuse`)."""

    def find(self, parent: str, items: Mapping[str, Sequence[str]], whole: Sequence[str]) -> Known: ...

    def keep(self, parent: str, items: Mapping[str, Sequence[str]], whole: Sequence[str], known: Known) -> None: ...


# Answers by task, and whole-benchmark values by task, to what they say of the candidate.
Assess = Callable[[Mapping[str, Scores], Mapping[str, float]], Assessment]


class Evaluator:
    """Evaluates candidates through the record; ``finished`` hears of every new evaluation once it is on disk.

    What ``earlier`` runs know of a parent goes into the record as if it were scored now, and is not paid for.
    """

    def __init__(
        self,
        store: RunStore,
        live: LiveModel,
        scorer: ItemScorer,
        finished: Callable[[Evaluation], None],
        earlier: EarlierAnswers | None = None,
    ) -> None:
        self._store, self._live, self._scorer, self._finished = store, live, scorer, finished
        self._earlier = earlier

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
        started, left = time.monotonic(), self._left(candidate, items, whole)
        price = reused = NOTHING
        try:
            earlier, asked = self._known_earlier(candidate, left)
            if asked.items or asked.whole:
                self._put_on(candidate)
            price = self._scorer.price(asked.items, asked.whole)
            new = self._ask(candidate, asked)
            if asked is not left:
                reused = self._scorer.price(left.items, left.whole).less(price)
                price = price.plus(reused)
            found = Known({**earlier.answers, **new.answers}, {**earlier.whole, **new.whole})
            evaluation = self._evaluation(candidate, purpose, items, left, found, assess)
        except Exception:  # noqa: BLE001 - the candidate boundary: what fails in here is no failure of the run
            evaluation = Evaluation(candidate.id, purpose, FAILED, error=traceback.format_exc())
        evaluation = replace(
            evaluation,
            recipe=candidate.recipe,
            seconds=time.monotonic() - started,
            batch=batch,
            rung=rung,
            tokens=price.tokens,
            beside=price.items - evaluation.n_items,
            reused_items=reused.items,
            reused_tokens=reused.tokens,
        )
        self._store.add(evaluation)
        self._finished(evaluation)
        return evaluation

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

    def _ask(self, candidate: Candidate, asked: _Left) -> Known:
        scored = Known(*self._scorer.evaluate(asked.items, asked.whole))
        if self._earlier is not None and candidate.parent is not None:
            self._earlier.keep(candidate.parent, asked.items, asked.whole, scored)
        return scored

    def _put_on(self, candidate: Candidate) -> None:
        if candidate.parent is not None:
            self._live.load_parent(candidate.parent)
        else:
            self._live.merge(candidate.recipe or {})

    def _evaluation(
        self,
        candidate: Candidate,
        purpose: str,
        items: Mapping[str, Sequence[str]],
        left: _Left,
        new: Known,
        assess: Assess | None,
    ) -> Evaluation:
        scored, values = new.answers, {**left.values, **new.whole}
        found = None
        if assess is not None:
            everything = {task: _joined(left.known[task], scored.get(task)) for task in items}
            found = assess({task: _on(everything[task], ids) for task, ids in items.items()}, values)
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


def _joined(known: Scores, new: Scores | None) -> Scores:
    return known if new is None else Scores(known.right | new.right, known.soft | new.soft)


def _on(scores: Scores, item_ids: Iterable[str]) -> Scores:
    """The scores of these items, in their order."""
    ids = list(item_ids)
    return Scores(
        {item: scores.right[item] for item in ids if item in scores.right},
        {item: scores.soft[item] for item in ids if item in scores.soft},
    )
