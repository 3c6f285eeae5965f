"""The methods of layer-wise fusion: the parameters of each in a group of layers, as numbers and as a recipe's slice.

A group's tensors fall into sets, by filters on their names and a last one of all others, and each set has parameters of
its own. Values have the shape (sets, parameters).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from merge3_plugin.domain import FloatArray

# Weights and logits are counted in such steps. No merge tells finer ones apart, no weight that counts is 0 in float32,
# and sums and differences of logits are exact.
_STEP = 2.0**-24


if TYPE_CHECKING:
    from merge3_plugin.merging.made import Made


class Parameter(NamedTuple):
    """A number between 0 and ``high``; ``model`` is the one that it is of (None: of all)."""

    name: str
    model: str | None = None
    high: float = 1.0

    @property
    def start(self) -> float:
        return self.high / 2


class Method(Protocol):
    """``parameters`` of one set, ``common`` settings of a whole recipe, and slices and their exact inverse."""

    @property
    def parameters(self) -> tuple[Parameter, ...]: ...

    @property
    def common(self) -> Mapping[str, Any]: ...

    def slice(self, span: Sequence[int], values: FloatArray) -> dict[str, Any]: ...

    def values(self, slice_: Mapping[str, Any]) -> FloatArray:
        """Raises KeyError, IndexError, TypeError or ValueError for a slice of another method or other models."""
        ...

    def nearest(self, said: Sequence[Made]) -> FloatArray:
        """The values that come near to how a tensor of each set is made, by this method."""
        ...


class Linear:
    """The mean of all models under weights, which mergekit divides by their sum. All 0 stand for all alike."""

    def __init__(self, models: Sequence[str], filters: Sequence[str]) -> None:
        self._models, self._filters = models, filters
        self.parameters = tuple(Parameter("weight", model) for model in models)
        self.common = {"normalize": True}

    def slice(self, span: Sequence[int], values: FloatArray) -> dict[str, Any]:
        weights = np.rint(values / _STEP) * _STEP
        weights[weights.sum(axis=1) == 0] = 1.0
        return {
            "sources": [
                _source(model, span) | {"parameters": {"weight": _setting(self._filters, column)}}
                for model, column in zip(self._models, weights.T, strict=True)
            ]
        }

    def values(self, slice_: Mapping[str, Any]) -> FloatArray:
        return np.stack([_numbers(source["parameters"]["weight"]) for source in slice_["sources"]], axis=1)

    def nearest(self, said: Sequence[Made]) -> FloatArray:
        weights = np.array([[one.value("weight", model) or 0.0 for model in self._models] for one in said])
        return weights / np.maximum(weights.max(axis=1, keepdims=True), 1.0)


class TaskArithmetic:
    """The base and ``scale`` times the sum of all models' differences to it."""

    def __init__(self, models: Sequence[str], base: str, filters: Sequence[str]) -> None:
        self._sources, self._filters = _with_base(models, base), filters
        self.parameters = (Parameter("scale"),)
        self.common = {"weight": 1.0, "normalize": False}

    def slice(self, span: Sequence[int], values: FloatArray) -> dict[str, Any]:
        (scales,) = values.T
        sources = [_source(model, span) for model in self._sources]
        return {"sources": sources, "parameters": {"lambda": _setting(self._filters, scales)}}

    def values(self, slice_: Mapping[str, Any]) -> FloatArray:
        return _numbers(slice_["parameters"]["lambda"])[:, None]

    def nearest(self, said: Sequence[Made]) -> FloatArray:
        return np.array([[one.value("lambda", None)] for one in said])


class Ties:
    """The base and ``scale`` times the models' merged differences to it (TIES, 2306.01708).

    Of each difference the fraction ``mask_rate``, the smallest numbers, is dropped; what is left is merged number by
    number as the mean of those that have the sign of their sum.
    """

    def __init__(self, models: Sequence[str], base: str, filters: Sequence[str]) -> None:
        self._sources, self._filters = _with_base(models, base), filters
        self.parameters = (Parameter("mask_rate", high=0.99), Parameter("scale"))
        self.common = {"weight": 1.0, "normalize": True}

    def slice(self, span: Sequence[int], values: FloatArray) -> dict[str, Any]:
        rates, scales = values.T
        settings = {"density": _setting(self._filters, 1 - rates), "lambda": _setting(self._filters, scales)}
        return {"sources": [_source(model, span) for model in self._sources], "parameters": settings}

    def values(self, slice_: Mapping[str, Any]) -> FloatArray:
        settings = slice_["parameters"]
        # Exact: 1 - rate has no digits beyond those of a number near 1.
        return np.stack([1 - _numbers(settings["density"]), _numbers(settings["lambda"])], axis=1)

    def nearest(self, said: Sequence[Made]) -> FloatArray:
        densities = [next(own["density"] for own in one.own.values() if "density" in own) for one in said]
        return np.array(
            [[1 - density, one.value("lambda", None)] for density, one in zip(densities, said, strict=True)]
        )


class Slerp:
    """Of the two models whose logits have the greatest sums over the sets, the first goes by ``t`` towards the second.

    ``t`` is the second's share in the softmax of the two logits, in each set.
    """

    def __init__(self, models: Sequence[str], filters: Sequence[str]) -> None:
        self._models, self._filters = models, filters
        self.parameters = tuple(Parameter("logit", model) for model in models)
        self.common: Mapping[str, Any] = {}

    def slice(self, span: Sequence[int], values: FloatArray) -> dict[str, Any]:
        steps = np.rint(values / _STEP)
        first, second = (int(i) for i in np.argsort(-steps.sum(axis=0), kind="stable")[:2])
        gaps = (steps[:, first] - steps[:, second]) * _STEP
        return {
            "sources": [_source(self._models[i], span) for i in (first, second)],
            "base_model": self._models[first],
            "parameters": {"t": _setting(self._filters, 1 / (1 + np.exp(gaps)))},
        }

    def values(self, slice_: Mapping[str, Any]) -> FloatArray:
        first, second = (self._models.index(source["model"]) for source in slice_["sources"])
        return self._logits(first, second, _numbers(slice_["parameters"]["t"]))

    def nearest(self, said: Sequence[Made]) -> FloatArray:
        first = said[0].base or ""
        (second,) = (model for model in said[0].inputs if model != first)
        t = np.array([one.value("t", None) for one in said])
        return self._logits(self._models.index(first), self._models.index(second), t)

    def _logits(self, first: int, second: int, t: FloatArray) -> FloatArray:
        gaps = np.rint(np.log((1 - t) / t) / _STEP) * _STEP
        found = np.zeros((len(t), len(self._models)))
        # As high as they can be, so that the other models' sums are below both.
        found[:, first], found[:, second] = 1 + np.minimum(gaps, 0), 1 - np.maximum(gaps, 0)
        return found


def _with_base(models: Sequence[str], base: str) -> tuple[str, ...]:
    return tuple(models) if base in models else (*models, base)


def _source(model: str, span: Sequence[int]) -> dict[str, Any]:
    return {"model": model, "layer_range": list(span)}


def _setting(filters: Sequence[str], values: FloatArray) -> Any:
    """A parameter of mergekit: a value for each filter, and the last for all else."""
    if not filters:
        return float(values[0])
    named = [{"filter": name, "value": float(value)} for name, value in zip(filters, values, strict=False)]
    return [*named, {"value": float(values[-1])}]


def _numbers(setting: Any) -> FloatArray:
    """The values of a `_setting`."""
    listed = [entry["value"] for entry in setting] if isinstance(setting, list) else [setting]
    return np.array(listed, dtype=np.float64)
