"""How each tensor of a merge is made. By that, recipes that are written differently are told to be of one merge."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mergekit import merge_methods
from mergekit.merge_methods import GeneralizedTaskArithmeticMerge
from mergekit.merge_methods.base import BasePolicy

from merge3_plugin.merging.documents import plan_recipe
from merge3_plugin.merging.parents import Family
from merge3_plugin.merging.plan import Job

# Numbers that are nearer than this make the same merge: float32 tells none nearer from 1.
SAME = 2.0**-24
# Settings of how a merge is computed, which change nothing of what it is.
_MEANS = ("int8_mask",)


@dataclass(frozen=True)
class Made:
    """The tensor ``name`` of a merged model: its ``method``, and the models' tensors that it is made of, by model.

    ``layer`` is its place in the merged model's stack: -1 before it, the number of layers after it; ``of`` is the place
    of its first input in the parents'. ``shared`` parameters are the method's, ``own`` those of each model. ``base`` is
    None where the method knows none.
    """

    name: str
    layer: int
    of: int
    method: str
    base: str | None
    inputs: Mapping[str, str]
    shared: Mapping[str, Any]
    own: Mapping[str, Mapping[str, Any]]

    def value(self, parameter: str, model: str | None) -> Any:
        """A parameter of a model (None: of all); a model that takes no part has weight 0. None where there is none."""
        if model is None:
            return self.shared.get(parameter)
        return self.own.get(model, {"weight": 0.0}).get(parameter)

    def turned(self, base: str) -> Made:
        """Of slerp between two models, the same from the ``base`` on."""
        return (
            self if self.base == base else replace(self, base=base, shared={**self.shared, "t": 1 - self.shared["t"]})
        )


def made(recipe: Mapping[str, Any], family: Family) -> list[Made]:
    """Every tensor of the recipe's merge, of a ``family`` whose weights need not be there, layer by layer.

    Raises ValueError or RuntimeError for a recipe that mergekit would refuse, or that merges a model with itself.
    """
    jobs, stack = plan_recipe(recipe, family)
    ours = [family.pre, *(family.layer(place, of) for place, of in enumerate(stack)), family.post]
    theirs = [family.pre, *family.layers, family.post]
    place, of = ({w.name: i - 1 for i, weights in enumerate(those) for w in weights} for those in (ours, theirs))
    found = [_made(job, place[job.output.name], of[job.inputs[0].name]) for job in jobs]
    return sorted(found, key=lambda one: one.layer)


def _made(job: Job, layer: int, of: int) -> Made:
    settings = job.settings
    if len(set(settings.names)) < len(settings.names):
        raise ValueError(f"{settings.names[0]} merged with itself")
    method = settings.method.spec
    base = settings.base_name if method.contract.base in (BasePolicy.REQUIRED, BasePolicy.OPTIONAL) else None
    inputs = dict(zip(settings.names, (weight.name for weight in job.inputs), strict=True))
    own = dict(zip(settings.names, job.own, strict=True))
    return Made(job.output.name, layer, of, method.name, base, inputs, job.shared, own)


def difference(theirs: Sequence[Made], ours: Sequence[Made]) -> str | None:
    """The first thing in which two merges differ, as a person would say it; None where they are the same.

    The order of models is none, nor is a model of weight 0, nor a factor of weights that are normalised.
    """
    depth, here = (max(one.layer for one in merge) for merge in (theirs, ours))
    if depth != here:
        return f"{depth} layers, where the nearest of this space has {here}"
    by_name = {one.name: one for one in ours}
    for one in theirs:
        if reason := _differs(_plain(one), _plain(by_name[one.name])):
            return f"{one.name} {reason}"
    return None


def _differs(theirs: Made, ours: Made) -> str | None:
    if theirs.method != ours.method:
        if (copied := _copied(theirs)) and copied == _copied(ours):
            return None
        return f"by {theirs.method}, where the nearest of this space is by {ours.method}"
    everyone = {**theirs.inputs, **ours.inputs}
    for model in everyone:
        if theirs.value("weight", model) == ours.value("weight", model) == 0:
            continue
        one, other = theirs.inputs.get(model), ours.inputs.get(model)
        if one != other and not (None in (one, other) and any("weight" in own for own in theirs.own.values())):
            return f"of {one or 'nothing'} of {model}, where the nearest of this space is of {other or 'nothing'}"
        names = {**theirs.own.get(model, {}), **ours.own.get(model, {})}
        if reason := _values(theirs, ours, sorted(names, key=lambda name: name != "weight"), model):
            return reason
    if theirs.base != ours.base:
        return f"from {theirs.base}, where the nearest of this space is from {ours.base}"
    return _values(theirs, ours, theirs.shared, None)


def _values(theirs: Made, ours: Made, names: Iterable[str], model: str | None) -> str | None:
    """The first of these parameters that differs."""
    for name in names:
        value, nearest = theirs.value(name, model), ours.value(name, model)
        if not _same(value, nearest):
            of = f" of {model}" if model else ""
            return f"with {name} {_said(value)}{of}, where the nearest of this space has {_said(nearest)}"
    return None


def _plain(one: Made) -> Made:
    """The same tensor, as it is written in one way only."""
    shared = {name: value for name, value in one.shared.items() if name not in _MEANS}
    own = one.own
    if one.method == "slerp":
        return one.turned(min(one.inputs))
    if one.method == "linear":
        total = sum(values["weight"] for values in own.values()) if shared.pop("normalize") else 1.0
        own = {model: {"weight": values["weight"] / (total or 1.0)} for model, values in own.items()}
    if one.method == "passthrough":
        own = {model: {"scale": 1.0 if values["scale"] is None else values["scale"]} for model, values in own.items()}
    return replace(one, shared=shared, own=own)


def _copied(one: Made) -> tuple[str, str] | None:
    """The model, and its tensor, of which a tensor is a copy; None where it is none, or not seen to be one."""
    found: str | None = None
    if one.method == "passthrough":
        found = next((model for model in one.inputs if one.value("scale", model) == 1), None)
    elif isinstance(merge_methods.get(one.method), GeneralizedTaskArithmeticMerge):
        found = None if any(one.value("weight", model) for model in one.inputs if model != one.base) else one.base
    return (found, one.inputs[found]) if found else None


def _same(value: Any, nearest: Any) -> bool:
    numbers = [isinstance(number, int | float) and not isinstance(number, bool) for number in (value, nearest)]
    return abs(value - nearest) <= SAME * max(1.0, abs(value)) if all(numbers) else bool(value == nearest)


def _said(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
