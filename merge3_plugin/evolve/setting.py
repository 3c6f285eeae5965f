"""What a run works with, and who hears how it goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from merge3_plugin.config import RunConfig
from merge3_plugin.domain import FloatArray
from merge3_plugin.evolve.evaluate import Evaluator
from merge3_plugin.evolve.search import Improvement, Scored
from merge3_plugin.evolve.spaces import Space
from merge3_plugin.evolve.store import Evaluation, RunStore
from merge3_plugin.harness.benchmark import Benchmark
from merge3_plugin.harness.scoring import Scorer

if TYPE_CHECKING:
    from merge3_plugin.merging.merger import Merger


class Interrupted(Exception):
    """A person asked the run to stop."""


@dataclass(frozen=True, eq=False)
class Setting:
    """What a run works with, built once by `evolve.setup`."""

    config: RunConfig
    folder: Path
    store: RunStore
    merger: Merger
    scorer: Scorer
    evaluator: Evaluator
    space: Space
    benchmarks: Mapping[str, Benchmark]
    parents: Mapping[str, str]  # label -> name in the config
    held_out_tasks: Mapping[str, Benchmark] = field(default_factory=dict)  # only for the end: nothing is chosen by them
    warm: Sequence[FloatArray] = ()  # vectors that the config names, to be scored first


class Watcher:
    """Hears how a run goes; this one says nothing, and never stops it."""

    def phase(self, name: str, total: int) -> None:
        """A phase of ``total`` evaluations begins."""

    def evaluated(self, label: str, evaluation: Evaluation) -> None:
        """An evaluation of the current phase is there, new or recorded."""

    def improved(self, improvement: Improvement) -> None:
        """The search has a new best; where a new candidate made it, `scored` follows."""

    def scored(self, entry: Scored) -> None:
        """A candidate of the search is there."""

    def stop_reason(self) -> str | None:
        """Why the search should end before the next candidate."""
        return None

    def interrupted(self) -> bool:
        """Whether a person asked the run to stop."""
        return False
