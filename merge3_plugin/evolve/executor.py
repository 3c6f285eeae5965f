"""Who does the work of a search: so many pieces at a time, whose results come in any order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from merge3_plugin.errors import RunError
from merge3_plugin.evolve.search import Scored

Work = Callable[[], Scored]


class Executor(Protocol):
    """Works on at most ``workers`` pieces at a time."""

    workers: int

    def submit(self, number: int, work: Work) -> None:
        """Take a piece of work under its number."""
        ...

    def result(self) -> tuple[int, Scored]:
        """The next piece that is done, whichever it is; waits for it. There is one."""
        ...


class Serial:
    """One device: one piece at a time, in their order."""

    workers = 1

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, Work]] = deque()

    def submit(self, number: int, work: Work) -> None:
        self._waiting.append((number, work))

    def result(self) -> tuple[int, Scored]:
        number, work = self._waiting.popleft()
        return number, work()


class Replay:
    """Gives results in the order of a record while that lasts, then as ``live`` gives them.

    What is in flight when the record ends is handed to ``live`` then. Raises RunError where the record tells of a piece
    of work that was not asked for.
    """

    def __init__(self, live: Executor, order: Iterable[int]) -> None:
        self._live, self._order = live, deque(order)
        self._held: dict[int, Work] = {}
        self.workers = live.workers

    def submit(self, number: int, work: Work) -> None:
        if self._order:
            self._held[number] = work
        else:
            self._live.submit(number, work)

    def result(self) -> tuple[int, Scored]:
        if self._order:
            number = self._order.popleft()
            if number not in self._held:
                raise RunError(
                    f"record: expected step {number} to be among those asked for, it is not: the search went otherwise "
                    "then; start in a new --storage-path"
                )
            return number, self._held.pop(number)()
        for number, work in self._held.items():
            self._live.submit(number, work)
        self._held.clear()
        return self._live.result()
