"""What a recipe says of one slice: its models, its method, and the values of the method's parameters there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mergekit.config import MergeConfiguration, OutputSliceDefinition
from mergekit.merge_methods import MergeMethod
from mergekit.merge_methods.base import ParameterScope, ParameterSpec
from mergekit.parameter_resolver import resolve_parameter


class Settings:
    """``method`` on the sources of a slice: ``names`` of their ``models``, and the place of the ``base`` among them.

    ``base`` is None where no source is the base model.
    """

    def __init__(self, config: MergeConfiguration, definition: OutputSliceDefinition, method: MergeMethod) -> None:
        self.config, self.method = config, method
        self.models = tuple(source.model for source in definition.sources)
        self.names = tuple(map(str, self.models))
        self.base_model = definition.base_model or config.base_model
        self.base_name = str(self.base_model) if self.base_model else None
        self.base = self.names.index(self.base_name) if self.base_name in self.names else None
        shared = (definition.parameters, config.parameters)
        self._scopes = [*((source.parameters, *shared) for source in definition.sources), shared]
        self._shared, self._own = method.spec.shared_parameters, method.spec.input_parameters
        self._everywhere: dict[tuple[str, int], Any] = {}
        self._all: tuple[dict[str, Any], list[dict[str, Any]]] | None = None  # where each has one value everywhere

    @property
    def plain(self) -> bool:
        """Whether it sets no parameter at all."""
        return not any(any(scopes) for scopes in self._scopes)

    def values(self, name: str, inputs: Sequence[str], t: float) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The shared parameters for the tensor ``name``, and each source's own for its tensor of ``inputs``.

        ``t`` is the place in the slice, 0 to 1, by which gradients are resolved. Values are those of mergekit's
        resolver. Raises ValueError or RuntimeError for a value that is missing or of another type.
        """
        if self._all is not None:
            return self._all
        shared = {parameter.name: self._value(parameter, -1, name, t) for parameter in self._shared}
        own = [
            {
                parameter.name: self._value(parameter, source, tensor, t)
                for parameter in self._own
                if source != self.base or parameter.scope == ParameterScope.INPUT
            }
            for source, tensor in enumerate(inputs)
        ]
        if len(self._everywhere) == len(shared) + sum(map(len, own)):
            self._all = shared, own
        return shared, own

    def _value(self, parameter: ParameterSpec, source: int, name: str, t: float) -> Any:
        key = (parameter.name, source)
        if key in self._everywhere:
            return self._everywhere[key]
        scopes = self._scopes[source]
        model = None if source < 0 else self.models[source]
        value = resolve_parameter(parameter, scopes, tensor_name=name, model=model, t=t)
        if _is_everywhere_the_same(parameter.name, scopes):
            self._everywhere[key] = value
        return value


def _is_everywhere_the_same(name: str, scopes: Sequence[Mapping[str, Any] | None]) -> bool:
    """Whether a parameter has one value for all tensors of a slice: no filter, no gradient."""
    setting = next((scope[name] for scope in scopes if scope is not None and name in scope), None)
    return not isinstance(setting, list) and not hasattr(setting, "filter")
