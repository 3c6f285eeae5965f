"""Depth-wise integration (2502.04030): which models' layers stand at each position, in which order, how scaled."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from merge3_plugin.config.spaces import DisSpaceConfig
from merge3_plugin.domain import FloatArray
from merge3_plugin.errors import ConfigError
from merge3_plugin.evolve.labels import labels
from merge3_plugin.evolve.spaces.stacks import check_models, inner_layers, layers_of, recipe, slices
from merge3_plugin.evolve.spaces.unused import refuse_unused
from merge3_plugin.evolve.spaces.variables import Kind, Variable, settled, start
from merge3_plugin.merging.residual import BRANCH_ENDS

if TYPE_CHECKING:
    from merge3_plugin.config import RunConfig
    from merge3_plugin.merging.made import Made

# Decimals of a scale. Nobody can tell finer ones apart, and a recipe, which has products of them, gives them back.
_DECIMALS = 4


class _Layer(NamedTuple):
    """Whose layer it is, and by what the ends of its branches are multiplied."""

    model: str
    factor: float


class _Position(NamedTuple):
    """The blocks at a position in their order, by the models' numbers (none: the base's layer), and the scale after."""

    blocks: tuple[int, ...]
    scale: float


class DisSpace:
    """Stacks of the parents' layers, as they are but for a scale of the residual stream after each position.

    Each layer of the parents that is not frozen is a position. Its variables: how many ``copies`` of each model's layer
    stand there; for each copy a ``place`` by which they are sorted, lower first, so that an order costs one coordinate
    a copy, where ``m`` models and ``r`` repeats have ``(m r)! / r!^m`` orders to choose from; and the ``scale`` of the
    stream after the last of them. Where no copy stands, the base's layer does. The base, which has the frozen layers,
    embeddings, final norm and output layer too, is ``genome.base_model``, else the first model.

    Where a vector asks for more than ``max_layers``, positions get what they ask for from the first on, as long as one
    layer is left for each later position; what does not fit of a position are its last blocks.

    The recipe is a passthrough that divides ``o_proj`` and ``down_proj`` by the product of the scales before them:
    see `merging.residual`, also for the architectures where that is right. A scale after the last layer of all would
    change nothing, so there is none. Raises ConfigError where config and depth do not fit each other.
    """

    def __init__(self, config: RunConfig, n_layers: int, *, dtype: str) -> None:
        space = config.merge3.space
        self._space = space if isinstance(space, DisSpaceConfig) else DisSpaceConfig(kind="dis")
        refuse_unused(config)
        check_models(config.genome)
        self._genome, self._n_layers, self._dtype = config.genome, n_layers, dtype
        self._models = config.genome.models
        self._base = config.genome.base_model or self._models[0]
        self._positions = inner_layers(n_layers, self._space.frozen_first, self._space.frozen_last)
        self._max_layers = self._space.max_layers or 2 * n_layers
        if self._max_layers < n_layers:
            raise ConfigError(
                f"merge3.space.max_layers: expected at least {n_layers}, since each of the parents' layers is a "
                f"position that holds one layer or more, got {self._max_layers}; to have fewer take the space prune"
            )
        if self._space.repeats > (room := self._max_layers - n_layers + 1):
            raise ConfigError(
                f"merge3.space.repeats: expected at most {room}, since a model of {self._max_layers} layers has no "
                f"room for more at one position, got {self._space.repeats}; lower it, or raise max_layers"
            )
        if self._models == [self._base] and self._space.repeats == 1:
            raise ConfigError("genome.models: expected a model beside the base, got none; name one, or allow repeats")

    @cached_property
    def variables(self) -> tuple[Variable, ...]:
        """Named as ``layer 3 model_1 copies``, ``layer 3 model_1 place 2`` and ``layer 3 scale``."""
        names, repeats = labels(self._models), self._space.repeats
        found = []
        for index in self._positions:
            for model in self._models:
                found.append(Variable(f"layer {index} {names[model]} copies", 0, repeats, 0, Kind.INTEGER))
            for model in self._models if self._n_blocks > 1 else ():
                for copy in range(1, repeats + 1):
                    found.append(Variable(f"layer {index} {names[model]} place {copy}", 0.0, 1.0, 0.5))
            if self._space.scales and index < self._n_layers - 1:
                low, high = self._space.scales
                found.append(Variable(f"layer {index} scale", low, high, min(max(1.0, low), high)))
        return tuple(found)

    @property
    def depth(self) -> int:
        """The layers of the deepest stack."""
        return min(self._max_layers, self._n_layers + len(self._positions) * (self._n_blocks - 1))

    def decode(self, vector: Sequence[float] | FloatArray) -> dict[str, Any]:
        """The recipe of a vector. Raises ValueError for a vector of another length or with NaN or infinity."""
        layers = list(self._stack(self._read(settled(self.variables, vector))))
        plain = _Layer(self._base, 1.0)
        made = slices(layers, self._n_layers, base=plain, keeps_base=lambda it: it.model == self._base, write=_slice)
        return recipe("passthrough", made, self._genome, self._base, self._dtype)

    def encode(self, recipe: Mapping[str, Any]) -> FloatArray:
        """A vector whose ``decode`` is exactly ``recipe``. Raises ConfigError for a recipe of another space."""
        try:
            vector = self._vector([(_layer(slice_), index) for slice_, index in layers_of(recipe["slices"])])
            if self.decode(vector) == recipe:
                return vector
        except (KeyError, IndexError, TypeError, ValueError):
            pass
        raise ConfigError("recipe: expected a stack of this search space, got another; build it with the same config")

    def nearest(self, merge: Sequence[Made]) -> FloatArray:
        """The vector of a stack's layers and scales; where a search starts for what is no stack over all positions."""
        layers = [one for one in merge if one.layer >= 0 and BRANCH_ENDS[0] in one.name]
        try:
            return self._vector(
                [(_Layer(model, one.value("scale", model) or 1.0), one.of) for one in layers for model in one.inputs]
            )
        except (KeyError, IndexError, ZeroDivisionError):
            return start(self.variables)

    def known_points(self) -> dict[str, FloatArray]:
        """Where a search starts: ``parent:BASE``, or ``start`` where the scales' range leaves 1 out.

        The other parents are not there: embeddings and final norm are always the base's.
        """
        first = start(self.variables)
        exact = all(scale == 1.0 for _, scale in self._read(first))
        return {f"parent:{self._base}" if exact else "start": first}

    def describe(self) -> list[str]:
        """How deep the stacks are, and what of them is the base's."""
        frozen = self._n_layers - len(self._positions)
        lines = [
            f"passthrough of {self._n_layers} to {self.depth} layers at {len(self._positions)} positions",
            f"of {labels(self._genome.parents())[self._base]}: {frozen} frozen layers, embeddings, final norm, "
            "output layer, and the layer wherever no model has a copy",
        ]
        if self._space.scales:
            lines.append(f"scales of the residual stream are divided into {' and '.join(BRANCH_ENDS)} of later layers")
        return lines

    @property
    def _n_blocks(self) -> int:
        return len(self._models) * self._space.repeats

    def _read(self, x: FloatArray) -> list[_Position]:
        """What a settled vector asks for at each position."""
        values, repeats = iter(x), self._space.repeats
        found = []
        for index in self._positions:
            copies = [int(next(values)) for _ in self._models]
            places = [[next(values) if self._n_blocks > 1 else 0.5 for _ in range(repeats)] for _ in self._models]
            blocks = sorted((places[m][copy], m) for m, count in enumerate(copies) for copy in range(count))
            scaled = self._space.scales and index < self._n_layers - 1
            scale = round(float(next(values)), _DECIMALS) if scaled else 1.0
            found.append(_Position(tuple(m for _, m in blocks), scale))
        return found

    def _stack(self, wanted: Sequence[_Position]) -> Iterator[tuple[_Layer, int]]:
        """Every layer, the frozen ones too."""
        spare, factor = self._max_layers - self._n_layers, 1.0
        for index in range(self._n_layers):
            blocks, scale = wanted[index - self._positions[0]] if index in self._positions else _Position((), 1.0)
            blocks = blocks[: 1 + spare]
            spare -= max(len(blocks) - 1, 0)
            for model in [self._models[m] for m in blocks] or [self._base]:
                yield _Layer(model, factor), index
            factor /= scale

    def _vector(self, layers: Sequence[tuple[_Layer, int]]) -> FloatArray:
        """The coordinates of a stack; places stand evenly where a block does, in the middle where none does."""
        at: defaultdict[int, list[_Layer]] = defaultdict(list)
        for layer, index in layers:
            at[index].append(layer)
        number = {model: m for m, model in enumerate(self._models)}
        found: list[float] = []
        for index in self._positions:
            here = [layer.model for layer in at[index]]
            blocks = [] if here == [self._base] else [number[model] for model in here]
            copies = Counter(blocks)
            found += [copies[m] for m in number.values()]
            for m in number.values() if self._n_blocks > 1 else ():
                places = [(place + 0.5) / len(blocks) for place, other in enumerate(blocks) if other == m]
                found += places + [0.5] * (self._space.repeats - len(places))
            if self._space.scales and index < self._n_layers - 1:
                found.append(round(at[index][0].factor / at[index + 1][0].factor, _DECIMALS))
        return np.array(found)


def _slice(layer: _Layer, span: list[int]) -> dict[str, Any]:
    source: dict[str, Any] = {"model": layer.model, "layer_range": span}
    if layer.factor != 1.0:
        source["parameters"] = {"scale": [{"filter": end, "value": layer.factor} for end in BRANCH_ENDS]}
    return {"sources": [source]}


def _layer(slice_: Mapping[str, Any]) -> _Layer:
    (source,) = slice_["sources"]
    return _Layer(source["model"], source["parameters"]["scale"][0]["value"] if "parameters" in source else 1.0)
