"""Genes, and how their values make the slices of a recipe and are read back from them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from merge3_plugin.domain import FloatArray
from merge3_plugin.evolve.spaces.bounds import Bounds
from merge3_plugin.evolve.spaces.layout import Layout
from merge3_plugin.evolve.spaces.variables import Kind, Variable, decimal

if TYPE_CHECKING:
    from merge3_plugin.merging.made import Made

# DELLA drops with probabilities density +- epsilon, which must stay inside (0, 1).
_EPSILON_ROOM = 0.999
# Two weights this far apart have a softmax of exactly 0 and 1.
SATURATED = 768.0


@dataclass(frozen=True)
class Gene:
    """One number: ``parameter`` of ``model`` (None: of all) in a layer group, for tensors whose name has ``filter``."""

    name: str
    parameter: str
    model: str | None
    group: int
    filter: str | None
    bounds: Bounds
    start: float

    @cached_property
    def variable(self) -> Variable:
        """The gene as a coordinate."""
        low, high, step = self.bounds
        if step is not None:
            return Variable(
                self.name, 0, self.coordinate(high), self.coordinate(self.start), Kind.INTEGER, unit=step, offset=low
            )
        return Variable(self.name, low / self.scale, high / self.scale, self.coordinate(self.start), unit=self.scale)

    @property
    def scale(self) -> float:
        """The value of one unit of the vector: a power of two near the width, so that scaling is exact both ways."""
        width = self.bounds.high - self.bounds.low
        return 2.0 ** round(math.log2(width)) if math.isfinite(width) else 1.0

    def value(self, coordinate: float) -> float:
        """Coordinate to value. Of steps the nearest; else by mergekit-evolve's bounds, reflected below, held above."""
        if self.bounds.step is not None:
            return self.variable.parameter(coordinate)
        value = float(coordinate) * self.scale
        if value < self.bounds.low:
            value = 2 * self.bounds.low - value
        return float(min(value, self.bounds.high))

    def coordinate(self, value: float) -> float:
        """The coordinate of a value inside the bounds; ``value`` gives it back exactly, or of steps the next above."""
        if self.bounds.step is not None:
            return float(math.ceil((decimal(value) - decimal(self.bounds.low)) / decimal(self.bounds.step)))
        return float(value) / self.scale


class Genes(Protocol):
    """A coding of recipes: its genes, and values (one a gene) to slices and back."""

    genes: tuple[Gene, ...]

    def slices(self, values: Sequence[float]) -> list[dict[str, Any]]: ...

    def read(self, slices: Sequence[Mapping[str, Any]]) -> list[float]: ...

    def nearest(self, merge: Sequence[Made]) -> list[float]:
        """The values with which the coding comes near to a merge by its method."""
        ...


class ParameterGenes:
    """Genes that are parameters of the method, set where mergekit-evolve sets them: at each source of each slice.

    Parameters that the sources share (``model`` None) are set at the slice.
    """

    def __init__(self, layout: Layout, genes: Sequence[Gene], parameters: Sequence[str]) -> None:
        self._layout = layout
        self.genes = tuple(genes)
        self._parameters = tuple(parameters)
        self._index = {(g.group, g.model, g.filter, g.parameter): i for i, g in enumerate(self.genes)}

    def slices(self, values: Sequence[float]) -> list[dict[str, Any]]:
        slices = []
        for place, span in enumerate(self._layout.spans):
            sources = [
                {"model": model, "layer_range": list(span)} | self._settings(values, place, model)
                for model in self._layout.sources
            ]
            slices.append({"sources": sources} | self._settings(values, place, None))
        return slices

    def read(self, slices: Sequence[Mapping[str, Any]]) -> list[float]:
        """Raises KeyError, IndexError or TypeError for slices that are not of this coding."""
        values = []
        for gene in self.genes:
            owner = slices[0 if self._layout.smooth else gene.group]
            if gene.model is not None:
                owner = next(source for source in owner["sources"] if source["model"] == gene.model)
            setting = owner["parameters"][gene.parameter]
            if len(self._layout.filters) > 1:
                setting = next(entry["value"] for entry in setting if entry["filter"] == gene.filter)
            if isinstance(setting, list):
                setting = setting[gene.group]
            values.append(float(setting))
        return values

    def nearest(self, merge: Sequence[Made]) -> list[float]:
        """Those that the merge's tensors have; what no tensor says is where it starts."""
        by_filter: dict[str | None, dict[int, Made]] = {filter_: {} for filter_ in self._layout.filters}
        for one in merge:  # of a layer, and around the stack, one tensor of each filter says it
            by_filter[self._layout.filter_of(one.name)].setdefault(one.layer, one)
        shares = {
            filter_: np.array([self._layout.shares(layer, filter_) for layer in said])
            for filter_, said in by_filter.items()
        }
        found = []
        for gene in self.genes:
            values = [one.value(gene.parameter, gene.model) for one in by_filter[gene.filter].values()]
            value = _solved(shares[gene.filter], values, gene.group)
            found.append(gene.start if value is None else gene.bounds.inside(value))
        return found

    def _settings(self, values: Sequence[float], place: int, model: str | None) -> dict[str, Any]:
        """The parameters of a model (None: of all) in the slice at this place."""
        settings = {}
        for parameter in self._parameters:
            if (0, model, self._layout.filters[0], parameter) not in self._index:
                continue
            by_filter = []
            for filter_, places in self._layout.places.items():
                groups = range(len(places)) if self._layout.smooth else (place,)
                listed = [self._value(values, group, model, filter_, parameter) for group in groups]
                by_filter.append({"filter": filter_, "value": listed if len(listed) > 1 else listed[0]})
            settings[parameter] = by_filter if len(by_filter) > 1 else by_filter[0]["value"]
        return {"parameters": settings} if settings else {}

    def _value(
        self, values: Sequence[float], group: int, model: str | None, filter_: str | None, parameter: str
    ) -> float:
        value = values[self._index[group, model, filter_, parameter]]
        beside = self._index.get((group, model, filter_, "density")) if parameter == "epsilon" else None
        if beside is not None:
            density = values[beside]
            value = min(value, _EPSILON_ROOM * min(density, 1 - density))
        return value


