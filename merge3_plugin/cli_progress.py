"""Progress of a run, for `cli_display` to show; and Ctrl-C that ends a run cleanly."""

from __future__ import annotations

import logging
import signal
import time
from collections import deque
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import NamedTuple

from merge3_plugin.cli_display import Display, Figures
from merge3_plugin.config.search import SearchConfig
from merge3_plugin.evolve.search import Improvement, Scored
from merge3_plugin.evolve.setting import Watcher
from merge3_plugin.evolve.store import FAILED, Evaluation, last_line
from merge3_plugin.harness.scoring import NOTHING, Price
from merge3_plugin.machine import memory_in_use

log = logging.getLogger(__name__)

# The pace is that of the latest so many results: it changes during a search, and a resume replays the first in no time.
RECENT = 20


class Mark(NamedTuple):
    """How far a phase was at some time."""

    time: float
    done: int
    spent: Price


class Pace:
    """How fast a phase goes on, by its latest results."""

    def __init__(self, start: Mark) -> None:
        self._marks = deque([start], maxlen=RECENT + 1)

    def hear(self, mark: Mark) -> None:
        self._marks.append(mark)

    def per_minute(self) -> float | None:
        """Models a minute; None before there is one."""
        first, last = self._marks[0], self._marks[-1]
        return 60 * (last.done - first.done) / (last.time - first.time) if last.done > first.done else None

    def seconds_to(self, done: int, items: int | None, tokens: int | None) -> float | None:
        """How long it takes to the first of these amounts; None where nothing is known of it yet."""
        first, last = self._marks[0], self._marks[-1]
        ways = [(first.done, last.done, done), (first.spent.items, last.spent.items, items)]
        ways.append((first.spent.tokens, last.spent.tokens, tokens))
        passed = last.time - first.time
        times = [passed * (most - now) / (now - then) for then, now, most in ways if most is not None and now > then]
        return max(0.0, min(times)) if times else None


class Progress(Watcher):
    """Tells the ``display`` of each phase; ends the search when its time is over, or the run at the first SIGINT.

    The second SIGINT is not caught. The phase of the search counts candidates, however often each is scored.
    """

    def __init__(self, search: SearchConfig, display: Display, clock: Callable[[], float] = time.monotonic) -> None:
        self._search, self._display, self._clock = search, display, clock
        self._started = clock()
        self._stopped = False
        self._best: Scored | None = None
        self._seen: set[str] = set()
        self._begin("", 0)

    def __enter__(self) -> Progress:
        self._before = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, self._before)
        self._display.end()

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._stopped = True
        signal.signal(signal.SIGINT, self._before)
        log.info("stopping after this candidate; Ctrl-C again stops at once")

    def phase(self, name: str, total: int) -> None:
        self._begin(name, total)
        self._display.begin(name, total)

    def _begin(self, name: str, total: int) -> None:
        self._phase, self._total, self._done, self._spent = name, total, 0, NOTHING
        self._searching = False
        self._pace = Pace(Mark(self._clock(), 0, NOTHING))

    def evaluated(self, label: str, evaluation: Evaluation) -> None:
        self._hear(1, Price(evaluation.n_items, evaluation.tokens))
        self._display.evaluated(self._figures(), label, evaluation)
        if evaluation.state == FAILED:
            log.warning("%s failed: %s", label, last_line(evaluation.error))

    def improved(self, improvement: Improvement) -> None:
        self._best = improvement.best
        self._display.improved(improvement)

    def scored(self, entry: Scored) -> None:
        self._searching = True
        self._hear(entry.candidate.id not in self._seen, entry.paid)
        self._seen.add(entry.candidate.id)
        if self._best is not None and self._best.candidate.id == entry.candidate.id:
            self._best = entry  # it may have been scored on further items
        self._display.scored(self._figures())

    def _hear(self, new: int, paid: Price) -> None:
        self._done += new
        self._spent = self._spent.plus(paid)
        self._pace.hear(Mark(self._clock(), self._done, self._spent))

    def _figures(self) -> Figures:
        most = (self._search.max_items, self._search.max_tokens) if self._searching else (None, None)
        found = self._best.assessment if self._best else None
        return Figures(
            self._phase,
            self._done,
            self._total,
            self._pace.per_minute(),
            self._seconds_left(*most),
            None if found is None else found.fitness,
            None if found is None else 1.96 * found.standard_error,
            self._spent,
            *most,
            memory_in_use(),
        )

    def _seconds_left(self, items: int | None, tokens: int | None) -> float | None:
        """Of the phase, which ends with the first of its budgets."""
        left = self._pace.seconds_to(self._total, items, tokens)
        if left is None or self._search.timeout is None or not self._searching:
            return left
        return max(0.0, min(left, self._search.timeout - (self._clock() - self._started)))

    def stop_reason(self) -> str | None:
        timeout = self._search.timeout
        if timeout is not None and self._clock() - self._started > timeout:
            return f"the timeout of {timeout:g} s has passed"
        return None

    def interrupted(self) -> bool:
        return self._stopped
