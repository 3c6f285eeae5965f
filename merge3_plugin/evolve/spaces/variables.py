"""The coordinates of a search space's vectors: what an optimizer has to know of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np

from merge3_plugin.domain import FloatArray


class Kind(StrEnum):
    REAL = "real"
    INTEGER = "integer"
    CATEGORICAL = "categorical"


class When(NamedTuple):
    """A condition: the earlier categorical variable ``name`` has one of these ``choices``."""

    name: str
    choices: frozenset[str]


@dataclass(frozen=True)
class Variable:
    """One coordinate.

    ``low`` and ``high`` are its limits, infinite where there are none; INTEGER coordinates are whole numbers there,
    and CATEGORICAL ones the places of ``choices``, of which none is nearer to another. ``start`` is where a search
    begins. ``when`` says under which condition the coordinate matters (None: always); the recipe is the same for
    every value of one that does not. ``unit`` is how much of the recipe's parameter one unit of the coordinate is, and
    ``offset`` what it is at coordinate 0.
    """

    name: str
    low: float
    high: float
    start: float
    kind: Kind = Kind.REAL
    choices: tuple[str, ...] = ()
    when: When | None = None
    unit: float = 1.0
    offset: float = 0.0

    @property
    def spread(self) -> tuple[float, float]:
        """The finite interval that is searched where a strategy needs one: the limits, else [0, 1]."""
        return (self.low, self.high) if math.isfinite(self.low) and math.isfinite(self.high) else (0.0, 1.0)

    def settled(self, coordinate: float) -> float:
        """The nearest coordinate that the variable can have."""
        if self.kind is not Kind.REAL:
            coordinate = math.floor(coordinate + 0.5)
        return float(min(max(coordinate, self.low), self.high))

    def parameter(self, coordinate: float) -> float:
        """The recipe's parameter at a coordinate; of a whole number of steps as people write it: 0.3, not 3 * 0.1."""
        if self.kind is Kind.REAL:
            return self.offset + float(coordinate) * self.unit
        return float(decimal(self.offset) + int(self.settled(coordinate)) * decimal(self.unit))


def described(variable: Variable) -> dict[str, Any]:
    """The variable as JSON, which has no infinity: no limit is null."""
    return {
        "name": variable.name,
        "kind": variable.kind.value,
        "low": variable.low if math.isfinite(variable.low) else None,
        "high": variable.high if math.isfinite(variable.high) else None,
        "start": variable.start,
        "unit": variable.unit,
        "offset": variable.offset,
        "choices": list(variable.choices),
        "when": None if variable.when is None else {variable.when.name: sorted(variable.when.choices)},
    }


def read_variable(description: Mapping[str, Any]) -> Variable:
    """The variable that was `described` so."""
    low, high = description["low"], description["high"]
    conditions = [When(name, frozenset(choices)) for name, choices in (description["when"] or {}).items()]
    return Variable(
        description["name"],
        -math.inf if low is None else low,
        math.inf if high is None else high,
        description["start"],
        Kind(description["kind"]),
        tuple(description["choices"]),
        conditions[0] if conditions else None,
        description.get("unit", 1.0),
        description.get("offset", 0.0),
    )


def decimal(number: float) -> Decimal:
    """The number as it is written, exactly."""
    return Decimal(repr(float(number)))


def start(variables: Sequence[Variable]) -> FloatArray:
    """Where a search starts, shape (dimension,)."""
    return np.array([variable.start for variable in variables])


def checked(variables: Sequence[Variable], vector: Sequence[float] | FloatArray) -> FloatArray:
    """The vector as an array. Raises ValueError for another length, NaN or infinity."""
    x = np.asarray(vector, dtype=np.float64)
    if x.shape != (len(variables),) or not np.isfinite(x).all():
        raise ValueError(f"expected {len(variables)} finite numbers, got {x}")
    return x


def settled(variables: Sequence[Variable], vector: Sequence[float] | FloatArray) -> FloatArray:
    """The nearest vector that the variables can have. Raises ValueError for another length, NaN or infinity."""
    x = checked(variables, vector)
    return np.array([variable.settled(coordinate) for variable, coordinate in zip(variables, x, strict=True)])


def draw(variables: Sequence[Variable], rng: np.random.Generator) -> FloatArray:
    """A vector drawn uniformly from the spreads, each whole number and each choice alike."""
    return np.array([_at(variable, u) for variable, u in zip(variables, rng.random(len(variables)), strict=True)])


def active(variables: Sequence[Variable], vector: FloatArray) -> list[bool]:
    """Which coordinates matter at ``vector``."""
    place = {variable.name: i for i, variable in enumerate(variables)}
    matters: list[bool] = []
    for variable in variables:
        if variable.when is None:
            matters.append(True)
            continue
        i = place[variable.when.name]
        chosen = variables[i].choices[int(variables[i].settled(vector[i]))]
        matters.append(matters[i] and chosen in variable.when.choices)
    return matters


def _at(variable: Variable, u: float) -> float:
    low, high = variable.spread
    if variable.kind is Kind.REAL:
        return low + u * (high - low)
    return float(min(low + math.floor(u * (high - low + 1)), high))
