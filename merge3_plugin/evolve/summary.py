"""What a run found, as plain JSON: for people's tables, and for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from merge3_plugin.domain import Estimate
from merge3_plugin.estimate.design import sample_mean
from merge3_plugin.estimate.paired import PairedDifference
from merge3_plugin.evolve.assessor import RECALIBRATION, spent_by_search
from merge3_plugin.evolve.baselines import BASELINES, CONFIRMED, Compared
from merge3_plugin.evolve.confirm import Confirmed
from merge3_plugin.evolve.confirmation import Confirmation
from merge3_plugin.evolve.front_files import described
from merge3_plugin.evolve.held_out_tasks import HELD_OUT_TASKS, Transfer
from merge3_plugin.evolve.optimism import mean_optimism
from merge3_plugin.evolve.run import Outcome
from merge3_plugin.evolve.search import Improvement
from merge3_plugin.evolve.setting import Setting


def summarise(setting: Setting, outcome: Outcome) -> dict[str, Any]:
    """The content of ``summary.json``.

    ``models`` lists every confirmed model, baselines included, with its estimates (of the search items' accuracy; a
    parent's is exact) and its held-out accuracies: two populations, whose difference for what the search found is its
    ``optimism``. ``search`` says how the best was found, with paired differences on the anchors, in accuracy.
    ``baselines`` holds what the winner is worth more than simple merges, ``held_out_tasks`` all models on tasks that
    chose nothing. ``cost`` counts item evaluations (see `_cost`).
    """
    found = outcome.confirmation
    confirmed = [*found.models.values()] if found else []
    of_baselines = [model for each in outcome.baselines for model in each.models]
    return {
        "state": outcome.state,
        "search_ended": outcome.result.reason,
        "seed": setting.config.merge3.seed,
        "versions": setting.store.meta()["versions"],
        "tasks": {o.name: _task(setting, o) for o in outcome.objectives.items},
        "whole_tasks": dict(outcome.objectives.whole),
        "search": _search(setting, outcome),
        "models": [_model(setting, outcome, entry) for entry in (*confirmed, *of_baselines)],
        "winner": {"candidate": outcome.winner.id, "recipe": outcome.winner.recipe},
        "verdict": None if found is None else _verdict(found),
        "constraints": [asdict(kept) for kept in found.constraints] if found else [],
        "optimism": None if found is None else _optimism(found),
        "front": None if found is None or not found.front else _front(setting, outcome, found),
        "baselines": [_baseline(each) for each in outcome.baselines],
        "held_out_tasks": None if outcome.transfer is None else _transfer(setting, outcome.transfer),
        "cost": _cost(setting, outcome),
    }


def _verdict(found: Confirmation) -> dict[str, Any]:
    verdict = found.verdict
    return {
        "text": verdict.text,
        "winner": verdict.winner.label,
        "best_parent": verdict.best_parent.label,
        "against_best_parent": _difference(verdict.against_parent),
        "against_uniform": _difference(verdict.against_uniform),
    }


def _optimism(found: Confirmation) -> dict[str, Any]:
    of_finalists = [found.optimism[label] for label in found.finalists if label in found.optimism]
    return {
        "models": {label: asdict(each) for label, each in found.optimism.items()},
        "mean_of_finalists": asdict(mean_optimism(of_finalists)) if of_finalists else None,
        "finalists": len(of_finalists),
    }


def _front(setting: Setting, outcome: Outcome, found: Confirmation) -> dict[str, Any]:
    """Of several objectives; ``front.json`` says more."""
    content = described(setting, outcome.objectives, found)
    members = content["members"]
    return {
        "members": [member["label"] for member in members],
        "confirmed": sum(bool(member["held_out"]) for member in members),
        "hypervolume": content["hypervolume"],
    }


def _baseline(compared: Compared) -> dict[str, Any]:
    return {
        "name": compared.baseline.name,
        "what": compared.baseline.what,
        "models": [model.label for model in compared.models],
        "model": compared.best.label if compared.best else None,
        "winner_less_it": _difference(compared.against),
    }


def _transfer(setting: Setting, transfer: Transfer) -> dict[str, Any]:
    tasks = {}
    for name, items in transfer.items.items():
        benchmark = setting.held_out_tasks[name]
        metric = f"{benchmark.items.metric},{benchmark.items.filter}"
        tasks[name] = {"task": benchmark.task, "metric": metric, "items": items}
    return {
        "tasks": tasks,
        "models": [asdict(model) for model in transfer.models],
        "winner_less": {
            other: {task: asdict(difference) for task, difference in of_task.items()}
            for other, of_task in transfer.against.items()
        },
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
    """By the calibrations of the search's end; empty for what the search did not score."""
    if entry.label in setting.parents:
        return _exact(setting, outcome, entry)
    found = outcome.confirmation
    of_labels = {**found.finalists, **found.front} if found else {}
    searched = [*of_labels.values(), *outcome.result.scored]
    known = (s.assessment for s in searched if s.candidate.id == entry.candidate)
    return next((assessment.estimates for assessment in known if assessment is not None), {})


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
    """Item evaluations: of the search alone, of the whole run that it needs, and of what it is compared with.

    ``full_search_items`` are what the same candidates would have cost on every search item. Tokens are those that
    forward passes read. ``reused_items``, of the parents, were scored by an earlier run and are counted nowhere else.
    """
    spent, of_search = setting.store.spent(), spent_by_search(setting.store)
    items = {purpose: int(row["items"]) for purpose, row in spent.items()}
    in_full = {o.name: o.population.search for o in outcome.objectives.items}
    per_candidate = setting.scorer.price(in_full, outcome.objectives.whole).items
    candidates = len({s.candidate.id for s in outcome.result.scored})
    beside = sum(items.get(purpose, 0) for purpose in (BASELINES, CONFIRMED, HELD_OUT_TASKS))
    return {
        "by_phase": {
            purpose: {key: value for key, value in row.items() if key != "seconds"} for purpose, row in spent.items()
        },
        "items": sum(items.values()),
        "reused_items": sum(int(row["reused"]) for row in spent.values()),
        "candidates": candidates,
        "tokens": sum(int(row["tokens"]) for row in spent.values()),
        "search_tokens": of_search.tokens,
        "search_items": of_search.items,
        "run_items": sum(items.values()) - beside,
        "comparison_items": beside,
        "full_search_items": candidates * per_candidate,
    }
