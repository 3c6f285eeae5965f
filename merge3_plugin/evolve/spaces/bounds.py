"""Which parameters of a merge method are searched, and between which bounds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_args, get_origin

from merge3_plugin.errors import ConfigError, nearest
from merge3_plugin.evolve.spaces.variables import decimal

if TYPE_CHECKING:
    from mergekit.merge_methods import MergeMethod


class Bounds(NamedTuple):
    """The closed interval of a parameter; an infinite end is no bound. With a ``step``, whole steps from ``low`` on."""

    low: float
    high: float
    step: float | None = None

    def inside(self, value: float) -> float:
        """The nearest value that the parameter can have."""
        if self.step is None:
            return min(max(value, self.low), self.high)
        low, step = decimal(self.low), decimal(self.step)
        steps = round((decimal(min(max(value, self.low), self.high)) - low) / step)
        return float(low + steps * step)

    def up_to(self, high: float) -> Bounds:
        """The same below ``high``."""
        high = min(high, self.high)
        if self.step is not None:
            low, step = decimal(self.low), decimal(self.step)
            high = float(low + (decimal(high) - low) // step * step)
        return self._replace(high=high)


# By parameter, or by method.parameter where one name means two things: RAM's epsilon and NearSwap's t are magnitudes of
# weight differences, DELLA's epsilon is a spread of densities.
BOUNDS: Mapping[str, Bounds] = {
    "weight": Bounds(0, math.inf),
    "density": Bounds(0, 1),
    "lambda": Bounds(0, 2),
    "gamma": Bounds(0, 0.5),
    "epsilon": Bounds(0, 0.5),
    "t": Bounds(0, 1),
    "r": Bounds(0, 1),
    "alpha": Bounds(0, 1),
    "scale": Bounds(0, 2),
    "select_topk": Bounds(0, 1),
    "ram.epsilon": Bounds(0, 0.01),
    "ramplus_tl.epsilon": Bounds(0, 0.01),
    "nearswap.t": Bounds(0, 0.01),
}

# Floats that say how exact a method computes, not what it computes.
TOLERANCES = ("eps", "tol")

# mergekit-evolve's own genes; slerp's are not parameters (see genes.SlerpGenes).
UPSTREAM: Mapping[str, tuple[str, ...]] = {
    "linear": ("weight",),
    "task_arithmetic": ("weight",),
    "ties": ("weight", "density"),
    "dare_ties": ("weight", "density"),
    "slerp": (),
}


def searched_parameters(
    method: MergeMethod,
    *,
    normalize: bool,
    fixed: Iterable[str],
    given: Mapping[str, Bounds | tuple[float, float]],
    offered: Mapping[str, tuple[float, float]] | None = None,
    allow_negative_weights: bool = False,
) -> dict[str, Bounds]:
    """The parameters of ``method`` that become genes, with their bounds, in the method's order.

    ``given`` are the config's bounds, ``offered`` those of the plug-in that brings the method (None: mergekit's own
    method); they win over the table in this order. ``fixed`` parameters are none. Raises ConfigError for bounds that do
    not fit the method, for a required parameter without bounds, and for a plug-in's float that nobody bounds.
    """
    name, fixed = method.spec.name, set(fixed)
    _check_given(method, given, fixed)
    found = {}
    for spec in method.spec.parameters:
        parameter = spec.name
        if parameter in fixed:
            continue
        bounds = given.get(parameter) or (offered or {}).get(parameter)
        if bounds is None and is_float(spec) and _has_effect(method, parameter, normalize):
            bounds = BOUNDS.get(f"{name}.{parameter}") or BOUNDS.get(parameter)
            if parameter == "weight" and allow_negative_weights:
                bounds = Bounds(-math.inf, math.inf)
            if bounds is None and offered is not None and parameter not in TOLERANCES:
                raise _unbounded(name, parameter)
        if bounds is not None:
            found[parameter] = Bounds(*bounds)
        elif spec.required and name != "slerp":
            raise _unbounded(name, parameter)
    return found


def _unbounded(method: str, parameter: str) -> ConfigError:
    return ConfigError(
        f"genome.merge_method: no bounds are known for {parameter!r} of {method}; "
        "search it with merge3.bounds or fix it in merge3.parameters"
    )


def _check_given(method: MergeMethod, given: Mapping[str, Bounds | tuple[float, float]], fixed: set[str]) -> None:
    name, specs = method.spec.name, {parameter.name: parameter for parameter in method.spec.parameters}
    for parameter, (low, high, step) in ((parameter, Bounds(*bounds)) for parameter, bounds in given.items()):
        if parameter not in specs:
            raise ConfigError(f"merge3.bounds: {name} has no parameter {parameter!r}{nearest(parameter, specs)}")
        if parameter in fixed:
            raise ConfigError(f"merge3.bounds: {parameter!r} is fixed in merge3.parameters; drop it from one of them")
        if not is_float(specs[parameter]):
            raise ConfigError(f"merge3.bounds: {parameter!r} of {name} is no float; fix it in merge3.parameters")
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ConfigError(f"merge3.bounds: expected finite low < high for {parameter!r}, got {low}, {high}")
        if step and (decimal(high) - decimal(low)) % decimal(step):
            raise ConfigError(
                f"merge3.bounds: expected a whole number of steps from min to max of {parameter!r}, got steps of "
                f"{step:g} from {low:g} to {high:g}"
            )


def is_float(parameter: Any) -> bool:
    """Whether a method's parameter (mergekit's ParameterSpec) is a float, not a flag or a count."""
    kind = parameter.value_type
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    return kind is float


def _has_effect(method: MergeMethod, parameter: str, normalize: bool) -> bool:
    """False for parameters that this variant of task arithmetic does not use, or that only repeat the weights."""
    if method.spec.name in UPSTREAM:
        return parameter in UPSTREAM[method.spec.name]
    if parameter == "density":
        return getattr(method, "sparsification_method", True) is not None
    if parameter == "lambda" and any(p.name == "normalize" for p in method.spec.parameters):
        return normalize  # without normalisation it would only scale the weights
    return True
