"""Floors under the accuracy of tasks: what a merge must not give up for the rest.

The search takes an estimate at its word: a candidate is feasible where its estimates are not below their floors, and
how far they are below sums up to its violation. An interval instead would, at the noise of few anchors, leave either
nothing feasible or everything. So among many candidates lucky ones pass, and whether a constraint really holds is
decided by the confirmation, on items that chose nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from merge3_plugin.domain import Estimate
from merge3_plugin.errors import ConfigError, nearest
from merge3_plugin.estimate.paired import PairedDifference, paired_difference

if TYPE_CHECKING:
    from merge3_plugin.config import RunConfig
    from merge3_plugin.evolve.confirm import Balance, Confirmed

# Much less than an item counts: accuracies that are equal but for the order of a sum are equal.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Floor:
    """The accuracy on the search items that ``task`` must reach.

    It is that of the parent with the label ``below`` there, less ``fall``; or, where ``below`` is None, set by hand.
    """

    task: str
    accuracy: float
    below: str | None = None
    fall: float = 0.0


@dataclass(frozen=True)
class Kept:
    """Whether a model keeps to a constraint on the held-out items.

    ``floor`` is the one there: the parent's held-out accuracy less ``fall``. ``difference`` is paired against that
    parent, None where the floor was set by hand. ``holds`` goes by the accuracy itself; it is ``shown`` where the
    whole interval, of the difference or else of the accuracy, is on the same side of the floor.
    """

    task: str
    accuracy: Estimate
    floor: float
    below: str | None
    fall: float
    difference: PairedDifference | None
    holds: bool
    shown: bool


def floors(config: RunConfig, parents: Mapping[str, str], accuracy: Callable[[str, str], float]) -> list[Floor]:
    """The constraints of a run as floors, in their order.

    ``parents`` maps labels to the config's names; ``accuracy`` gives a parent's accuracy on all search items of a task,
    by (label, task). A constraint that names no parent is below the base model, or the parent that is best there.
    """
    found = []
    for constraint in config.merge3.constraints:
        if constraint.at_least is not None:
            found.append(Floor(constraint.task, constraint.at_least))
            continue
        label = _label(constraint.below or config.genome.base_model, parents)
        if label is None:
            label = max(parents, key=lambda parent: accuracy(parent, constraint.task))
        fall = constraint.fall or 0.0
        found.append(Floor(constraint.task, accuracy(label, constraint.task) - fall, label, fall))
    return found


def violation(floors: Iterable[Floor], accuracies: Mapping[str, float]) -> float:
    """How far ``accuracies`` (by task) lie below the floors, summed; 0.0 where every constraint holds."""
    return sum(max(0.0, floor.accuracy - accuracies[floor.task]) for floor in floors)


def kept(
    floors: Iterable[Floor],
    model: Confirmed,
    parents: Sequence[Confirmed],
    *,
    balance: Balance | None = None,
    confidence: float = 0.95,
) -> list[Kept]:
    """Each constraint on the held-out items of a confirmed ``model``; ``parents`` are the confirmed parents."""
    by_label = {parent.label: parent for parent in parents}
    return [_kept(floor, model, by_label, balance, confidence) for floor in floors]


def feasible(floors: Iterable[Floor], model: Confirmed, parents: Sequence[Confirmed]) -> bool:
    """Whether the held-out accuracies of ``model`` are not below any floor there."""
    return all(found.holds for found in kept(floors, model, parents))


def check_constraints(config: RunConfig, whole: Iterable[str]) -> None:
    """Raise ConfigError for a constraint that names no parent, or a task that a weight pulls below its floor.

    And for a task of ``whole``, of which nothing is held out. Nor has a task of these a place in the front's
    hypervolume, and so no reference.
    """
    parents, objectives = config.genome.parents(), config.objectives()
    for name in config.merge3.reference:
        if name in set(whole):
            raise ConfigError(
                f"merge3.reference: {name!r} is a metric of the whole set, which the volume on held-out items leaves "
                "out; give references of tasks that have scores by item"
            )
    for constraint in config.merge3.constraints:
        if constraint.below is not None and constraint.below not in parents:
            raise ConfigError(
                f"merge3.constraints: expected a parent of the merge to stay below, got {constraint.below!r}"
                f"{nearest(constraint.below, parents)}"
            )
        if (task := objectives.get(constraint.task)) is not None and task.weight < 0:
            raise ConfigError(
                f"merge3.constraints: {constraint.task} has a floor and the weight {task.weight:g}, which rewards what "
                "falls below it; give it a weight of 0 or more, or leave the floor out"
            )
        if constraint.task in set(whole):
            raise ConfigError(
                f"merge3.constraints: {constraint.task!r} is a metric of the whole set, so no items are held out to "
                "show that it holds; constrain a task that has scores by item"
            )


def _label(name: str | None, parents: Mapping[str, str]) -> str | None:
    return next((label for label, own in parents.items() if own == name), None)


def _kept(
    floor: Floor, model: Confirmed, parents: Mapping[str, Confirmed], balance: Balance | None, confidence: float
) -> Kept:
    accuracy, limit = model.accuracies[floor.task], floor.accuracy
    difference, (low, high) = None, (accuracy.interval[0] - limit, accuracy.interval[1] - limit)
    if floor.below is not None:
        parent = parents[floor.below]
        limit = parent.accuracies[floor.task].accuracy - floor.fall
        difference = paired_difference(
            {floor.task: model.answers[floor.task]},
            {floor.task: parent.answers[floor.task]},
            weights={floor.task: 1.0},
            balance=balance,
            confidence=confidence,
        )
        low, high = (end + floor.fall for end in difference.interval)
    holds = accuracy.accuracy >= limit - ROUNDING
    shown = low >= -ROUNDING if holds else high < 0
    return Kept(floor.task, accuracy, limit, floor.below, floor.fall, difference, holds, shown)
