"""The phase of a run that scores what it confirmed on tasks that the search never saw: what the merge costs there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from merge3_plugin.domain import Estimate
from merge3_plugin.estimate.paired import PairedDifference
from merge3_plugin.evolve.confirm import Confirmed, Scale, balance_of
from merge3_plugin.evolve.evaluate import Candidate
from merge3_plugin.evolve.population import drawn_items
from merge3_plugin.evolve.stage import Stage
from merge3_plugin.evolve.store import FAILED

HELD_OUT_TASKS = "held-out tasks"


@dataclass(frozen=True, eq=False)
class OnHeldOutTasks:
    """One model: its accuracy by task, and its value by task where the metric is one of the whole set."""

    label: str
    candidate: str
    accuracies: Mapping[str, Estimate]
    whole: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Transfer:
    """Every model on the held-out tasks, and the winner's paired differences there: label of the other -> task -> it.

    ``items`` says of how many items the figures are. Nothing was chosen by them, so each interval holds by itself.
    """

    items: Mapping[str, int]
    models: Sequence[OnHeldOutTasks] = ()
    against: Mapping[str, Mapping[str, PairedDifference]] = field(default_factory=dict)


def score_held_out_tasks(stage: Stage, models: Mapping[str, Candidate], winner: str, others: Sequence[str]) -> Transfer:
    """Score ``models`` (by label) on the held-out tasks: all of their items, or ``limit`` of them, drawn by the seed.

    The ``winner`` is compared with the ``others``. Raises Interrupted where a person stops it.
    """
    by_item = {name: benchmark for name, benchmark in stage.setting.held_out_tasks.items() if benchmark.per_item}
    whole = [name for name in stage.setting.held_out_tasks if name not in by_item]
    config = stage.config
    items = {
        name: drawn_items(benchmark.item_ids, benchmark.item_groups, seed=config.merge3.seed, limit=config.limit)
        for name, benchmark in by_item.items()
    }
    scale = Scale(dict.fromkeys(by_item, 1.0), balance_of(by_item, items))
    stage.watcher.phase(HELD_OUT_TASKS, len(models))
    seen: dict[str, Confirmed] = {}
    found = []
    for label, evaluation in stage.evaluate_each(models, HELD_OUT_TASKS, items, whole):
        if evaluation.state == FAILED:
            continue
        candidate = models[label]
        answers = {t: stage.setting.evaluator.answers(candidate, t, ids).right for t, ids in items.items()}
        accuracies = {}
        if items:
            seen[label] = scale.confirmed(label, candidate.id, answers)
            accuracies = dict(seen[label].accuracies)
        found.append(OnHeldOutTasks(label, candidate.id, accuracies, evaluation.whole))
    against = {other: scale.by_task(seen[winner], seen[other]) for other in others if other in seen and winner in seen}
    sizes = {name: len(items.get(name, benchmark.item_ids)) for name, benchmark in stage.setting.held_out_tasks.items()}
    return Transfer(sizes, found, against)
