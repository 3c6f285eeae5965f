"""How the progress of a run is shown on stderr: a bar on a terminal, plain lines elsewhere, events for programs."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from merge3_plugin.cli_log import tell
from merge3_plugin.evolve.search import Improvement
from merge3_plugin.evolve.store import Evaluation
from merge3_plugin.harness.scoring import Price
from merge3_plugin.units import in_bytes, in_time

log = logging.getLogger(__name__)

# Without a terminal, a line this often.
SECONDS_BETWEEN_LINES = 30.0


@dataclass(frozen=True)
class Figures:
    """How far a phase is: ``done`` of ``total`` models, so many a minute, the seconds that are left of it.

    ``best`` is the best fitness of the search so far, its 95 % interval ``within`` above and below. ``spent`` are the
    items and tokens of the phase, recorded ones included, of at most ``max_items`` and ``max_tokens``. ``memory`` is as
    in `machine.memory_in_use`. What is not known yet is None.
    """

    phase: str
    done: int
    total: int
    per_minute: float | None
    seconds_left: float | None
    best: float | None
    within: float | None
    spent: Price
    max_items: int | None
    max_tokens: int | None
    memory: Mapping[str, int]


class Display(Protocol):
    """Shows how a run goes on."""

    def begin(self, phase: str, total: int) -> None:
        """A phase of so many models begins."""

    def evaluated(self, figures: Figures, label: str, evaluation: Evaluation) -> None:
        """A model was scored."""

    def improved(self, improvement: Improvement) -> None:
        """The search has a new best; `scored` follows."""

    def scored(self, figures: Figures) -> None:
        """A candidate of the search was scored."""

    def end(self) -> None:
        """Nothing more comes."""


class Bar:
    """A progress bar for each phase, for terminals."""

    def __init__(self) -> None:
        self._bar: Any = None

    def begin(self, phase: str, total: int) -> None:
        from tqdm import tqdm

        self.end()
        shape = "{desc}: {bar:12} {n_fmt} of {total_fmt} [{elapsed}{postfix}]"
        self._bar = tqdm(total=total, desc=phase, dynamic_ncols=True, bar_format=shape)

    def evaluated(self, figures: Figures, label: str, evaluation: Evaluation) -> None:
        self._show(figures, label)

    def improved(self, improvement: Improvement) -> None:
        pass

    def scored(self, figures: Figures) -> None:
        self._show(figures, _best(figures))

    def _show(self, figures: Figures, what: str) -> None:
        self._bar.n = figures.done
        parts = [what, *_pace(figures), _memory(figures), _spent(figures)]
        self._bar.set_postfix_str("; ".join(part for part in parts if part))

    def end(self) -> None:
        if self._bar is not None:
            self._bar.close()


class Lines:
    """A line at the beginning of a phase, at each new best, and now and then."""

    def __init__(self) -> None:
        self._last, self._news = 0.0, ""

    def begin(self, phase: str, total: int) -> None:
        log.info("%s: %d models", phase, total)

    def evaluated(self, figures: Figures, label: str, evaluation: Evaluation) -> None:
        reused = f" ({evaluation.reused_items:,} known from an earlier run)" if evaluation.reused_items else ""
        self._line(figures, f"{label}, {evaluation.n_items:,} items{reused} in {evaluation.seconds:.1f} s")

    def improved(self, improvement: Improvement) -> None:
        self._news = _against(improvement) or " "

    def scored(self, figures: Figures) -> None:
        if figures.best is not None:
            self._line(figures, f"{_best(figures)}{self._news.rstrip()}", _spent(figures), always=bool(self._news))
            self._news = ""

    def _line(self, figures: Figures, *what: str, always: bool = False) -> None:
        now = time.monotonic()
        if always or now - self._last > SECONDS_BETWEEN_LINES:
            self._last = now
            parts = [*what, *_pace(figures), _memory(figures)]
            log.info("%s %d of %d: %s", figures.phase, figures.done, figures.total, "; ".join(parts))

    def end(self) -> None:
        pass


class Events:
    """An event for everything that happens, for programs."""

    def begin(self, phase: str, total: int) -> None:
        tell("phase", "", phase=phase, total=total)

    def evaluated(self, figures: Figures, label: str, evaluation: Evaluation) -> None:
        self._progress(figures, label=label, state=evaluation.state)

    def improved(self, improvement: Improvement) -> None:
        pass

    def scored(self, figures: Figures) -> None:
        self._progress(figures)

    def _progress(self, figures: Figures, **more: str) -> None:
        best, within = figures.best, figures.within
        tell(
            "progress",
            "",
            phase=figures.phase,
            done=figures.done,
            total=figures.total,
            candidates_per_minute=figures.per_minute,
            seconds_left=figures.seconds_left,
            best=best,
            interval=None if best is None or within is None else [best - within, best + within],
            items=figures.spent.items,
            tokens=figures.spent.tokens,
            **figures.memory,
            **more,
        )

    def end(self) -> None:
        pass


def make_display(*, as_json: bool) -> Display:
    """What suits stderr as it is."""
    if as_json:
        return Events()
    return Bar() if sys.stderr.isatty() else Lines()


def _best(figures: Figures) -> str:
    return "" if figures.best is None else f"best {figures.best:.3f} +- {figures.within:.3f}"


def _against(improvement: Improvement) -> str:
    """How far the best is from the one before."""
    difference = improvement.against_previous
    if difference is None:
        return ""
    low, high = (100 * end for end in difference.interval)
    return f", {100 * difference.difference:+.1f} points [{low:+.1f}, {high:+.1f}] on the one before"


def _pace(figures: Figures) -> list[str]:
    if figures.per_minute is None:
        return []
    left = [] if figures.seconds_left is None else [f"{in_time(figures.seconds_left)} left"]
    return [f"{figures.per_minute:.{figures.per_minute < 10:d}f} a minute", *left]


def _spent(figures: Figures) -> str:
    """What the search has spent, and of which budget."""
    items, tokens = figures.max_items, figures.max_tokens
    text = f"{figures.spent.items:,}{'' if items is None else f' of {items:,}'} items"
    return text if tokens is None else f"{text}, {figures.spent.tokens:,} of {tokens:,} tokens"


def _memory(figures: Figures) -> str:
    on_device = figures.memory.get("device_memory_bytes")
    text = in_bytes(figures.memory["memory_bytes"])
    return text if on_device is None else f"{text}, {in_bytes(on_device)} on the device"
