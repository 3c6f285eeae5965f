"""Who does the work of a search: so many pieces at a time, whose results come in any order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from merge3_plugin.errors import RunError
from merge3_plugin.evolve.search import Scored

Work = Callable[[], Scored]


class Step(NamedTuple):
    """A piece of work was begun, or its result ``told``."""

    told: bool
    number: int


class Executor(Protocol):
    """Works on several pieces at a time."""

    def free(self) -> bool:
        """Whether another piece should be begun now."""
        ...

    def submit(self, number: int, work: Work) -> None:
        """Take a piece of work under its number; calling it gives its result, once it is there."""
        ...

    def result(self) -> tuple[int, Scored]:
        """The next piece that is done, whichever it is; waits for it. There is one."""
        ...


class InOrder:
    """So many ``live_models`` at work; whichever is done first, results come in the order in which work was begun.

    So they follow from the config, and not from how fast a live model was. Half as many pieces again are begun, so that
    none waits for a slow one: more would be drawn before the strategy has heard of what is under way.
    """

    def __init__(self, live_models: int = 1) -> None:
        self._most = live_models + live_models // 2
        self._begun: deque[tuple[int, Work]] = deque()

    def free(self) -> bool:
        return len(self._begun) < self._most

    def submit(self, number: int, work: Work) -> None:
        self._begun.append((number, work))

    def result(self) -> tuple[int, Scored]:
        number, work = self._begun.popleft()
        return number, work()


class Replay:
    """Begins and gives results in the order of the record while that lasts, then as ``live`` does.

    ``steps`` are the record's: whether it was a result, and the number of the piece. What is in flight when they end is
    handed to ``live`` then, which may work on fewer at a time than there were. Raises RunError where the record tells
    of a piece of work that was not begun.
    """

    def __init__(self, live: Executor, steps: Iterable[Step]) -> None:
        self._live, self._steps = live, deque(steps)
        self._held: dict[int, Work] = {}

    def free(self) -> bool:
        if self._steps:
            return not self._steps[0].told
        self._hand_over()
        return not self._held and self._live.free()

    def submit(self, number: int, work: Work) -> None:
        if self._steps:
            self._steps.popleft()
        self._held[number] = work

    def result(self) -> tuple[int, Scored]:
        # Where less may be begun than the record holds, a budget was lowered: what was begun is finished in its order.
        fewer = False
        while self._steps:
            step = self._steps.popleft()
            if step.number in self._held and step.told:
                return step.number, self._held.pop(step.number)()
            fewer = fewer or not step.told
            if not fewer:
                raise RunError(
                    f"record: expected step {step.number} to be among those begun, it is not: the search went "
                    "otherwise then; start in a new --storage-path"
                )
        self._hand_over()
        return self._live.result()

    def _hand_over(self) -> None:
        while self._held and self._live.free():
            number = next(iter(self._held))
            self._live.submit(number, self._held.pop(number))
