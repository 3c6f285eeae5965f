"""Search spaces: which merges a search chooses among, as vectors and as recipes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from merge3_plugin.domain import FloatArray
from merge3_plugin.errors import ConfigError
from merge3_plugin.evolve.spaces.variables import Variable

if TYPE_CHECKING:
    from merge3_plugin.config import RunConfig
    from merge3_plugin.merging.made import Made

# By kind: the class that is made of (config, n_layers, dtype=), imported when it is asked for.
_SPACES = {
    "genome": ("merge3_plugin.evolve.spaces.method_choice", "genome_space"),
    "weights": ("merge3_plugin.evolve.spaces.weights", "WeightsSpace"),
    "lfs": ("merge3_plugin.evolve.spaces.lfs", "LfsSpace"),
    "dis": ("merge3_plugin.evolve.spaces.dis", "DisSpace"),
    "prune": ("merge3_plugin.evolve.spaces.prune", "PruneSpace"),
}


class Space(Protocol):
    """Vectors, one coordinate for each of ``variables``, and the recipes they stand for.

    Every finite vector of this length has a recipe: coordinates outside their limits count as the nearest inside
    (`Variable.settled`; spaces that mergekit-evolve has too keep its reflection). A recipe is plain JSON that
    ``merging.Merger`` merges and ``evolve.recipe.to_yaml`` writes for mergekit.
    """

    @property
    def variables(self) -> Sequence[Variable]: ...

    def decode(self, vector: Sequence[float] | FloatArray) -> dict[str, Any]:
        """The recipe of a vector. Raises ValueError for a vector of another length or with NaN or infinity."""
        ...

    def encode(self, recipe: Mapping[str, Any]) -> FloatArray:
        """A vector whose ``decode`` is exactly ``recipe``. Raises ConfigError for a recipe of another space."""
        ...

    def nearest(self, merge: Sequence[Made]) -> FloatArray:
        """A vector whose merge comes near to this one, of whatever recipe; the same where the space has the same."""
        ...

    def known_points(self) -> dict[str, FloatArray]:
        """Vectors worth scoring first: ``parent:NAME`` for parents, ``uniform`` for the uniform merge, or ``start``.

        A parent is there only where the space has exactly its weights, bit for bit; ``alone:NAME`` is a parent but for
        rounding.
        """
        ...

    def describe(self) -> list[str]:
        """What a person should know of the space besides its variables, a line each."""
        ...


def make_space(config: RunConfig, n_layers: int, *, dtype: str) -> Space:
    """The space that ``merge3.space`` asks for, over parents of ``n_layers`` layers.

    Raises ConfigError where genome and space do not fit each other or the depth, before any weight is read.
    """
    module, name = _SPACES[config.merge3.space.kind]
    space: Space = getattr(import_module(module), name)(config, n_layers, dtype=dtype)
    if not space.variables:
        raise ConfigError(
            f"merge3.space: expected something to search, got a space {config.merge3.space.kind} of no gene"
        )
    return space
