"""Progress of a run on stderr: a bar on a terminal, plain lines elsewhere; and Ctrl-C that ends a run cleanly."""

from __future__ import annotations

import logging
import signal
import sys
import time
from types import FrameType, TracebackType
from typing import Any

from merge3_plugin.evolve.run import Watcher
from merge3_plugin.evolve.search import Scored
from merge3_plugin.evolve.store import FAILED, Evaluation, last_line

log = logging.getLogger(__name__)

# Without a terminal, a line this often.
SECONDS_BETWEEN_LINES = 30.0


class Progress(Watcher):
    """Shows the phases; ends the run at ``timeout`` seconds or at the first SIGINT. The second one is not caught."""

    def __init__(self, timeout: float | None) -> None:
        self._timeout, self._started = timeout, time.monotonic()
        self._stopped = False
        self._bar: Any = None
        self._phase, self._done = "", 0
        self._last_line = 0.0
        self._best: Scored | None = None

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

    def scored(self, entry: Scored, best: Scored | None) -> None:
        self._best = best or self._best
        self._done += 1  # a bar that is off does not count
        self._bar.update()
        if self._best is not None:
            text = f"best {self._best.fitness:.3f} +- {1.96 * (self._best.standard_error or 0):.3f}"
            self._bar.set_postfix_str(text)
            self._line(text, always=best is not None)

    def _line(self, text: str, always: bool = False) -> None:
        now = time.monotonic()
        if self._bar.disable and (always or now - self._last_line > SECONDS_BETWEEN_LINES):
            self._last_line = now
            log.info("%s %d of %d: %s", self._phase, self._done, self._bar.total, text)

    def stop_reason(self) -> str | None:
        if self._timeout is not None and time.monotonic() - self._started > self._timeout:
            return f"timeout of {self._timeout:g} s"
        return None

    def interrupted(self) -> bool:
        return self._stopped
