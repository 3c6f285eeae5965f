"""The front of a run in its folder: ``front.json``, and a recipe for each member."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from merge3_plugin.domain import FloatArray
from merge3_plugin.evolve.confirm import Confirmed, balance_of
from merge3_plugin.evolve.confirmation import Confirmation
from merge3_plugin.evolve.constraints import feasible, kept
from merge3_plugin.evolve.files import replace_folder, replace_text
from merge3_plugin.evolve.front import hypervolume, non_dominated
from merge3_plugin.evolve.objectives import Objectives
from merge3_plugin.evolve.recipe import to_yaml
from merge3_plugin.evolve.setting import Setting

FRONT, RECIPES = "front.json", "front"


def write_front(setting: Setting, objectives: Objectives, found: Confirmation) -> None:
    """Write ``front.json`` (see `described`) and ``front/NAME.yaml``, the recipe of each member."""
    content = described(setting, objectives, found)

    def save(folder: Path) -> None:
        folder.mkdir()
        for member in content["members"]:
            file = Path(member["recipe"])
            text = to_yaml(
                found.front[member["label"]].candidate.recipe or {},
                random_seed=setting.config.merge3.seed,
                flags=setting.merger.flags,
                recipe_file=file.name,
                model_folder=file.stem,
            )
            (folder / file.name).write_text(text, encoding="utf-8")

    replace_folder(setting.folder / RECIPES, save)
    replace_text(setting.folder / FRONT, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def described(setting: Setting, objectives: Objectives, found: Confirmation) -> dict[str, Any]:
    """The content of ``front.json``.

    ``objectives`` are the tasks with the sign of their weights; ``members``, extremes first, have estimates and
    held-out accuracies by task, metrics of the whole set, and what became of each constraint. ``feasible`` are those
    that keep to all constraints on the held-out items. ``non_dominated`` are those of them (of all, where none is) that
    no other dominates there; a metric of the whole set counts as measured. ``hypervolume`` is what the accuracies of
    the feasible members, and of the feasible parents, dominate above the fixed ``reference``.

    Members that were not confirmed have nothing ``held_out``; they are ``feasible`` by their estimates, and count for
    nothing else.
    """
    parents = [found.models[label] for label in setting.parents]
    members = _members(setting, objectives, found, parents)
    confirmed = [member for member in members if member["held_out"]]
    allowed = [member for member in confirmed if member["feasible"]]
    competing = allowed or confirmed
    values = np.array([_values(objectives.signs, member) for member in competing])
    for member, alone in zip(competing, non_dominated(values), strict=True):
        member["non_dominated"] = bool(alone)
    reference = _reference(setting, objectives)
    by_candidate = _by_candidate(found)
    of_members = [by_candidate[member["candidate"]] for member in allowed]
    of_parents = [parent for parent in parents if feasible(objectives.floors, parent, parents)]
    return {
        "objectives": objectives.signs,
        "members": members,
        "hypervolume": {
            "held_out": _volume(objectives.signs, reference, of_members),
            "parents": _volume(objectives.signs, reference, of_parents),
            "reference": reference,
        },
    }


def _members(
    setting: Setting, objectives: Objectives, found: Confirmation, parents: Sequence[Confirmed]
) -> list[dict[str, Any]]:
    held_out = {o.name: o.population.held_out for o in objectives.items}
    balance = balance_of(setting.benchmarks, held_out)
    confirmed, asked = _by_candidate(found), {candidate.id for candidate in found.candidates.values()}
    members = []
    for label, entry in found.front.items():
        model = confirmed.get(entry.candidate.id)
        if (model is None and entry.candidate.id in asked) or entry.assessment is None:
            continue
        constraints = kept(objectives.floors, model, parents, balance=balance) if model else []
        keeps = all(each.holds for each in constraints) if model else entry.assessment.violation <= 0
        members.append(
            {
                "label": label,
                "candidate": entry.candidate.id,
                "recipe": f"{RECIPES}/{label.replace(' ', '-')}.yaml",
                "estimated": {task: asdict(estimate) for task, estimate in entry.assessment.estimates.items()},
                "whole": dict(entry.assessment.whole),
                "held_out": {task: asdict(accuracy) for task, accuracy in model.accuracies.items()} if model else {},
                "constraints": [asdict(each) for each in constraints],
                "feasible": keeps,
                "non_dominated": False if model else None,
            }
        )
    return members


def _by_candidate(found: Confirmation) -> dict[str, Confirmed]:
    """What was confirmed: a member may have been so as a finalist, or as a parent."""
    return {model.candidate: model for model in found.models.values()}


def _values(signs: Mapping[str, float], member: Mapping[str, Any]) -> list[float]:
    figures = {task: figure["accuracy"] for task, figure in member["held_out"].items()} | member["whole"]
    return [sign * figures[task] for task, sign in signs.items()]


def _reference(setting: Setting, objectives: Objectives) -> dict[str, float]:
    """By task with scores by item: from which accuracy on the volume counts, by default from the worst there is."""
    own = setting.config.merge3.reference
    worst = {o.name: 0.0 if objectives.signs[o.name] > 0 else 1.0 for o in objectives.items if o.weight}
    return {task: own.get(task, value) for task, value in worst.items()}


def _volume(signs: Mapping[str, float], reference: Mapping[str, float], models: Sequence[Confirmed]) -> float:
    def point(figures: Mapping[str, float]) -> list[float]:
        return [signs[task] * figures[task] for task in reference]

    values = [point({task: accuracy.accuracy for task, accuracy in m.accuracies.items()}) for m in models]
    return hypervolume(_array(values), _array(point(reference)))


def _array(values: Sequence[Any]) -> FloatArray:
    return np.array(values, dtype=np.float64)
