"""What every phase of a run works with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from merge3_plugin.evolve.candidates import Candidates
from merge3_plugin.evolve.evaluate import Assess, Candidate
from merge3_plugin.evolve.setting import Interrupted, Setting, Watcher
from merge3_plugin.evolve.store import Evaluation
from merge3_plugin.harness.scoring import Scores


class Stage:
    """A run's setting with its candidates, its tasks, and who watches.

    ``tasks`` are the benchmarks whose scores are by item, ``whole`` maps the others to their weights. ``same_items``
    maps each task to the name that it shares with other metrics of its items (`paired_difference`).
    """

    def __init__(self, setting: Setting, watcher: Watcher) -> None:
        self.setting, self.watcher = setting, watcher
        self.config = setting.config
        self.tasks = {name: benchmark for name, benchmark in setting.benchmarks.items() if benchmark.per_item}
        self.weights = {name: task.weight for name, task in self.config.objectives().items()}
        self.whole = {n: self.weights[n] for n, benchmark in setting.benchmarks.items() if not benchmark.per_item}
        self.same_items = {name: benchmark.task for name, benchmark in self.tasks.items()}
        self.candidates = Candidates(setting.space, self.config.genome.parents(), setting.parents)

    def rng(self, purpose: str) -> np.random.Generator:
        """A generator of its own for each purpose, so that one more draw in one does not shift another."""
        return np.random.default_rng([self.config.merge3.seed, *purpose.encode()])

    def evaluate(
        self,
        label: str,
        candidate: Candidate,
        purpose: str,
        items: Mapping[str, Sequence[str]],
        whole: Iterable[str] = (),
        assess: Assess | None = None,
    ) -> Evaluation:
        """As `Evaluator.evaluate`, and the watcher hears of it. Raises Interrupted where a person stopped the run."""
        if self.watcher.interrupted():
            self.setting.evaluator.drop()
            raise Interrupted
        evaluation = self.setting.evaluator.evaluate(candidate, purpose, items, whole, assess)
        self.watcher.evaluated(label, evaluation)
        return evaluation

    def evaluate_each(
        self,
        candidates: Mapping[str, Candidate],
        purpose: str,
        items: Mapping[str, Sequence[str]],
        whole: Sequence[str] = (),
    ) -> Iterator[tuple[str, Evaluation]]:
        """`evaluate` for one after another, by label; several live models share them."""
        for candidate in candidates.values():
            self.setting.evaluator.begin(candidate, purpose, items, whole)
        for label, candidate in candidates.items():
            yield label, self.evaluate(label, candidate, purpose, items, whole)

    def answers(self, candidates: Iterable[Candidate], task: str, items: Sequence[str]) -> dict[str, Scores]:
        """The recorded scores of each candidate on these items, by its id."""
        return {c.id: self.setting.evaluator.answers(c, task, items) for c in candidates}
