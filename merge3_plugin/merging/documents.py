"""Recipes of several documents: merges by name, each with its method, and a selection among them layer by layer.

``mergekit-multi`` writes every named merge to disk in full and then copies from them what the selection names. Here
each tensor is merged once, by the document that it is selected from, straight into the live model. A selection is a
passthrough, not a linear merge with weights 0 and 1: that would read, and could be spoilt by, what is not selected.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mergekit.config import MergeConfiguration
from mergekit.sparsify import SparsificationMethod

from merge3_plugin.merging import MERGES, SELECT
from merge3_plugin.merging.parents import Family
from merge3_plugin.merging.plan import Job, jobs, plan, stack

_DRAWING = (SparsificationMethod.random, SparsificationMethod.della_magprune)


def plan_recipe(recipe: Mapping[str, Any], family: Family) -> tuple[list[Job], tuple[int, ...]]:
    """The jobs of a recipe of one document or of several, and for each layer which of the parents' it is made like.

    Several are ``{"merges": {name: recipe}, "select": recipe}``, all of the parents' depth. The selection is a
    ``passthrough`` of whole layers; embeddings come from the merge that its first slice names, final norm and output
    layer from that of the last. Raises ValueError or RuntimeError for a recipe that mergekit would refuse, for another
    selection, and for a method that draws at random, whose draws depend on the tensors that are not selected.
    """
    if MERGES not in recipe:
        config = MergeConfiguration.model_validate(recipe)
        return plan(config, family), stack(config, len(family.layers))
    merges = {name: _merge(name, one, family) for name, one in recipe[MERGES].items()}
    select = MergeConfiguration.model_validate(recipe.get(SELECT, {}))
    return _selected(select, merges, family), _whole(SELECT, select, family)


def _merge(name: str, recipe: Mapping[str, Any], family: Family) -> dict[str, Job]:
    """The jobs of one document by the name of their output."""
    config = MergeConfiguration.model_validate(recipe)
    _whole(name, config, family)
    planned = plan(config, family)
    if any(getattr(job.settings.method, "sparsification_method", None) in _DRAWING for job in planned):
        raise ValueError(f"{name} with {config.merge_method}, which draws at random; merge with it in one document")
    return {job.output.name: job for job in planned}


def _selected(select: MergeConfiguration, merges: Mapping[str, Mapping[str, Job]], family: Family) -> list[Job]:
    plain = {"merge_method": "passthrough", "slices": select.slices, "base_model": select.base_model}
    if select != MergeConfiguration.model_validate(plain):
        raise ValueError(f"{SELECT} other than a passthrough of slices, with no setting but base_model")
    found = []
    for job in jobs(select, family):
        (name,), (weight,) = job.settings.names, job.inputs
        if name not in merges or not job.settings.plain:
            raise ValueError(f"{SELECT} of {name!r}, where each slice is one of {', '.join(merges)} as it is")
        found.append(merges[name][weight.name])
    return found


def _whole(name: str, config: MergeConfiguration, family: Family) -> tuple[int, ...]:
    layers = stack(config, len(family.layers))
    if layers != tuple(range(len(family.layers))):
        raise ValueError(f"{name} with layers {list(layers)}, where documents keep the parents' layers in their place")
    return layers
