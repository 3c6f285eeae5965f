"""The candidates of a run: its parents, the points of the space that are known beforehand, and any other vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from merge3_plugin.domain import FloatArray
from merge3_plugin.evolve.evaluate import Candidate
from merge3_plugin.evolve.recipe import candidate_id
from merge3_plugin.evolve.spaces import Space

UNIFORM = "uniform"


class Candidates:
    """``parents`` by label; ``known`` by label: the space's known points, parents among them and the uniform merge.

    ``names`` are the models of the run, by which recipes are told apart; ``parents`` maps labels to such names.
    """

    def __init__(self, space: Space, names: Sequence[str], parents: Mapping[str, str]) -> None:
        self._space, self._names = space, names
        self.parents = {label: Candidate(f"parent:{label}", parent=name) for label, name in parents.items()}
        by_name = {candidate.parent: candidate for candidate in self.parents.values()}
        self.known: dict[str, tuple[FloatArray, Candidate]] = {}
        for label, vector in space.known_points().items():
            recipe = space.decode(vector)
            parent = by_name.get(label.removeprefix("parent:")) if label.startswith("parent:") else None
            identity = parent.id if parent else self._identity(recipe)
            self.known[label] = (vector, Candidate(identity, recipe, parent.parent if parent else None))

    @property
    def uniform(self) -> Candidate | None:
        """The uniform merge, where the space has one."""
        return self.known[UNIFORM][1] if UNIFORM in self.known else None

    @property
    def known_ids(self) -> set[str]:
        return {candidate.id for _, candidate in self.known.values()}

    def at(self, vector: FloatArray) -> Candidate:
        """The candidate that a vector stands for."""
        return self.of(self._space.decode(vector))

    def of(self, recipe: Mapping[str, Any]) -> Candidate:
        """The candidate of a recipe, of the space or not."""
        for _, known in self.known.values():
            if known.recipe == recipe:
                return known
        return Candidate(self._identity(recipe), recipe)

    def _identity(self, recipe: Mapping[str, Any]) -> str:
        return candidate_id(recipe, self._names)
