"""The search space: vectors an optimizer moves in, and the recipes they stand for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from merge3_plugin.domain import FloatArray
from merge3_plugin.errors import ConfigError
from merge3_plugin.evolve.labels import labels
from merge3_plugin.evolve.spaces.bounds import UPSTREAM, Bounds, searched_parameters
from merge3_plugin.evolve.spaces.genes import SATURATED, Gene, Genes, ParameterGenes, SlerpGenes
from merge3_plugin.evolve.spaces.layout import Layout, make_layout
from merge3_plugin.evolve.spaces.methods import (
    check_slerp,
    check_tokenizer_source,
    checked_parameters,
    find_method,
    merged_models,
    slerp_base,
)
from merge3_plugin.evolve.spaces.variables import Variable, checked, start

if TYPE_CHECKING:
    from merge3_plugin.config import GenomeConfig
    from merge3_plugin.config.spaces import KnotsConfig
    from merge3_plugin.merging.made import Made
    from merge3_plugin.plugins import MethodEntry

# Where the space has a model exactly, in every dtype: one model's weight at this value and the others' at zero, or
# one parameter at zero for the base ("weight", for every kind of task arithmetic).
_ONE_MODEL = {"linear": 1.0, "slerp": SATURATED}
_BASE_AT_ZERO = {"nearswap": "t", "sce": "select_topk", "slerp": "t"}


class GenomeSpace:
    """Vectors of genes to recipes and back, for one ``genome``, ``n_layers`` layers and a ``dtype``.

    A search starts at 1 / number of models for each weight and the method's default elsewhere; a step of 1/6 in every
    coordinate suits it. ``bounds`` and ``parameters`` are the config's: searched intervals, fixed values. With
    ``knots``, each parameter has as many values as they say for the filter, evenly over the depth, and is interpolated
    between them. ``methods`` are those of plug-ins. Raises ConfigError when the genome and the method do not fit, or
    when the method has nothing to search.
    """

    def __init__(
        self,
        genome: GenomeConfig,
        n_layers: int,
        *,
        dtype: str,
        bounds: Mapping[str, Bounds | tuple[float, float]] | None = None,
        parameters: Mapping[str, Any] | None = None,
        methods: Mapping[str, MethodEntry] | None = None,
        knots: Sequence[KnotsConfig] | None = None,
    ) -> None:
        self._genome, self._dtype = genome, dtype
        self._method = find_method(genome.merge_method, methods or {})
        self._name = self._method.spec.name
        self._fixed = checked_parameters(self._method, parameters or {})
        self._sources, self._base = merged_models(genome, self._method)
        check_tokenizer_source(genome, self._method)
        self._layout = layout = make_layout(genome, self._sources, n_layers, knots)
        self._common = self._common_parameters()
        entry = (methods or {}).get(self._name)
        searched = searched_parameters(
            self._method,
            normalize=bool(self._common.get("normalize", False)),
            fixed=self._fixed,
            given=bounds or {},
            offered=entry.bounds if entry else None,
            allow_negative_weights=genome.allow_negative_weights,
        )
        self._genes: Genes
        if self._name == "slerp" and not searched:
            check_slerp(genome, self._fixed, layout.smooth)
            self._genes = SlerpGenes(layout, labels(self._sources))
        else:
            if self._name == "slerp":
                self._base = slerp_base(genome)
            self._genes = ParameterGenes(layout, list(self._parameter_genes(layout, searched)), list(searched))
        if not self._genes.genes:
            raise ConfigError(
                f"genome.merge_method: {self._name} has no parameter to search; choose another method, "
                "or give a float parameter of it an interval in merge3.bounds"
            )

    @cached_property
    def variables(self) -> tuple[Variable, ...]:
        """A coordinate for each gene, named as ``model_1.weight[mlp] layers 0-3``."""
        return tuple(gene.variable for gene in self._genes.genes)

    def decode(self, x: Sequence[float] | FloatArray) -> dict[str, Any]:
        """The recipe of a vector. Raises ValueError for a vector of another length or with NaN or infinity."""
        vector = checked(self.variables, x)
        values = [gene.value(coordinate) for gene, coordinate in zip(self._genes.genes, vector, strict=True)]
        recipe: dict[str, Any] = {"merge_method": self._name, "slices": self._genes.slices(values)}
        if self._common:
            recipe["parameters"] = dict(self._common)
        recipe["dtype"] = self._dtype
        if self._base:
            recipe["base_model"] = self._base
        if self._genome.tokenizer_source:
            recipe["tokenizer_source"] = self._genome.tokenizer_source
        return recipe

    def encode(self, recipe: Mapping[str, Any]) -> FloatArray:
        """A vector whose ``decode`` is exactly ``recipe``. Raises ConfigError for a recipe of another space."""
        try:
            values = self._genes.read(recipe["slices"])
            vector = np.array([g.coordinate(v) for g, v in zip(self._genes.genes, values, strict=True)])
            if self.decode(vector) == recipe:
                return vector
        except (KeyError, IndexError, TypeError, ValueError, StopIteration):
            pass
        raise ConfigError("recipe: expected one of this search space, got another; build it with the same config")

    def nearest(self, merge: Sequence[Made]) -> FloatArray:
        """The vector whose merge comes near to this one; where a search starts for a merge by another method."""
        if any(one.method != self._name for one in merge):
            return start(self.variables)
        if self._name == "slerp" and self._base and self._base in merge[0].inputs:
            merge = [one.turned(self._base) for one in merge]
        values = self._genes.nearest(merge)
        return np.array([gene.coordinate(value) for gene, value in zip(self._genes.genes, values, strict=True)])

    def known_points(self) -> dict[str, FloatArray]:
        """Vectors worth scoring first: ``parent:NAME`` for parents, and where a search starts.

        The start is called ``uniform`` where it gives all models equal weights, else ``start``: methods without
        weights, and slerp of more than two models, have no uniform merge.

        A parent is there when the space can express it exactly: its recipe merges to the parent's own weights, bit for
        bit. Methods that add differences to a base give only the base that way, for rounding loses the others: their
        whole differences alone are ``alone:NAME``.
        """
        first = start(self.variables)
        points = {f"parent:{name}": vector for name, vector in self._parent_points()}
        points |= {f"alone:{name}": x for name, x in self._whole_differences() if not np.array_equal(x, first)}
        weighted = {gene.model for gene in self._genes.genes if gene.parameter == "weight"}
        uniform = weighted >= set(self._genome.models)
        if self._name == "slerp":  # one half of each of two
            uniform = all(gene.start == 0.5 for gene in self._genes.genes)
        return points | {"uniform" if uniform else "start": first}

    def describe(self) -> list[str]:
        """The method, what holds for the whole recipe, and how parameters change over the depth."""
        common = ", ".join(f"{name} {value}" for name, value in self._common.items())
        return [f"merge method: {self._name}" + (f" ({common})" if common else ""), *self._layout.describe()]

    def _parent_points(self) -> Iterator[tuple[str, FloatArray]]:
        parameters = {gene.parameter for gene in self._genes.genes}
        if self._name in _ONE_MODEL and "weight" in parameters:
            for name in self._sources:
                yield from self._exact(name, "weight", {name: _ONE_MODEL[self._name]})
        elif self._base and (zeroed := _BASE_AT_ZERO.get(self._name) or self._task_arithmetic_weight()):
            yield from self._exact(self._base, zeroed, {})
            if self._name == "slerp":
                (other,) = (name for name in self._sources if name != self._base)
                yield from self._exact(other, "t", {"": 1.0})

    def _exact(self, name: str, parameter: str, values: Mapping[str, float]) -> Iterator[tuple[str, FloatArray]]:
        """The point where ``parameter`` is as in ``values`` (by model, else 0), if it is a gene that can have them."""
        if any(gene.parameter == parameter for gene in self._genes.genes):
            yield from self._point(name, {(parameter, m): values.get(m or "", 0.0) for m in (*self._sources, None)})

    def _whole_differences(self) -> Iterator[tuple[str, FloatArray]]:
        """Each model at weight 1 beside others at 0, nothing of it dropped: but for rounding, that model."""
        weighted = [gene.model for gene in self._genes.genes if gene.parameter == "weight"]
        if not self._task_arithmetic_weight() or any(self._fixed.get(name, 1) != 1 for name in ("density", "lambda")):
            return
        for name in self._sources:
            if name in weighted:
                values: dict[tuple[str, str | None], float] = {("lambda", None): 1.0}
                for model in self._sources:
                    values |= {("density", model): 1.0, ("weight", model): float(model == name)}
                yield from self._point(name, values)

    def _point(self, name: str, values: Mapping[tuple[str, str | None], float]) -> Iterator[tuple[str, FloatArray]]:
        """The point of these values by parameter and model, else of the start, if the genes can have them."""
        found = [(gene, values.get((gene.parameter, gene.model), gene.start)) for gene in self._genes.genes]
        if all(gene.value(gene.coordinate(value)) == value for gene, value in found):
            yield name, np.array([gene.coordinate(value) for gene, value in found])

    def _task_arithmetic_weight(self) -> str | None:
        from mergekit.merge_methods import GeneralizedTaskArithmeticMerge

        return "weight" if isinstance(self._method, GeneralizedTaskArithmeticMerge) else None

    def _common_parameters(self) -> dict[str, Any]:
        """What holds for the whole recipe: the config's fixed parameters, and mergekit-evolve's own two."""
        specs = {parameter.name: parameter for parameter in self._method.spec.parameters}
        common: dict[str, Any] = {}
        if "normalize" in specs:
            common["normalize"] = specs["normalize"].default
            if self._name in UPSTREAM:
                common["normalize"] = self._name in ("ties", "dare_ties", "linear")
            if self._genome.normalize is not None:
                common["normalize"] = self._genome.normalize
        elif self._genome.normalize is not None and self._name not in UPSTREAM:
            flags = [name for name, parameter in specs.items() if parameter.value_type is bool]
            raise ConfigError(
                f"genome.normalize: {self._name} has no such parameter; "
                f"its flags, for merge3.parameters, are: {', '.join(flags) or 'none'}"
            )
        if "int8_mask" in specs and self._name in UPSTREAM:
            common["int8_mask"] = True
        return common | self._fixed

    def _parameter_genes(self, layout: Layout, searched: Mapping[str, Bounds]) -> Iterator[Gene]:
        from mergekit.merge_methods import ParameterScope

        specs = {parameter.name: parameter for parameter in self._method.spec.parameters}
        scopes = {name: specs[name].scope for name in searched}
        label_of = labels(layout.sources)
        for group in range(layout.most):
            for model in (*layout.sources, None):
                for filter_ in [name for name, places in layout.places.items() if group < len(places)]:
                    for name, bounds in searched.items():
                        shared = scopes[name] == ParameterScope.SHARED
                        unused = scopes[name] == ParameterScope.NON_BASE and model == self._base
                        if shared != (model is None) or (unused and not shared):
                            continue
                        bounds = self._della_room(bounds) if name == "epsilon" else bounds
                        first = 1 / len(self._genome.models) if name == "weight" else specs[name].default
                        first = first if isinstance(first, int | float) else (bounds.low + bounds.high) / 2
                        label = label_of[model] if model else None
                        yield Gene(
                            layout.gene_name(name, label, group, filter_),
                            name,
                            model,
                            group,
                            filter_,
                            bounds,
                            bounds.inside(float(first)),
                        )

    def _della_room(self, bounds: Bounds) -> Bounds:
        """The bounds of epsilon that leave room beside a fixed density."""
        density = self._fixed.get("density")
        if not isinstance(density, float) or density >= 1:
            return bounds
        room = 0.999 * min(density, 1 - density)
        if room <= bounds.low:
            raise ConfigError(
                f"merge3.bounds: expected room for epsilon beside a density of {density:g}, below {room:.3g}, got "
                f"{bounds.low:g} or more"
            )
        return bounds.up_to(room)
