"""The space of all weightings of many models: one linear combination, as of a training run's checkpoints (2412.04144).

Weights are whole billionths that sum to exactly one. Merged in float32 nothing finer can be told apart, the same merge
is always the same recipe, and a coding has an exact inverse although it takes logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from merge3_plugin.config.spaces import WeightsSpaceConfig
from merge3_plugin.domain import FloatArray
from merge3_plugin.errors import ConfigError
from merge3_plugin.evolve.labels import labels
from merge3_plugin.evolve.spaces.methods import check_tokenizer_source, find_method, merged_models
from merge3_plugin.evolve.spaces.unused import refuse_unused
from merge3_plugin.evolve.spaces.variables import Variable, checked, start

if TYPE_CHECKING:
    from merge3_plugin.config import RunConfig
    from merge3_plugin.merging.made import Made

_UNITS = 10**9
# Where every model has the same weight: the middle of the interval that strategies without limits search.
_START = 0.5
# The unit of a coordinate, so that steps of 1/6 suit: in logits, and in uniform weights where signs are free. Of 2, 4
# and 8, CMA-ES with 240 and 600 evaluations came nearest to known optima of 16 weights with 2 and 4.
_LOGITS, _SHARES = 3.0, 4.0
# How far weights of either sign go: farther than any merge survives, and billionths of so much are still exact.
_FAR = 1e3
# No sum of so many overflows.
_HUGE = 1e300


class WeightsSpace:
    """One coordinate for each of ``genome.models``, to weights whose sum is 1.

    ``softmax``: weights are all positive, and a coordinate is a logit. All models have one, although N - 1 would do: no
    model is special then, a gene means one model, and the direction in which nothing changes costs CMA-ES too little to
    be measured. ``normalised``: a coordinate's share of the sum of all; weights of 0 are within easy reach. With
    ``allow_negative`` the weights are the uniform ones plus the coordinates' distances from their mean: like any
    z / sum(z) they sum to 1, and unlike it nowhere near a sum of 0. A search starts at the uniform merge.

    Raises ConfigError for fewer than two models, and for settings of the genome that one combination has no room for.
    """

    def __init__(self, config: RunConfig, n_layers: int, *, dtype: str) -> None:
        chosen = config.merge3.space
        self._config = chosen if isinstance(chosen, WeightsSpaceConfig) else WeightsSpaceConfig(kind="weights")
        self._n_layers, self._dtype, self._genome = n_layers, dtype, config.genome
        if self._config.allow_negative and self._config.transform == "softmax":
            raise ConfigError(
                "merge3.space.allow_negative: a softmax is never negative; write transform: normalised with it"
            )
        refuse_unused(config, used=["merge_method"] if config.genome.merge_method == "linear" else [])
        linear = find_method("linear", {})
        self._models, self._base = merged_models(config.genome, linear)
        check_tokenizer_source(config.genome, linear)
        what = "logit" if self._config.transform == "softmax" else "weight"
        low = 0.0 if self._config.transform == "normalised" and not self._config.allow_negative else -math.inf
        label_of = labels(self._models)
        self.variables: tuple[Variable, ...] = tuple(
            Variable(f"{label_of[model]}.{what}", low, math.inf, _START) for model in self._models
        )

    def decode(self, x: Sequence[float] | FloatArray) -> dict[str, Any]:
        """The recipe of a vector. Raises ValueError for a vector of another length or with NaN or infinity."""
        units = _whole(self._weights(np.clip(checked(self.variables, x), -_HUGE, _HUGE)))
        sources = [
            {"model": model, "layer_range": [0, self._n_layers], "parameters": {"weight": int(unit) / _UNITS}}
            for model, unit in zip(self._models, units, strict=True)
        ]
        recipe: dict[str, Any] = {
            "merge_method": "linear",
            "slices": [{"sources": sources}],
            "parameters": {"normalize": False},  # they sum to 1, and dividing by that would round once more
            "dtype": self._dtype,
        }
        if self._base:
            recipe["base_model"] = self._base
        if self._genome.tokenizer_source:
            recipe["tokenizer_source"] = self._genome.tokenizer_source
        return recipe

    def encode(self, recipe: Mapping[str, Any]) -> FloatArray:
        """A vector whose ``decode`` is exactly ``recipe``. Raises ConfigError for a recipe of another space."""
        try:
            (slice_,) = recipe["slices"]
            weights = np.array([float(source["parameters"]["weight"]) for source in slice_["sources"]])
            vector = self._coordinates(weights)
            if self.decode(vector) == recipe:
                return vector
        except (KeyError, IndexError, TypeError, ValueError):
            pass
        raise ConfigError("recipe: expected one weighting of all models of this search space, got another")

    def nearest(self, merge: Sequence[Made]) -> FloatArray:
        """The vector of the weights that the merge's first tensor has, as shares of their sum."""
        weights = np.array([merge[0].value("weight", model) or 0.0 for model in self._models], dtype=np.float64)
        return self._coordinates(weights / weights.sum()) if weights.sum() > 0 else start(self.variables)

    def known_points(self) -> dict[str, FloatArray]:
        """Each model alone, as ``parent:NAME``, and ``uniform``."""
        alone = np.eye(len(self._models))
        points = {f"parent:{model}": self._coordinates(row) for model, row in zip(self._models, alone, strict=True)}
        return points | {"uniform": start(self.variables)}

    def describe(self) -> list[str]:
        """How coordinates become weights."""
        signs = ", of either sign" if self._config.allow_negative else ""
        return [f"merge method: linear, weights of {len(self._models)} models ({self._config.transform}{signs})"]

    def _weights(self, x: FloatArray) -> FloatArray:
        if self._config.transform == "softmax":
            odds = np.exp(_LOGITS * (x - x.max()))
            return np.asarray(odds / odds.sum())
        if self._config.allow_negative:
            away = _SHARES * (x - x.mean())
            if (reach := np.abs(away).max()) > _FAR:
                away *= 0.999 * _FAR / reach  # a little inside, so that the recipe's vector, too, is
            return np.asarray((1 + away) / len(x))
        sizes = np.abs(x)
        return np.asarray(sizes / sizes.sum()) if sizes.any() else np.full(len(x), 1 / len(x))

    def _coordinates(self, weights: FloatArray) -> FloatArray:
        if self._config.transform == "softmax":
            logits = np.log(np.maximum(weights, 1e-3 / _UNITS))  # rounds to no weight at all
            return np.asarray(_START + (logits - logits.mean()) / _LOGITS)
        if self._config.allow_negative:
            return np.asarray(_START + (weights * len(weights) - 1) / _SHARES)
        return np.asarray(_START * weights / weights.max())


def _whole(weights: FloatArray) -> FloatArray:
    """The weights in whole billionths; what rounding leaves of the sum goes to the greatest."""
    units = np.rint(weights * _UNITS)
    units[np.argmax(units)] += _UNITS - units.sum()
    return np.asarray(units)
