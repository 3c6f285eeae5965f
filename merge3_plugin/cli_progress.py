"""Progress of a run on stderr: a bar on a terminal, plain lines elsewhere; and Ctrl-C that ends a run cleanly."""

from __future__ import annotations

import logging
import signal
import sys
import time
from types import FrameType, TracebackType
from typing import Any

from merge3_plugin.config.search import SearchConfig
from merge3_plugin.evolve.search import Improvement, Scored
from merge3_plugin.evolve.setting import Watcher
from merge3_plugin.evolve.store import FAILED, Evaluation, last_line
from merge3_plugin.harness.scoring import NOTHING

log = logging.getLogger(__name__)

# Without a terminal, a line this often.
SECONDS_BETWEEN_LINES = 30.0


class Progress(Watcher):
    """Shows the phases; ends the search when its time is over, or the run at the first SIGINT.

    The second SIGINT is not caught. The bar of the search counts candidates, however often each is scored.
    """

    def __init__(self, search: SearchConfig) -> None:
        self._search, self._started = search, time.monotonic()
        self._stopped = False
        self._bar: Any = None
        self._phase, self._done = "", 0
        self._last_line = 0.0
        self._best, self._is_new = "", False
        self._seen: set[str] = set()
        self._spent = NOTHING

    def __enter__(self) -> Progress:
        self._before = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, self._before)
        if self._bar is not None:
            self._bar.close()

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._stopped = True
        signal.signal(signal.SIGINT, self._before)
        log.info("stopping after this candidate; Ctrl-C again stops at once")

    def phase(self, name: str, total: int) -> None:
        from tqdm import tqdm

        if self._bar is not None:
            self._bar.close()
        self._phase, self._done = name, 0
        self._bar = tqdm(total=total, desc=name, unit="model", dynamic_ncols=True, disable=not sys.stderr.isatty())
        if self._bar.disable:
            log.info("%s: %d models", name, total)

    def evaluated(self, label: str, evaluation: Evaluation) -> None:
        self._done += 1  # a bar that is off does not count
        self._bar.update()
        self._bar.set_postfix_str(label)
        self._line(f"{label}, {evaluation.n_items:,} items in {evaluation.seconds:.1f} s")
        if evaluation.state == FAILED:
            log.warning("%s failed: %s", label, last_line(evaluation.error))

    def improved(self, improvement: Improvement) -> None:
        self._best, self._is_new = _best(improvement), True

    def scored(self, entry: Scored) -> None:
        if entry.candidate.id not in self._seen:
            self._seen.add(entry.candidate.id)
            self._done += 1  # a bar that is off does not count
            self._bar.update()
        self._spent = self._spent.plus(entry.paid)
        if self._best:
            text = f"{self._best}; {self._cost()}"
            self._bar.set_postfix_str(text)
            self._line(text, always=self._is_new)
            self._is_new = False

    def _cost(self) -> str:
        """What the search has spent, and of which budget."""
        most, tokens = self._search.max_items, self._search.max_tokens
        text = f"{self._spent.items:,}{'' if most is None else f' of {most:,}'} items"
        return text if tokens is None else f"{text}, {self._spent.tokens:,} of {tokens:,} tokens"

    def _line(self, text: str, always: bool = False) -> None:
        now = time.monotonic()
        if self._bar.disable and (always or now - self._last_line > SECONDS_BETWEEN_LINES):
            self._last_line = now
            log.info("%s %d of %d: %s", self._phase, self._done, self._bar.total, text)

    def stop_reason(self) -> str | None:
        timeout = self._search.timeout
        if timeout is not None and time.monotonic() - self._started > timeout:
            return f"the timeout of {timeout:g} s has passed"
        return None

    def interrupted(self) -> bool:
        return self._stopped


def _best(improvement: Improvement) -> str:
    """The best so far in a line: its fitness, and how far it is from the one before."""
    found = improvement.best.assessment
    if found is None:
        return ""
    text = f"best {found.fitness:.3f} +- {1.96 * found.standard_error:.3f}"
    difference = improvement.against_previous
    if difference is not None:
        low, high = (100 * end for end in difference.interval)
        text += f", {100 * difference.difference:+.1f} points [{low:+.1f}, {high:+.1f}] on the one before"
    return text
