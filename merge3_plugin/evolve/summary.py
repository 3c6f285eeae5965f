"""What a run found, as plain JSON: for people's tables, and for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from merge3_plugin.domain import Estimate
from merge3_plugin.estimate.design import sample_mean
from merge3_plugin.estimate.paired import PairedDifference
from merge3_plugin.evolve.confirm import Confirmed
from merge3_plugin.evolve.run import MEAN, SEARCH, Outcome, Setting


def summarise(setting: Setting, outcome: Outcome) -> dict[str, Any]:
    """The content of ``summary.json``.

    ``models`` lists every confirmed model with its estimates (of the search items' accuracy; a parent's is exact) and
    its held-out accuracies: two populations, never subtracted here. ``cost`` counts item evaluations; ``full`` is what
    the same candidates would have cost on every search item.
    """
    verdict = outcome.verdict
    return {
        "state": outcome.state,
        "search_ended": outcome.result.reason,
        "seed": setting.config.merge3.seed,
        "versions": setting.store.meta()["versions"],
        "tasks": {o.name: _task(setting, o) for o in outcome.objectives.items},
        "whole_tasks": dict(outcome.objectives.whole),
        "models": [_model(setting, outcome, entry) for entry in outcome.confirmed],
        "winner": {"candidate": outcome.winner.id, "recipe": outcome.winner.recipe},
        "verdict": None
        if verdict is None
        else {
            "text": verdict.text,
            "winner": verdict.winner.label,
            "best_parent": verdict.best_parent.label,
            "against_best_parent": _difference(verdict.against_parent),
            "against_uniform": None if verdict.against_uniform is None else _difference(verdict.against_uniform),
        },
        "cost": _cost(setting, outcome),
    }


def _task(setting: Setting, objective: Any) -> dict[str, Any]:
    benchmark = setting.benchmarks[objective.name]
    return {
        "metric": f"{benchmark.items.metric},{benchmark.items.filter}",
        "weight": objective.weight,
        "items": len(benchmark.item_ids),
        "search_items": len(objective.population.search),
        "held_out_items": len(objective.population.held_out),
        "anchors": len(objective.anchors),
        "anchor_method": objective.calibration.anchors.method,
    }


def _model(setting: Setting, outcome: Outcome, entry: Confirmed) -> dict[str, Any]:
    if entry.label in setting.parents:
        estimates = _exact(setting, outcome, entry)
    else:
        searched = setting.store.find(entry.candidate, SEARCH) or setting.store.find(entry.candidate, MEAN)
        estimates = dict(searched.estimates) if searched else {}
    return {
        "label": entry.label,
        "candidate": entry.candidate,
        "estimated": {task: asdict(estimate) for task, estimate in estimates.items()},
        "held_out": {task: asdict(accuracy) for task, accuracy in entry.accuracies.items()},
        "held_out_overall": entry.overall,
    }


def _exact(setting: Setting, outcome: Outcome, parent: Confirmed) -> dict[str, Estimate]:
    """A parent's accuracy on the search items: it was scored on all of them."""
    exact = {}
    for objective in outcome.objectives.items:
        own = objective.parents.models([parent.candidate])
        exact[objective.name] = sample_mean(
            own.values[0], own.n_items, weights=own.item_weights, method="all search items"
        )
    return exact


def _difference(difference: PairedDifference) -> dict[str, Any]:
    return asdict(difference)


def _cost(setting: Setting, outcome: Outcome) -> dict[str, Any]:
    spent = setting.store.spent()
    per_candidate = sum(len(o.population.search) for o in outcome.objectives.items)
    candidates = len({s.candidate.id for s in outcome.result.scored})
    return {
        "by_phase": {
            purpose: {key: value for key, value in row.items() if key != "seconds"} for purpose, row in spent.items()
        },
        "items": sum(int(row["items"]) for row in spent.values()),
        "candidates": candidates,
        "search_items": int(spent.get(SEARCH, {}).get("items", 0)),
        "full_search_items": candidates * per_candidate,
    }
