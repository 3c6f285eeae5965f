"""What mergekit's planner would do for a recipe: which tensors make which, under which settings, in which order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mergekit import merge_methods
from mergekit.architecture import WeightInfo
from mergekit.config import InputSliceDefinition, MergeConfiguration, OutputSliceDefinition

from merge3_plugin.merging.parents import Family
from merge3_plugin.merging.settings import Settings


@dataclass(frozen=True, eq=False)
class Job:
    """One tensor to merge: the output, each source's input, the slice's settings, and parameters by their names.

    ``shared`` parameters are the method's, ``own`` those of each source.
    """

    output: WeightInfo
    inputs: Sequence[WeightInfo]
    settings: Settings
    shared: Mapping[str, Any]
    own: Sequence[Mapping[str, Any]]


def plan(config: MergeConfiguration, family: Family) -> list[Job]:
    """The jobs of a recipe, in the order in which mergekit's executor runs them.

    Raises ValueError or RuntimeError for a recipe that mergekit would refuse, or that asks for layers that the parents
    do not have.
    """

    for definition in _slices(config, len(family.layers)):
        for model in (*(source.model for source in definition.sources), definition.base_model or config.base_model):
            if model is not None:
                family.parent(str(model))

    def label(job: Job) -> str:
        # mergekit's executor goes through the tensors by the name that they have in the inputs.
        parents = map(family.parent, job.settings.names)
        return max(parent.labels[weight.name] for parent, weight in zip(parents, job.inputs, strict=True))

    return sorted(jobs(config, family), key=label)


def stack(config: MergeConfiguration, n_layers: int) -> tuple[int, ...]:
    """For each layer of the merged model, the layer of parents of ``n_layers`` that it is made like.

    Where a layer is merged from several, that is the first source's. Raises ValueError for ranges that do not fit.
    """
    ranges = [_range(definition, n_layers) for definition in _slices(config, n_layers)]
    layers = tuple(layer for span in ranges for layer in span)
    if not layers:
        raise ValueError("slices without a layer")
    return layers


def jobs(config: MergeConfiguration, family: Family) -> Iterator[Job]:
    """The jobs of a recipe, whose models may be others than the parents, layer by layer. Raises as `plan` does."""
    method = merge_methods.get(config.merge_method)
    slices = _slices(config, len(family.layers))
    for definition in slices:
        base = definition.base_model or config.base_model
        method.validate_inputs([source.model for source in definition.sources], base)

    # Weights before and after the stack take the settings of the first and the last slice, at its beginning.
    settings = [Settings(config, definition, method) for definition in slices]
    for weight in family.pre:
        yield _job(weight, [weight] * len(settings[0].models), settings[0], 0)
    done = 0
    for definition, own in zip(slices, settings, strict=True):
        layers = _range(definition, len(family.layers))
        for offset, source in enumerate(layers):
            t = offset / (len(layers) - 1) if len(layers) > 1 else 1
            inputs = zip(*(family.layers[s.layer_range[0] + offset] for s in definition.sources), strict=True)
            for weight, weights in zip(family.layer(done + offset, source), inputs, strict=True):
                yield _job(weight, weights, own, t)
        done += len(layers)
    for weight in family.post:
        yield _job(weight, [weight] * len(settings[-1].models), settings[-1], 0)


def _job(output: WeightInfo, inputs: Sequence[WeightInfo], settings: Settings, t: float) -> Job:
    return Job(output, inputs, settings, *settings.values(output.name, [weight.name for weight in inputs], t))


def _slices(config: MergeConfiguration, n_layers: int) -> list[OutputSliceDefinition]:
    """The recipe's slices; a recipe of ``models`` is one slice of all layers, with the base added, as in mergekit."""
    if config.slices:
        return config.slices
    if not config.models:
        raise ValueError("modules; write slices or models")
    sources = [
        InputSliceDefinition(model=model.model, layer_range=(0, n_layers), parameters=model.parameters)
        for model in config.models
    ]
    if config.base_model and config.base_model not in [source.model for source in sources]:
        sources.append(InputSliceDefinition(model=config.base_model, layer_range=(0, n_layers)))
    return [OutputSliceDefinition(sources=sources)]


def _range(definition: OutputSliceDefinition, n_layers: int) -> range:
    """The layers of a slice's first source; none of a slice that is there for what stands around the layers alone."""
    ranges = [source.layer_range for source in definition.sources]
    start, end = ranges[0]
    if any(e - s != end - start or not 0 <= s <= e <= n_layers for s, e in ranges):
        raise ValueError(
            f"layer ranges {ranges}, where each must be as long as the others and within {n_layers} layers"
        )
    return range(start, end)
