"""The live models of a run: one works in the thread that asks, several in a thread each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Event, local
from typing import Any, Protocol, TypeVar

from merge3_plugin.harness.scoring import Price, Scores

T = TypeVar("T")


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


@dataclass(frozen=True, eq=False)
class Worker:
    """A live model and its scorer; ``enter`` is called first in the thread that they get."""

    live: LiveModel
    scorer: ItemScorer
    enter: Callable[[], None] = lambda: None


class Closed(Exception):
    """Nobody waits for this piece of work any more."""


class Workers:
    """At least one worker; pieces of work are begun in the order in which they come, each by the first that is free."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._number, self._closed = len(workers), Event()
        self._alone = workers[0] if len(workers) == 1 else None
        self._own = local()
        if self._alone is None:
            left: SimpleQueue[Worker] = SimpleQueue()
            for worker in workers:
                left.put(worker)
            self._threads = ThreadPoolExecutor(len(workers), "live model", self._enter, (left,))

    def __len__(self) -> int:
        return self._number

    def submit(self, work: Callable[[Worker], T]) -> Future[T]:
        """Begin a piece of work; with one worker it is done when this returns."""
        if self._alone is not None:
            done: Future[T] = Future()
            done.set_result(work(self._alone))
            return done
        return self._threads.submit(lambda: work(self._own.worker))

    def check(self) -> None:
        """Raise Closed once nobody waits for results; for long pieces of work, to be called now and then."""
        if self._closed.is_set():
            raise Closed

    def close(self) -> None:
        """Drop what is not begun, and end the threads; what they are at they leave at its next `check`."""
        self._closed.set()
        if self._alone is None:
            self._threads.shutdown(cancel_futures=True)

    def _enter(self, left: SimpleQueue[Worker]) -> None:
        self._own.worker = left.get_nowait()
        self._own.worker.enter()
