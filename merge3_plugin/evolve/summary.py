"""What a run found, as plain JSON: for people's tables, and for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from merge3_plugin.domain import Estimate
from merge3_plugin.estimate.design import sample_mean
from merge3_plugin.estimate.paired import PairedDifference
from merge3_plugin.evolve.assessor import RECALIBRATION, SEARCH
from merge3_plugin.evolve.confirm import Confirmed
from merge3_plugin.evolve.run import Outcome
from merge3_plugin.evolve.search import Improvement
from merge3_plugin.evolve.setting import Setting


def summarise(setting: Setting, outcome: Outcome) -> dict[str, Any]:
    """The content of ``summary.json``.

    ``models`` lists every confirmed model with its estimates (of the search items' accuracy; a parent's is exact) and
    its held-out accuracies: two populations, never subtracted here. ``search`` says how the best was found, with paired
    differences on the anchors, in accuracy. ``cost`` counts item evaluations; ``full`` is what the same candidates
    would have cost on every search item.
    """
    confirmation = outcome.confirmation
    verdict = confirmation.verdict if confirmation else None
    return {
        "state": outcome.state,
        "search_ended": outcome.result.reason,
        "seed": setting.config.merge3.seed,
        "versions": setting.store.meta()["versions"],
        "tasks": {o.name: _task(setting, o) for o in outcome.objectives.items},
        "whole_tasks": dict(outcome.objectives.whole),
        "search": _search(setting, outcome),
        "models": [_model(setting, outcome, entry) for entry in (confirmation.models if confirmation else ())],
        "winner": {"candidate": outcome.winner.id, "recipe": outcome.winner.recipe},
        "verdict": None
        if verdict is None
        else {
            "text": verdict.text,
            "winner": verdict.winner.label,
            "best_parent": verdict.best_parent.label,
            "against_best_parent": _difference(verdict.against_parent),
            "against_uniform": _difference(verdict.against_uniform),
        },
        "cost": _cost(setting, outcome),
    }


def _task(setting: Setting, objective: Any) -> dict[str, Any]:
    benchmark = setting.benchmarks[objective.name]
    return {
        "task": benchmark.task,
        "metric": f"{benchmark.items.metric},{benchmark.items.filter}",
        "weight": objective.weight,
        "items": len(benchmark.item_ids),
        "search_items": len(objective.population.search),
        "held_out_items": len(objective.population.held_out),
        "anchors": len(objective.anchors),
        "anchor_method": objective.calibration.anchors.method,
    }


def _search(setting: Setting, outcome: Outcome) -> dict[str, Any]:
    events = setting.store.events()
    return {
        "improvements": [_improvement(found) for found in outcome.improvements],
        # The search's own merges that the anchors cannot tell from the best of them, this one included.
        "contenders": len(outcome.contenders),
        "merges": outcome.merges,
        "soft_scores": {o.name: dict(events)[f"soft scores {o.name}"] for o in outcome.objectives.items},
        "recalibrations": [body for name, body in events if name.startswith(RECALIBRATION)],
    }


def _improvement(found: Improvement) -> dict[str, Any]:
    assessment = found.best.assessment
    return {
        "candidates": found.number,
        "candidate": found.best.candidate.id,
        "fitness": None if assessment is None else assessment.fitness,
        "against_previous": _difference(found.against_previous),
        "against_uniform": _difference(found.against_uniform),
    }


def _model(setting: Setting, outcome: Outcome, entry: Confirmed) -> dict[str, Any]:
    return {
        "label": entry.label,
        "candidate": entry.candidate,
        "estimated": {task: asdict(estimate) for task, estimate in _estimates(setting, outcome, entry).items()},
        "held_out": {task: asdict(accuracy) for task, accuracy in entry.accuracies.items()},
        "held_out_overall": entry.overall,
    }


def _estimates(setting: Setting, outcome: Outcome, entry: Confirmed) -> dict[str, Estimate]:
    """By the calibrations of the search's end."""
    if entry.label in setting.parents:
        return _exact(setting, outcome, entry)
    mean = outcome.confirmation.mean if outcome.confirmation else None
    searched = [*outcome.result.scored, *([mean] if mean else [])]
    found = (s.assessment for s in searched if s.candidate.id == entry.candidate)
    return next((assessment.estimates for assessment in found if assessment is not None), {})


def _exact(setting: Setting, outcome: Outcome, parent: Confirmed) -> dict[str, Estimate]:
    """A parent's accuracy on the search items: it was scored on all of them."""
    exact = {}
    for objective in outcome.objectives.items:
        own = objective.parents.models([parent.candidate])
        exact[objective.name] = sample_mean(
            own.values[0], own.n_items, weights=own.item_weights, method="all search items"
        )
    return exact


def _difference(difference: PairedDifference | None) -> dict[str, Any] | None:
    return None if difference is None else asdict(difference)


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
