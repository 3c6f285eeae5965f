"""The space of a config's genome: one method, or several among which the method itself is a gene."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from merge3_plugin.config.spaces import GenomeSpaceConfig
from merge3_plugin.domain import FloatArray
from merge3_plugin.errors import ConfigError, nearest
from merge3_plugin.evolve.spaces import Space
from merge3_plugin.evolve.spaces.bounds import Bounds
from merge3_plugin.evolve.spaces.genome import GenomeSpace
from merge3_plugin.evolve.spaces.methods import find_method
from merge3_plugin.evolve.spaces.variables import Kind, Variable, When, checked, start
from merge3_plugin.plugins import plugin_host

if TYPE_CHECKING:
    from merge3_plugin.config import GenomeConfig, RunConfig
    from merge3_plugin.merging.made import Made
    from merge3_plugin.plugins import MethodEntry

METHOD = "merge_method"


class MethodChoice:
    """Several methods, each with the genes of its own space, which matter only where the first gene chooses it.

    Methods share no genes: a weight that suits task arithmetic says nothing of one that suits ``linear``.
    """

    def __init__(self, spaces: Mapping[str, GenomeSpace]) -> None:
        self._spaces = dict(spaces)
        self._parts: dict[str, slice] = {}
        done = 1
        for method, space in self._spaces.items():
            self._parts[method] = slice(done, done + len(space.variables))
            done += len(space.variables)

    @cached_property
    def variables(self) -> tuple[Variable, ...]:
        """``merge_method``, then each method's, named as ``ties: model_1.weight``."""
        methods = tuple(self._spaces)
        found = [Variable(METHOD, 0, len(methods) - 1, 0, Kind.CATEGORICAL, methods)]
        for method, space in self._spaces.items():
            chosen = When(METHOD, frozenset({method}))
            found += [replace(variable, name=f"{method}: {variable.name}", when=chosen) for variable in space.variables]
        return tuple(found)

    def decode(self, x: Sequence[float] | FloatArray) -> dict[str, Any]:
        """The recipe of the chosen method. Raises ValueError for a vector of another length, with NaN or infinity."""
        vector = checked(self.variables, x)
        method = tuple(self._spaces)[int(self.variables[0].settled(vector[0]))]
        return self._spaces[method].decode(vector[self._parts[method]])

    def encode(self, recipe: Mapping[str, Any]) -> FloatArray:
        """A vector whose ``decode`` is exactly ``recipe``. Raises ConfigError for a recipe of another space."""
        method = recipe.get(METHOD)
        if method not in self._spaces:
            raise ConfigError(f"recipe: expected one of {', '.join(self._spaces)} of this search space, got {method!r}")
        return self._placed(method, self._spaces[method].encode(recipe))

    def nearest(self, merge: Sequence[Made]) -> FloatArray:
        """That of the merge's method; where a search starts if it is none of these."""
        space = self._spaces.get(method := merge[0].method)
        return self._placed(method, space.nearest(merge)) if space else start(self.variables)

    def known_points(self) -> dict[str, FloatArray]:
        """The parents that any method has exactly, or else alone, and ``uniform``: of ``linear`` if it is there.

        Else that is of the first.
        """
        points: dict[str, FloatArray] = {}
        for method in sorted(self._spaces, key=lambda method: method != "linear"):
            for label, vector in self._spaces[method].known_points().items():
                points.setdefault(label, self._placed(method, vector))
        if "uniform" in points:
            points.pop("start", None)
        exact = [label.removeprefix("parent:") for label in points if label.startswith("parent:")]
        return {label: x for label, x in points.items() if label not in {f"alone:{name}" for name in exact}}

    def describe(self) -> list[str]:
        """Each method, and what holds for its recipes."""
        return list(dict.fromkeys(line for space in self._spaces.values() for line in space.describe()))

    def _placed(self, method: str, vector: FloatArray) -> FloatArray:
        whole = start(self.variables)
        whole[0] = list(self._spaces).index(method)
        whole[self._parts[method]] = vector
        return whole


def genome_space(config: RunConfig, n_layers: int, *, dtype: str) -> Space:
    """The space of the config's ``genome``, over ``genome.merge_method`` and ``merge3.space.methods``."""
    genome, settings, offered = config.genome, config.merge3, plugin_host().merge_methods()
    chosen = settings.space if isinstance(settings.space, GenomeSpaceConfig) else GenomeSpaceConfig()

    searched = {parameter: Bounds(given.min, given.max, given.step) for parameter, given in settings.bounds.items()}

    def space(genome: GenomeConfig, bounds: Mapping[str, Bounds], fixed: Mapping[str, Any]) -> GenomeSpace:
        return GenomeSpace(
            genome, n_layers, dtype=dtype, bounds=bounds, parameters=fixed, methods=offered, knots=chosen.knots
        )

    names = list(dict.fromkeys([*([genome.merge_method] if genome.merge_method else []), *chosen.methods]))
    if len(names) < 2:
        return space(genome.model_copy(update={METHOD: names[0] if names else None}), searched, settings.parameters)
    known = {name: {p.name for p in find_method(name, offered).spec.parameters} for name in names}
    for block, given in (("bounds", searched), ("parameters", settings.parameters)):
        for parameter in given:
            if not any(parameter in own for own in known.values()):
                hint = nearest(parameter, set().union(*known.values()))
                raise ConfigError(f"merge3.{block}: none of {', '.join(names)} has a parameter {parameter!r}{hint}")
    spaces = {}
    for name, own in known.items():
        bounds = {parameter: value for parameter, value in searched.items() if parameter in own}
        fixed = {parameter: value for parameter, value in settings.parameters.items() if parameter in own}
        spaces[name] = space(_of_method(genome, name, offered, known), bounds, fixed)
    return MethodChoice(spaces)


def _of_method(
    genome: GenomeConfig, name: str, offered: Mapping[str, MethodEntry], known: Mapping[str, set[str]]
) -> GenomeConfig:
    """The genome as this method takes it: without a base or a ``normalize`` that only others of the methods have."""
    from mergekit.merge_methods import BasePolicy

    update: dict[str, Any] = {METHOD: name}
    baseless = find_method(name, offered).spec.contract.base == BasePolicy.FORBIDDEN
    if baseless or (name == "slerp" and genome.base_model not in genome.models):
        update["base_model"] = None
    if "normalize" not in known[name] and any("normalize" in own for own in known.values()):
        update["normalize"] = None
    return genome.model_copy(update=update)
