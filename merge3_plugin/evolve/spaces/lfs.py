"""Layer-wise fusion (2502.04030): each group of layers merged by a method of its own, with parameters by filter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from merge3_plugin.config.spaces import LfsSpaceConfig
from merge3_plugin.domain import FloatArray
from merge3_plugin.errors import ConfigError
from merge3_plugin.evolve.labels import labels
from merge3_plugin.evolve.spaces.lfs_methods import Linear, Method, Parameter, Slerp, TaskArithmetic, Ties
from merge3_plugin.evolve.spaces.stacks import check_models, recipe
from merge3_plugin.evolve.spaces.unused import refuse_unused
from merge3_plugin.evolve.spaces.variables import Kind, Variable, When, settled, start
from merge3_plugin.merging import MERGES, SELECT

if TYPE_CHECKING:
    from merge3_plugin.config import GenomeConfig, RunConfig
    from merge3_plugin.merging.made import Made

_WITH_BASE = ("task_arithmetic", "ties")


class LfsSpace:
    """For each group of layers a method, and every method's parameters for each set of the group's tensors.

    The sets are those of ``filters``, and all other tensors; embeddings count among those of the first group, final
    norm and output layer among those of the last. Parameters lie in [0, 1] (`lfs_methods`), start in the middle, and
    matter only where their method is chosen. ``linear`` and ``slerp`` are of ``genome.models``; the other two add
    these models' differences to ``genome.base_model``, which may be one of them.

    Where all groups have one method, the recipe is of one document, else of one document for each method. Raises
    ConfigError where config and depth do not fit each other.
    """

    def __init__(self, config: RunConfig, n_layers: int, *, dtype: str) -> None:
        space = config.merge3.space
        if not isinstance(space, LfsSpaceConfig):
            raise ConfigError(f"merge3.space.kind: expected lfs, got {space.kind}")
        refuse_unused(config)
        _check(space, config.genome, n_layers)
        self._space, self._genome, self._dtype = space, config.genome, dtype
        self._models = tuple(config.genome.models)
        self._base = config.genome.base_model or self._models[0]
        self._methods: dict[str, Method] = {name: self._method(name) for name in space.methods}
        step = space.granularity
        self._spans = [[first, first + step] for first in range(0, n_layers, step)]
        self.variables: tuple[Variable, ...] = tuple(self._variables())

    def decode(self, vector: Sequence[float] | FloatArray) -> dict[str, Any]:
        """The recipe of a vector. Raises ValueError for a vector of another length or with NaN or infinity."""
        groups = [self._read(part) for part in np.split(settled(self.variables, vector), len(self._spans))]
        chosen = [name for name, _ in groups]
        documents: dict[str, dict[str, Any]] = {
            name: self._document(name, [values if own == name else None for own, values in groups])
            for name in self._methods
            if name in chosen
        }
        if len(documents) == 1:
            return documents[chosen[0]]
        slices = [
            {"sources": [{"model": _merge(name), "layer_range": list(span)}]}
            for name, span in zip(chosen, self._spans, strict=True)
        ]
        return {
            MERGES: {_merge(name): document for name, document in documents.items()},
            SELECT: {"merge_method": "passthrough", "slices": slices, "base_model": _merge(chosen[0])},
        }

    def encode(self, recipe: Mapping[str, Any]) -> FloatArray:
        """A vector whose ``decode`` is exactly ``recipe``. Raises ConfigError for a recipe of another space."""
        try:
            found = self._slices(recipe)
            vector = np.concatenate([self._part(name, self._methods[name].values(slice_)) for name, slice_ in found])
            if self.decode(vector) == recipe:
                return vector
        except (KeyError, IndexError, TypeError, ValueError):
            pass
        raise ConfigError("recipe: expected one of this search space, got another; build it with the same config")

    def nearest(self, merge: Sequence[Made]) -> FloatArray:
        """The vector of what the first tensor of each group and set says; where a search starts for other methods."""
        parts = []
        for first, _ in self._spans:
            layer = [one for one in merge if one.layer == first]
            said = [next((one for one in layer if self._set_of(one.name) == place), layer[0]) for place in self._sets]
            method = said[0].method
            if method not in self._methods or any(one.method != method for one in said):
                return start(self.variables)
            parts.append(self._part(method, self._methods[method].nearest(said)))
        return settled(self.variables, np.concatenate(parts))

    def known_points(self) -> dict[str, FloatArray]:
        """Each model alone and ``uniform``, by ``linear``; the base where differences to it can be scaled to nothing.

        Without ``linear``, where a search starts: ``start``.
        """
        points: dict[str, FloatArray] = {}
        if "linear" in self._methods:
            for model in self._models:
                points[f"parent:{model}"] = self._everywhere(
                    "linear", {p: p.model == model for p in self._of("linear")}
                )
        if name := next((name for name in self._methods if name in _WITH_BASE), None):
            zeros = {parameter: 0.0 for parameter in self._of(name) if parameter.name == "scale"}
            points.setdefault(f"parent:{self._base}", self._everywhere(name, zeros))
        if "linear" in self._methods:
            return points | {"uniform": self._everywhere("linear", {})}
        return points | {"start": start(self.variables)}

    def describe(self) -> list[str]:
        """The groups, their methods and sets, and what a recipe is exported for."""
        size, filters = self._space.granularity, self._space.filters
        lines = [
            f"{len(self._spans)} groups of {size} layer{'s' if size > 1 else ''}, by {', '.join(self._methods)}",
            f"parameters for {', '.join([*filters, 'all other tensors'])}" if filters else "parameters for all tensors",
        ]
        if len(self._methods) > 1:
            lines.append("recipes of one method are for mergekit-yaml, of several for mergekit-multi")
        return lines

    def _method(self, name: str) -> Method:
        models, filters = self._models, self._space.filters
        if name == "linear":
            return Linear(models, filters)
        if name == "slerp":
            return Slerp(models, filters)
        if name == "task_arithmetic":
            return TaskArithmetic(models, self._base, filters)
        return Ties(models, self._base, filters)

    def _variables(self) -> Iterator[Variable]:
        """Group by group: the method, and set by set the parameters of each method."""
        names, label_of = tuple(self._methods), labels(self._models)
        for first, end in self._spans:
            place = (
                "" if len(self._spans) == 1 else f" layers {first}-{end - 1}" if end > first + 1 else f" layer {first}"
            )
            choice = f"method{place}"
            if len(names) > 1:
                yield Variable(choice, 0, len(names) - 1, 0, Kind.CATEGORICAL, names)
            for filter_ in (*self._space.filters, None):
                for name in names:
                    when = When(choice, frozenset({name})) if len(names) > 1 else None
                    for p in self._of(name):
                        owner = f"{label_of[p.model]}." if p.model else ""
                        label = f"{owner}{name}.{p.name}{f'[{filter_}]' if filter_ else ''}{place}"
                        yield Variable(label, 0.0, p.high, p.start, when=when)

    @property
    def _sets(self) -> range:
        return range(len(self._space.filters) + 1)

    def _set_of(self, tensor: str) -> int:
        """Which of the sets a tensor is of."""
        return next((i for i, filter_ in enumerate(self._space.filters) if filter_ in tensor), len(self._space.filters))

    def _of(self, method: str) -> tuple[Parameter, ...]:
        return self._methods[method].parameters

    def _columns(self, method: str) -> slice:
        """Where a method's parameters are among those of a set."""
        names = list(self._methods)
        done = sum(len(self._of(name)) for name in names[: names.index(method)])
        return slice(done, done + len(self._of(method)))

    def _read(self, part: FloatArray) -> tuple[str, FloatArray]:
        """The method of a group and its values, from the group's part of a settled vector."""
        names = list(self._methods)
        method = names[int(part[0])] if len(names) > 1 else names[0]
        return method, self._table(part)[:, self._columns(method)]

    def _table(self, part: FloatArray) -> FloatArray:
        """A view of a group's parameters, a row for each set."""
        return part[int(len(self._methods) > 1) :].reshape(len(self._space.filters) + 1, -1)

    def _part(self, method: str, values: FloatArray) -> FloatArray:
        """The inverse of ``_read``; what does not matter is where it starts."""
        part = np.array([variable.start for variable in self.variables[: len(self.variables) // len(self._spans)]])
        if len(self._methods) > 1:
            part[0] = list(self._methods).index(method)
        self._table(part)[:, self._columns(method)] = values
        return part

    def _everywhere(self, method: str, given: Mapping[Parameter, float]) -> FloatArray:
        """The vector with this method and these values in all groups and sets; other values are where they start."""
        row = [float(given.get(parameter, parameter.start)) for parameter in self._of(method)]
        return np.tile(self._part(method, np.array([row])), len(self._spans))

    def _document(self, method: str, values: Sequence[FloatArray | None]) -> dict[str, Any]:
        """A merge of all layers by one method; groups that have another one (None) are merged, but not selected."""
        entry = self._methods[method]
        filling = np.array([[parameter.start for parameter in entry.parameters]] * (len(self._space.filters) + 1))
        slices = [
            entry.slice(span, filling if own is None else own) for span, own in zip(self._spans, values, strict=True)
        ]
        found = recipe(method, slices, self._genome, self._base, self._dtype)
        return found | ({"parameters": dict(entry.common)} if entry.common else {})

    def _slices(self, recipe: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
        """The method and the slice of each group."""
        if MERGES not in recipe:
            return [(recipe["merge_method"], slice_) for slice_ in recipe["slices"]]
        selected = [recipe[MERGES][slice_["sources"][0]["model"]] for slice_ in recipe[SELECT]["slices"]]
        return [(document["merge_method"], document["slices"][group]) for group, document in enumerate(selected)]


def _merge(method: str) -> str:
    """The name of a method's merge. Not the method's own: mergekit-multi reads every text that is a name as a model."""
    return f"by-{method}"


def _check(space: LfsSpaceConfig, genome: GenomeConfig, n_layers: int) -> None:
    if n_layers % space.granularity:
        raise ConfigError(
            f"merge3.space.granularity: expected a divisor of {n_layers} (layers), got {space.granularity}"
        )
    for key, given in (("filters", space.filters), ("methods", space.methods)):
        if len(set(given)) != len(given):
            raise ConfigError(f"merge3.space.{key}: expected each once, got {', '.join(given)}")
    if not space.methods:
        raise ConfigError("merge3.space.methods: expected at least one method, got none; leave it out to have all")
    check_models(genome)
    differences = [name for name in space.methods if name in _WITH_BASE]
    if differences and not genome.base_model:
        raise ConfigError(
            f"genome.base_model: {differences[0]} needs the model that the others were made from; name it, or leave "
            f"{' and '.join(differences)} out of merge3.space.methods"
        )
    alone = [name for name in space.methods if name not in _WITH_BASE and len(genome.models) < 2]
    if alone or genome.models == [genome.base_model]:
        raise ConfigError(
            f"genome.models: expected two models or more to merge by {(alone or differences)[0]}, "
            f"got {', '.join(genome.models)}"
        )
