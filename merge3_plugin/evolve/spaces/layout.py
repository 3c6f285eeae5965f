"""Where in the depth, and for which tensors, the parameters of a genome have values of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from merge3_plugin.domain import FloatArray
from merge3_plugin.errors import ConfigError, nearest

if TYPE_CHECKING:
    from merge3_plugin.config import GenomeConfig
    from merge3_plugin.config.spaces import KnotsConfig


@dataclass(frozen=True)
class Layout:
    """Who is merged and where genes differ: ``sources`` in order, and the ``spans`` (start, end) of a recipe's slices.

    ``places`` name for people the values that a parameter has, by filter; the last filter is None: everything that the
    others did not name. That is a value for each slice, or, where ``smooth``, so many over the one slice there is,
    evenly, between which it is interpolated.
    """

    sources: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]
    places: Mapping[str | None, tuple[str, ...]]
    smooth: bool = False

    @property
    def filters(self) -> tuple[str | None, ...]:
        return tuple(self.places)

    @property
    def most(self) -> int:
        """How many values a parameter has, of the filter that has most."""
        return max(map(len, self.places.values()))

    def gene_name(self, parameter: str, label: str | None, group: int, filter_: str | None) -> str:
        where = f"[{filter_}]" if filter_ else ""
        return f"{label + '.' if label else ''}{parameter}{where}{self.places[filter_][group]}"

    def filter_of(self, tensor: str) -> str | None:
        """The filter that a tensor follows: the first that is part of its name."""
        return next((filter_ for filter_ in self.filters if filter_ and filter_ in tensor), None)

    def shares(self, layer: int, filter_: str | None) -> FloatArray:
        """What each value of a filter counts in a layer, or before (-1) or after the stack; they sum to 1."""
        places, n_layers = self.places[filter_], self.spans[-1][1]
        if not self.smooth:
            layer = min(max(layer, 0), n_layers - 1)
            return np.array([float(first <= layer < end) for first, end in self.spans])
        # Gradients begin again for what stands after the stack, as they do before it.
        at = layer / max(n_layers - 1, 1) if 0 <= layer < n_layers else 0.0
        return np.maximum(0.0, 1 - np.abs(at * (len(places) - 1) - np.arange(len(places))))

    def describe(self) -> list[str]:
        """How many values a parameter has over the depth, where it is interpolated between them."""
        counts = {filter_ or "all other tensors": len(places) for filter_, places in self.places.items()}
        if not self.smooth or self.most == 1:
            return []
        if len(set(counts.values())) == 1:
            return [f"interpolated over the depth between {self.most} values"]
        of_each = ", ".join(f"{count} for {name}" for name, count in counts.items())
        return [f"interpolated over the depth between several values: {of_each}"]


def make_layout(
    genome: GenomeConfig, sources: tuple[str, ...], n_layers: int, knots: Sequence[KnotsConfig] | None
) -> Layout:
    """The layout of a genome, or, with ``knots``, of so many values for each filter of it.

    Raises ConfigError where filters, groups and knots do not fit each other or the depth.
    """
    filters = _filters(genome)
    if knots is not None:
        return Layout(sources, ((0, n_layers),), _knots(genome, filters, n_layers, knots), smooth=True)
    step = genome.layer_granularity if genome.layer_granularity > 0 else n_layers
    if n_layers % step:
        raise ConfigError(f"genome.layer_granularity: expected a divisor of {n_layers} (layers), got {step}")
    groups = tuple((first, first + step) for first in range(0, n_layers, step))
    names = tuple(f" layers {first}-{end - 1}" for first, end in groups) if len(groups) > 1 else ("",)
    spans = ((0, n_layers),) if genome.smooth else groups
    return Layout(sources, spans, dict.fromkeys(filters, names), smooth=genome.smooth)


def _filters(genome: GenomeConfig) -> tuple[str | None, ...]:
    filters = genome.filters or []
    if len(set(filters)) != len(filters):
        raise ConfigError(f"genome.filters: expected each once, got {', '.join(filters)}")
    return (*filters, None)


def _knots(
    genome: GenomeConfig, filters: Sequence[str | None], n_layers: int, knots: Sequence[KnotsConfig]
) -> dict[str | None, tuple[str, ...]]:
    """The names of each filter's knots. A filter that ``knots`` do not name has as many as all other tensors."""
    if genome.layer_granularity > 0 or genome.smooth:
        raise ConfigError(
            "merge3.space.knots: expected neither genome.layer_granularity nor genome.smooth beside it, which say "
            "otherwise where values stand; leave them out"
        )
    counts = {entry.filter: entry.value for entry in knots}
    for name, count in counts.items():
        if name not in filters:
            raise ConfigError(
                f"merge3.space.knots: expected a filter of genome.filters, got {name!r}"
                f"{nearest(str(name), filter(None, filters)) or '; name it there too'}"
            )
        if count > n_layers:
            raise ConfigError(f"merge3.space.knots: expected at most {n_layers}, one a layer, got {count}")
    return {name: _places(counts.get(name, counts[None])) for name in filters}


def _places(count: int) -> tuple[str, ...]:
    return tuple(f" knot {place}/{count}" for place in range(1, count + 1)) if count > 1 else ("",)