class SlerpGenes:
    """mergekit-evolve's genes of slerp: one for each model; the top two of a group are merged, softmax gives t."""

    def __init__(self, layout: Layout, labels: Mapping[str, str]) -> None:
        self._layout = layout
        self.genes = tuple(
            Gene(
                layout.gene_name("weight", labels[model], group, None),
                "weight",
                model,
                group,
                None,
                Bounds(-math.inf, math.inf),
                1 / len(layout.sources),
            )
            for group in range(layout.most)
            for model in layout.sources
        )

    def slices(self, values: Sequence[float]) -> list[dict[str, Any]]:
        slices = []
        for span, weights in self._grouped(values):
            first, second = (int(i) for i in np.argsort(-weights, kind="stable")[:2])
            slices.append(
                {
                    "sources": [{"model": self._layout.sources[i], "layer_range": list(span)} for i in (first, second)],
                    "base_model": self._layout.sources[first],
                    "parameters": {"t": _smaller_softmax(float(weights[first] - weights[second]))},
                }
            )
        return slices

    def read(self, slices: Sequence[Mapping[str, Any]]) -> list[float]:
        """Raises KeyError, IndexError or TypeError for slices that are not of this coding."""
        values = []
        for slice_ in slices:
            base = slice_["base_model"]
            (other,) = (source["model"] for source in slice_["sources"] if source["model"] != base)
            gap = _gap_of(float(slice_["parameters"]["t"]))
            values += [{base: gap, other: 0.0}.get(model, -1.0) for model in self._layout.sources]
        return values

    def nearest(self, merge: Sequence[Made]) -> list[float]:
        """Those of the first tensor of each group."""
        values = []
        for first, _ in self._layout.spans:
            one = next(one for one in merge if one.layer == first)
            nearer, other = sorted(one.inputs, key=lambda model: one.turned(model).value("t", None))
            chosen = {nearer: _gap_of(one.turned(nearer).value("t", None)), other: 0.0}
            values += [chosen.get(model, -1.0) for model in self._layout.sources]
        return values

    def _grouped(self, values: Sequence[float]) -> Iterator[tuple[tuple[int, int], FloatArray]]:
        table = np.asarray(values, dtype=np.float64).reshape(len(self._layout.spans), len(self._layout.sources))
        return zip(self._layout.spans, table, strict=True)


def _solved(shares: FloatArray, values: Sequence[Any], group: int) -> float | None:
    """The number in the ``group`` of which, with others, ``values`` are made by ``shares``; None where none is."""
    known = [(row, float(value)) for row, value in zip(shares, values, strict=True) if value is not None]
    if not any(row[group] for row, _ in known):
        return None
    for row, value in known:
        if row[group] == 1:
            return value
    rows, numbers = zip(*known, strict=True)
    # What is left of rounding is far below the digits that people write.
    return round(float(np.linalg.lstsq(np.array(rows), np.array(numbers), rcond=None)[0][group]), 12)


def _smaller_softmax(gap: float) -> float:
    """The smaller of the two softmax weights of numbers ``gap`` >= 0 apart."""
    odds = math.exp(-gap)
    return odds / (1 + odds)


def _gap_of(t: float) -> float:
    """A gap > 0 whose ``_smaller_softmax`` is exactly ``t``; the logarithm is off by a few units in the last place."""
    if t == 0:
        return SATURATED
    gap = below = above = max(math.log((1 - t) / t), 1e-300)
    for _ in range(64):
        for candidate in (below, above):
            if candidate > 0 and _smaller_softmax(candidate) == t:
                return candidate
        below, above = math.nextafter(below, 0.0), math.nextafter(above, math.inf)
    return gap
