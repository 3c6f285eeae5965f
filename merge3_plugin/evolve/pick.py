"""One member of a run's front by preference, and its model."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from merge3_plugin.config import parse_config
from merge3_plugin.errors import ConfigError, RunError, nearest
from merge3_plugin.evolve.files import replace_folder
from merge3_plugin.evolve.front_files import FRONT
from merge3_plugin.evolve.guard import fingerprint
from merge3_plugin.evolve.optimizers.scalarised import RHO
from merge3_plugin.evolve.recipe import to_yaml
from merge3_plugin.evolve.setup import Flags, make_merger
from merge3_plugin.evolve.store import RunStore

RECIPE, MODEL = "recipe.yaml", "model"


def read_front(folder: Path) -> dict[str, Any]:
    """The front of a finished run. Raises RunError for a folder without a run, or a run without a front."""
    RunStore.open(folder).close()
    if (folder / FRONT).is_file():
        return dict(json.loads((folder / FRONT).read_text(encoding="utf-8")))
    if not (folder / "summary.json").is_file():
        raise RunError(
            f"{folder}: expected a finished run, got one without a result; the command that began it goes on"
        )
    raise RunError(
        f"{folder}: expected a run of several objectives, got one of a single best merge, which is in final_model/; "
        "search with merge3.search.optimizer: nsga2, or with scalarisation: parego, to choose among compromises"
    )


def read_preferences(text: str, front: Mapping[str, Any]) -> dict[str, float]:
    """``math=2,ja=1`` as weights by objective that add up to 1; those not named weigh nothing.

    Raises ConfigError for anything else, and for names that are no objective with scores by item.
    """
    known = tasks(front)
    weights: dict[str, float] = {}
    # A task under one of several metrics has a comma in its name.
    parts = re.findall(r"([^=]+)=([^=,]+)(?:,|$)", text)
    if ",".join(f"{name}={value}" for name, value in parts) != text:
        raise ConfigError(f"--prefer: expected TASK=WEIGHT,... as in math=2,ja=1, got {text!r}")
    for name, value in parts:
        try:
            weight = float(value)
        except ValueError:
            raise ConfigError(f"--prefer: expected a number as the weight of {name}, got {value!r}") from None
        if name not in known:
            raise ConfigError(f"--prefer: expected an objective of the run, got {name!r}{nearest(name, known)}")
        if name in weights or not 0 <= weight < float("inf"):
            raise ConfigError(f"--prefer: expected each task once with a weight of at least 0, got {text!r}")
        weights[name] = weight
    total = sum(weights.values())
    if not total:
        raise ConfigError(f"--prefer: expected a weight above 0, got {text!r}")
    return {task: weights.get(task, 0.0) / total for task in known}


def tasks(front: Mapping[str, Any]) -> list[str]:
    """The objectives with scores by item."""
    scored = set().union(*(member["estimated"] for member in front["members"]))
    return [task for task in front["objectives"] if task in scored]


def figures(front: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By label and task, the accuracies by which members are compared, with their intervals.

    They are held-out ones, and of members that were not confirmed the estimates, less what the search thought too much
    of the confirmed ones on average: what is the best of many flatters, and is of other items.
    """
    found: dict[str, dict[str, Any]] = {member["label"]: {} for member in front["members"]}
    confirmed = [member for member in front["members"] if member["held_out"]]
    for task in tasks(front):
        excess = [m["estimated"][task]["accuracy"] - m["held_out"][task]["accuracy"] for m in confirmed]
        shift = sum(excess) / len(excess) if excess else 0.0
        for member in front["members"]:
            found[member["label"]][task] = member["held_out"].get(task) or _less(member["estimated"][task], shift)
    return found


def _less(estimate: Mapping[str, Any], shift: float) -> dict[str, Any]:
    accuracy, low, high = (min(max(x - shift, 0.0), 1.0) for x in (estimate["accuracy"], *estimate["interval"]))
    return {"accuracy": accuracy, "interval": (low, high)}


def regrets(front: Mapping[str, Any], preferences: Mapping[str, float]) -> dict[str, float]:
    """By label, how far each eligible member is from having the best of everything; the least fits best.

    Eligible are the members that keep to the constraints, or all, where none does. A member's regret in a task is the
    distance of its accuracy (`figures`), in points, to the best eligible one; what counts is the greatest of them
    times its weight, and RHO times their weighted sum (augmented Chebyshev: Steuer and Choo, Math. Programming 26,
    1983). Unlike a weighted mean, which on a front that bends inwards knows the extremes alone, this has weights for
    every compromise; and unlike shares of the front's range, points make no much of a task in which all are alike.
    """
    members = [m for m in front["members"] if m["feasible"]] or front["members"]
    of_all, found = figures(front), {}
    of = {member["label"]: of_all[member["label"]] for member in members}
    for label, own in of.items():
        missed = []
        for task, weight in preferences.items():
            sign = front["objectives"][task]
            best = max(sign * other[task]["accuracy"] for other in of.values())
            missed.append(weight * (best - sign * own[task]["accuracy"]))
        found[label] = max(missed) + RHO * sum(missed)
    return found


def choose(front: Mapping[str, Any], preferences: Mapping[str, float]) -> str:
    """The label of the member of least regret; of equals, the one of the greatest mean accuracy, then the first."""
    found, of = regrets(front, preferences), figures(front)

    def mean(label: str) -> float:
        return sum(front["objectives"][task] * of[label][task]["accuracy"] for task in preferences)

    return min(found, key=lambda label: (found[label], -mean(label)))


def write_model(folder: Path, candidate: str, out: Path, flags: Flags) -> None:
    """Merge the candidate of the run in ``folder`` as the run did, and write the model and its recipe to ``out``.

    Raises RunError where ``out`` holds something else, or where the parents are no longer what the run scored.
    """
    out = out.absolute()
    if out.exists() and not _replaceable(out):
        raise RunError(
            f"{out}: expected a new or empty folder, or one of an earlier pick, got something else; name another"
        )
    store = RunStore.open(folder)
    try:
        meta, recipe = store.meta(), store.recipe(candidate)
    finally:
        store.close()
    if recipe is None:
        raise RunError(f"{folder}: expected the recipe of {candidate} in the record, got none; run the search again")
    config = parse_config(meta["config"], str(folder))
    merger = make_merger(config, folder, flags)
    for place, name in enumerate(config.genome.parents()):
        if meta[f"model {place}"] != [fingerprint(part) for part in merger.folders(name)]:
            raise RunError(f"{name}: expected the model that the run merged, it has changed; search again")
    merger.merge(recipe)
    text = to_yaml(
        recipe,
        random_seed=config.merge3.seed,
        flags=merger.flags,
        recipe_file=RECIPE,
        model_folder=MODEL,
    )

    def save(target: Path) -> None:
        merger.save(target)
        (target / RECIPE).write_text(text, encoding="utf-8")

    replace_folder(out, save)


def _replaceable(out: Path) -> bool:
    """Whether a folder is empty, or was written by an earlier pick."""
    if not out.is_dir():
        return False
    recipe = out / RECIPE
    return not any(out.iterdir()) or (recipe.is_file() and recipe.read_text(encoding="utf-8").startswith("# mergekit"))
