"""Pruning healed by merging (GPTailor): some layers go, each that stays is made of several models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from merge3_plugin.config.spaces import PruneSpaceConfig
from merge3_plugin.domain import FloatArray
from merge3_plugin.errors import ConfigError
from merge3_plugin.evolve.labels import labels
from merge3_plugin.evolve.spaces.stacks import check_models, inner_layers, layers_of, recipe, slices
from merge3_plugin.evolve.spaces.unused import refuse_unused
from merge3_plugin.evolve.spaces.variables import Kind, Variable, settled, start

if TYPE_CHECKING:
    from merge3_plugin.config import RunConfig
    from merge3_plugin.merging.made import Made


class _Mix(NamedTuple):
    """The models that a layer is made of, and the weight of each one's difference from the base, where several."""

    models: tuple[str, ...] = ()
    weight: float = 1.0


class PruneSpace:
    """Models of ``remove`` layers fewer than the parents.

    Variables: for each layer that is not frozen how much it is worth to ``keep`` it, the ``remove`` lowest go (of
    equals, the earlier); for every layer which models are on, and a ``scale``, which count where it stays. No model on:
    the base's layer; one: that model's; several: the base's plus ``scale`` times the sum of their differences from it.
    Embeddings, final norm and output layer are the base's. A search starts at the base without its last layers before
    the frozen ones, which models miss least (2403.17887).

    The recipe is a task arithmetic. A layer of one model is a slice that names this model its base, which mergekit
    copies bit for bit. Raises ConfigError where config and depth do not fit each other.
    """

    def __init__(self, config: RunConfig, n_layers: int, *, dtype: str) -> None:
        space = config.merge3.space
        self._space = space if isinstance(space, PruneSpaceConfig) else PruneSpaceConfig(kind="prune", remove=1)
        refuse_unused(config)
        check_models(config.genome)
        if config.genome.base_model is None:
            raise ConfigError("genome.base_model: the space prune needs the model that the others were made from")
        self._genome, self._n_layers, self._dtype = config.genome, n_layers, dtype
        self._base = config.genome.base_model
        self._models = [model for model in config.genome.models if model != self._base]
        if not self._models:
            raise ConfigError("genome.models: expected a model beside the base, got none; name one")
        self._removable = inner_layers(n_layers, self._space.frozen_first, self._space.frozen_last)
        if self._space.remove > len(self._removable) or self._space.remove == n_layers:
            most = min(len(self._removable), n_layers - 1)
            raise ConfigError(
                f"merge3.space.remove: expected at most {most} of {n_layers} layers, {n_layers - len(self._removable)} "
                f"of which are frozen, got {self._space.remove}"
            )

    @cached_property
    def variables(self) -> tuple[Variable, ...]:
        """Named as ``layer 3 keep``, ``layer 3 model_1`` and ``layer 3 scale``."""
        names = labels(self._models)
        # So near each other that first steps of 1/6 reach other choices.
        worth = np.linspace(0.75, 0.25, len(self._removable))
        found = []
        for index in range(self._n_layers):
            if index in self._removable and self._chosen:
                found.append(Variable(f"layer {index} keep", 0.0, 1.0, float(worth[index - self._removable[0]])))
            found += [Variable(f"layer {index} {names[model]}", 0, 1, 0, Kind.INTEGER) for model in self._models]
            if len(self._models) > 1:
                found.append(Variable(f"layer {index} scale", 0.0, 1.0, 1 / len(self._models)))
        return tuple(found)

    def decode(self, vector: Sequence[float] | FloatArray) -> dict[str, Any]:
        """The recipe of a vector. Raises ValueError for a vector of another length or with NaN or infinity."""
        worth, mixes = self._read(settled(self.variables, vector))
        gone = set(sorted(self._removable, key=lambda index: (worth[index], index))[: self._space.remove])
        layers = [(mix, index) for index, mix in enumerate(mixes) if index not in gone]
        made = slices(layers, self._n_layers, base=_Mix(), keeps_base=lambda mix: not mix.models, write=self._slice)
        return recipe("task_arithmetic", made, self._genome, self._base, self._dtype)

    def encode(self, recipe: Mapping[str, Any]) -> FloatArray:
        """A vector whose ``decode`` is exactly ``recipe``. Raises ConfigError for a recipe of another space."""
        try:
            mixes = {index: self._mix(slice_) for slice_, index in layers_of(recipe["slices"])}
            vector = self._vector(mixes)
            if self.decode(vector) == recipe:
                return vector
        except (KeyError, IndexError, TypeError, ValueError):
            pass
        raise ConfigError("recipe: expected a stack of this search space, got another; build it with the same config")

    def nearest(self, merge: Sequence[Made]) -> FloatArray:
        """The vector of the layers that stay, and of the models and the weight that the first tensor of each has."""
        mixes: dict[int, _Mix] = {}
        for one in merge:
            if 0 <= one.of < self._n_layers:
                models = tuple(model for model in one.inputs if model != self._base)
                weight = one.value("weight", models[0]) if len(models) > 1 else 1.0
                mixes.setdefault(one.of, _Mix(models, min(max(weight or 0.0, 0.0), 1.0)))
        return self._vector(mixes)

    def known_points(self) -> dict[str, FloatArray]:
        """``start``, the base's own layers, and ``uniform``, all models by the same weight in each; no parent."""
        first = start(self.variables)
        masks = [variable.kind is Kind.INTEGER for variable in self.variables]
        return {"start": first, "uniform": np.where(masks, 1.0, first)}

    def describe(self) -> list[str]:
        """How deep the stacks are, and what each layer is."""
        return [
            f"merge method: task arithmetic, {self._n_layers - self._space.remove} of {self._n_layers} layers stay",
            "a layer is the base's, one model's own, or the base's plus a scale times the sum of several's differences",
        ]

    @property
    def _chosen(self) -> bool:
        """Whether there is a choice of what to remove."""
        return self._space.remove < len(self._removable)

    def _read(self, x: FloatArray) -> tuple[dict[int, float], list[_Mix]]:
        """How much the removable layers are worth, and what each layer is made of."""
        values = (float(value) for value in x)
        worth, mixes = {}, []
        for index in range(self._n_layers):
            if index in self._removable:
                worth[index] = next(values) if self._chosen else 0.0
            on = tuple([model for model in self._models if next(values)])
            weight = next(values) if len(self._models) > 1 else 1.0
            mixes.append(_Mix(on, weight if len(on) > 1 else 1.0))
        return worth, mixes

    def _vector(self, mixes: Mapping[int, _Mix]) -> FloatArray:
        """The coordinates of the layers that stay; those of the others are where a search starts."""
        found: list[float] = []
        for index in range(self._n_layers):
            mix = mixes.get(index, _Mix())
            if index in self._removable and self._chosen:
                found.append(0.75 if index in mixes else 0.25)
            found += [float(model in mix.models) for model in self._models]
            if len(self._models) > 1:
                found.append(mix.weight if len(mix.models) > 1 else 1 / len(self._models))
        return np.array(found)

    def _slice(self, mix: _Mix, span: list[int]) -> dict[str, Any]:
        if len(mix.models) < 2:
            (model,) = mix.models or (self._base,)
            alone: dict[str, Any] = {"sources": [{"model": model, "layer_range": span}]}
            return alone | ({"base_model": model} if model != self._base else {})
        sources = [{"model": model, "layer_range": list(span)} for model in (self._base, *mix.models)]
        return {"sources": sources, "parameters": {"weight": mix.weight}}

    def _mix(self, slice_: Mapping[str, Any]) -> _Mix:
        models = tuple(source["model"] for source in slice_["sources"] if source["model"] != self._base)
        return _Mix(models, float(slice_["parameters"]["weight"]) if len(models) > 1 else 1.0)
