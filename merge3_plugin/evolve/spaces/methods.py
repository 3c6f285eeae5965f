"""What the genome of a config asks of its merge method, checked before anything is loaded or searched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from merge3_plugin.errors import ConfigError, nearest

if TYPE_CHECKING:
    from mergekit.merge_methods import MergeMethod

    from merge3_plugin.config import GenomeConfig
    from merge3_plugin.plugins import MethodEntry


def find_method(name: str | None, offered: Mapping[str, MethodEntry]) -> MergeMethod:
    """The method of this name, mergekit's or a plug-in's. Raises ConfigError if there is none, or none to search."""
    from mergekit import merge_methods

    if name is None:
        raise ConfigError("genome.merge_method: expected a merge method, got none; name one")
    known = {method.spec.name: method for method in merge_methods.registered_methods()}
    known |= {key: entry.method for key, entry in offered.items()}
    if name not in known:
        raise ConfigError(f"genome.merge_method: expected a known method, got {name!r}{nearest(name, known)}")
    method = known[name]
    if method.spec.contract.max_inputs == 1:
        raise ConfigError(f"genome.merge_method: {name} takes one model, so there is nothing to search; choose another")
    return method


def checked_parameters(method: MergeMethod, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The config's fixed parameters. Raises ConfigError for a name or type that is not the method's."""
    specs = {parameter.name: parameter for parameter in method.spec.parameters}
    for name, value in parameters.items():
        if name not in specs:
            raise ConfigError(f"merge3.parameters: {method.spec.name} has no parameter {name!r}{nearest(name, specs)}")
        try:
            for element in value if isinstance(value, list) else [value]:
                specs[name].validate(element)
        except ValueError:
            kind = getattr(specs[name].value_type, "__name__", specs[name].value_type)
            raise ConfigError(f"merge3.parameters: expected {kind} for {name!r}, got {value!r}") from None
    return dict(parameters)


def merged_models(genome: GenomeConfig, method: MergeMethod) -> tuple[tuple[str, ...], str | None]:
    """The models that are merged, in order, and the recipe's base_model. Raises ConfigError if they do not suit."""
    from mergekit.merge_methods import BasePolicy

    name, policy, base = method.spec.name, method.spec.contract.base, genome.base_model
    if len(set(genome.models)) != len(genome.models):
        raise ConfigError(f"genome.models: expected each model once, got {', '.join(genome.models)}")
    if name == "slerp":  # the better of the two that it merges is the base
        if base and base not in genome.models:
            raise ConfigError(
                "genome.base_model: slerp merges two of genome.models; list the base there or leave it out"
            )
        sources = tuple(genome.models)
    else:
        if policy == BasePolicy.REQUIRED and not base:
            raise ConfigError(f"genome.base_model: {name} needs the model that the others were made from; name it")
        if policy == BasePolicy.FORBIDDEN and base:
            raise ConfigError(f"genome.base_model: {name} takes none; leave it out, or list it in genome.models")
        joins = base and base not in genome.models and policy != BasePolicy.IGNORED
        sources = (*genome.models, base) if joins and base else tuple(genome.models)
        try:
            method.validate_inputs(sources, base if base in sources else None)
        except ValueError as error:
            raise ConfigError(f"genome.models: {name}: {str(error)[:1].lower()}{str(error)[1:]}") from None
    if len(sources) < 2:
        raise ConfigError(f"genome.models: expected at least two models to merge, got {', '.join(sources)}")
    if base is None and policy == BasePolicy.IGNORED and genome.tokenizer_source in ("base", "union"):
        base = genome.models[0]  # mergekit would take any of them, by chance
    return sources, base


def check_tokenizer_source(genome: GenomeConfig, method: MergeMethod) -> None:
    """Raise ConfigError where the vocabulary would depend on chance or on the candidate."""
    from mergekit.merge_methods import BasePolicy

    if genome.tokenizer_source not in ("base", "union"):
        return
    if genome.base_model is None and method.spec.contract.base != BasePolicy.IGNORED:
        raise ConfigError(
            f"genome.tokenizer_source: {genome.tokenizer_source} needs genome.base_model; name it, or a model"
        )
    if method.spec.name == "slerp" and genome.tokenizer_source == "union" and len(genome.models) > 2:
        raise ConfigError(
            "genome.tokenizer_source: slerp merges two models at a time, so the union would change with the candidate; "
            "take base or a model"
        )


def check_slerp(genome: GenomeConfig, fixed: Mapping[str, Any], smooth: bool) -> None:
    """Raise ConfigError for settings that slerp's genes have no room for."""
    if smooth or genome.filters:
        raise ConfigError(
            "genome: slerp takes neither smooth nor filters; use layer_granularity, or, for two models, make t the "
            "gene (merge3.bounds: {t: [0, 1]})"
        )
    if fixed:
        raise ConfigError("merge3: slerp takes no parameters; t comes from the models' weights")


def slerp_base(genome: GenomeConfig) -> str:
    """The model from which t counts, where t itself is the gene. Raises ConfigError unless there are two models."""
    if len(genome.models) != 2:
        raise ConfigError(
            f"merge3.bounds: t of slerp is a gene between two models, got {len(genome.models)}; "
            "leave t out to search which two are merged"
        )
    return genome.base_model or genome.models[0]
