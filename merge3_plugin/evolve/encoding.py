"""Recipes that anybody may have written, as vectors of a space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from merge3_plugin.domain import FloatArray
from merge3_plugin.errors import ConfigError
from merge3_plugin.evolve.spaces import Space

if TYPE_CHECKING:
    from merge3_plugin.merging.parents import Family

# They say with which vocabulary and what around the weights a model is saved, not how tensors are merged.
_VOCABULARY = ("tokenizer_source", "tokenizer")


def encoded(recipe: Mapping[str, Any], space: Space, family: Family | None) -> FloatArray:
    """A vector whose recipe is this one, or another of the same merge; its dtype is the run's.

    ``family`` are the parents, with or without weights; where it is None, only recipes written as the space writes them
    can be told. Raises ConfigError that says what of the merge the space does not have.
    """
    from merge3_plugin.merging.made import difference, made
    from merge3_plugin.merging.references import one_line

    try:
        return space.encode(recipe)
    except ConfigError:
        if family is None:
            raise ConfigError("a recipe of another form, of an architecture that only its weights tell of") from None
    try:
        merge = made(recipe, family)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(one_line(error)) from None
    vector = space.nearest(merge)
    ours = space.decode(vector)
    for key in _VOCABULARY:
        if recipe.get(key) is not None and recipe[key] != ours.get(key):
            raise ConfigError(f"{key} {recipe[key]}, where genome has {ours.get(key) or 'none'}")
    if reason := difference(merge, made(ours, family)):
        raise ConfigError(reason)
    return vector
