"""The parents of a run: found, checked against each other, and loaded once."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mergekit.architecture import ConfiguredModuleArchitecture, WeightInfo, arch_info_for_config, get_architecture_info
from mergekit.common import ModelReference, dtype_from_name
from mergekit.config import MergeConfiguration
from mergekit.io.tasks import LoaderCache, LoadTensor
from mergekit.options import MergeOptions
from safetensors import SafetensorError

from merge3_plugin.errors import ConfigError, ModelError, nearest
from merge3_plugin.merging.references import find_model, one_line

# A parent's name, where it is, and the wanted weights, to its tensors by mergekit's names.
Read = Callable[[str, ModelReference, Sequence[WeightInfo]], dict[str, torch.Tensor]]

_DTYPES = ("float32", "bfloat16", "float16", "float64")


@dataclass(frozen=True, eq=False)
class Parent:
    """A parent's ``name`` as recipes write it, where its files are, and its tensors by mergekit's names."""

    name: str
    ref: ModelReference
    config: Any
    tensors: Mapping[str, torch.Tensor]
    labels: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Family:
    """The parents, and what they share: mergekit's weights before, in each layer of, and after the stack."""

    parents: Mapping[str, Parent]
    pre: Sequence[WeightInfo]
    layers: Sequence[Sequence[WeightInfo]]
    post: Sequence[WeightInfo]
    dtype: torch.dtype
    module: ConfiguredModuleArchitecture
    _renamed: dict[tuple[int, int], Sequence[WeightInfo]] = field(default_factory=dict)

    def parent(self, name: str) -> Parent:
        """The parent that a recipe names, as mergekit writes it. Raises ValueError for another model."""
        try:
            return self.parents[name]
        except KeyError:
            raise ValueError(f"model {name!r}, which is not among the parents{nearest(name, self.parents)}") from None

    def layer(self, place: int, source: int) -> Sequence[WeightInfo]:
        """The weights of the merged model's layer ``place``, which is made like the parents' layer ``source``."""
        if place == source:
            return self.layers[source]
        if (place, source) not in self._renamed:
            kept = {weight.name for weight in self.layers[source]}
            pairs = zip(self.module.layer_weights(source), self.module.layer_weights(place), strict=True)
            self._renamed[place, source] = [there for here, there in pairs if here.name in kept]
        return self._renamed[place, source]

    def weights(self, layers: Sequence[int] | None = None) -> list[WeightInfo]:
        """Every weight of a merged model of these layers of the parents; unset: of each in its place."""
        sources = range(len(self.layers)) if layers is None else layers
        stack = [weight for place, source in enumerate(sources) for weight in self.layer(place, source)]
        return [*self.pre, *stack, *self.post]


def load_family(names: Sequence[str], base: str | None, *, dtype: str, options: MergeOptions) -> Family:
    """Find, check and load the parents ``names`` (the base among them), memory-mapped where ``dtype`` is their own.

    ``dtype`` is ``auto`` (the parents' own, promoted where they differ) or a torch name, else ConfigError. Raises
    ModelError for a model that is missing, unreadable or pickled, or of another architecture, depth or shape.
    """
    check_dtype(dtype)
    refs = {name: find_model(name, options) for name in names}
    if not options.lora_merge_cache and (adapted := [name for name, ref in refs.items() if ref.lora]):
        raise ModelError(
            f"model {adapted[0]!r}: expected a folder for merged LoRA models, got none; name a cache folder"
        )
    return make_family(refs, base, dtype=dtype, options=options, read=_read_tensors)


def make_family(
    refs: Mapping[str, ModelReference], base: str | None, *, dtype: str, options: MergeOptions, read: Read
) -> Family:
    """The parents ``refs``, checked against each other; ``read`` gives their tensors. Raises as `load_family`."""
    LoaderCache().setup(options)
    configs = read_configs(refs, options)
    present = {name: _tensor_names(name, ref) for name, ref in refs.items()}
    module = _module(list(refs), base, refs, configs, options)
    n_layers = module.num_layers()

    pre, post = _kept(module.pre_weights(), present), _kept(module.post_weights(), present)
    layers = [_kept(module.layer_weights(index), present) for index in range(n_layers)]
    wanted = [*pre, *(weight for layer in layers for weight in layer), *post]

    raw = {name: read(name, ref, wanted) for name, ref in refs.items()}
    target = dtype_from_name(dtype) if dtype != "auto" else _promoted(raw.values(), wanted)
    parents = {
        name: Parent(
            name,
            ref,
            configs[name],
            {
                weight.name: _as(tensors[weight.name], dtype_from_name(weight.force_dtype) or target)
                for weight in wanted
            },
            {weight.name: _task(ref, weight).group_label() or "" for weight in wanted},
        )
        for (name, ref), tensors in zip(refs.items(), raw.values(), strict=True)
    }
    _check_shapes(parents, wanted)
    return Family(parents, pre, layers, post, target, module)


def weightless_family(
    refs: Mapping[str, ModelReference], base: str | None, configs: Mapping[str, Any], options: MergeOptions
) -> Family | None:
    """The parents ``refs`` without their weights; None where mergekit knows the architecture only from these.

    Optional weights are all there. Raises ModelError for an architecture of several stacks.
    """
    if arch_info_for_config(configs[base or next(iter(refs))]) is None:
        return None
    module = _module(list(refs), base, refs, configs, options)
    layers = [module.layer_weights(index) for index in range(module.num_layers())]
    names = {weight.name: weight.name for weight in module.all_weights()}
    parents = {name: Parent(name, ref, configs[name], {}, names) for name, ref in refs.items()}
    return Family(parents, module.pre_weights(), layers, module.post_weights(), torch.float32, module)


def check_dtype(dtype: str) -> None:
    """Raise ConfigError unless ``dtype`` is ``auto`` or a torch name that models are merged in."""
    if dtype != "auto" and dtype not in _DTYPES:
        raise ConfigError(f"dtype: expected auto or one of {', '.join(_DTYPES)}, got {dtype!r}")


def read_configs(
    refs: Mapping[str, ModelReference], options: MergeOptions, away: Collection[str] = ()
) -> dict[str, Any]:
    """The Hugging Face config of each parent, by name, checked against the others' and for files of weights beside it.

    ``away`` are those whose weights need not be there yet. Raises ModelError for what is missing or unreadable, and for
    parents of different architecture or depth.
    """
    configs = {}
    for name, ref in refs.items():
        folder = Path(ref.model.path)
        if not (folder / "config.json").is_file():
            inside = " (for the models in it write the folder and /*)" if any(folder.glob("*/config.json")) else ""
            raise ModelError(
                f"model {name!r}: expected config.json in {folder}, got none; is it a model folder?{inside}"
            )
        if name not in away:
            check_files(name, folder)
        configs[name] = _read_config(name, ref, options)
    _check_configs(configs, allow_crimes=options.allow_crimes)
    return configs


def check_files(name: str, folder: Path) -> None:
    """Raise ModelError unless the folder holds all its files of weights, as safetensors."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file() and not (folder / "model.safetensors").is_file():
        if any(folder.glob("*.bin")) or any(folder.glob("*.pt")) or any(folder.glob("*.pth")):
            raise ModelError(f"model {name!r}: expected safetensors, got pickled weights; save it as safetensors first")
        raise ModelError(f"model {name!r}: expected model.safetensors in {folder}, got no weights")
    try:
        shards = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else set()
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"model {name!r}: expected readable JSON files, got: {one_line(error)}") from None
    if missing := sorted(shard for shard in shards if not (folder / shard).is_file()):
        raise ModelError(f"model {name!r}: expected all its shards, got no {missing[0]}; download it again")


def _read_config(name: str, ref: ModelReference, options: MergeOptions) -> Any:
    try:
        config = ref.config(trust_remote_code=options.trust_remote_code)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"model {name!r}: expected readable JSON files, got: {one_line(error)}") from None
    if len(config.architectures or ()) != 1:
        raise ModelError(f"model {name!r}: expected one architecture in config.json, got {config.architectures}")
    return config


def _tensor_names(name: str, ref: ModelReference) -> set[str]:
    LoaderCache().loaders.pop(ref, None)  # mergekit keeps what it once opened, though the files may have changed
    try:
        return set(LoaderCache().get(ref).index.tensor_paths)
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise ModelError(f"model {name!r}: expected readable weights, got: {one_line(error)}") from None


def _check_configs(configs: Mapping[str, Any], *, allow_crimes: bool) -> None:
    (first, expected), *others = configs.items()
    for name, config in others:
        got, want = config.architectures[0], expected.architectures[0]
        if got != want and not allow_crimes:
            raise ModelError(
                f"model {name!r}: expected architecture {want} as in {first!r}, got {got}; merge like to like"
            )
        got, want = getattr(config, "num_hidden_layers", None), getattr(expected, "num_hidden_layers", None)
        if got != want:
            raise ModelError(
                f"model {name!r}: expected {want} layers as in {first!r}, got {got}; merge models of one depth"
            )


def _module(
    names: Sequence[str], base: str | None, refs: Mapping[str, ModelReference], configs: Mapping[str, Any], options: Any
) -> ConfiguredModuleArchitecture:
    donor = base or names[0]
    info = arch_info_for_config(configs[donor])
    if info is None:
        inputs = [{"model": ref} for ref in refs.values()]
        everyone = {"merge_method": "linear", "models": inputs, "base_model": refs[base] if base else None}
        try:
            info = get_architecture_info(MergeConfiguration.model_validate(everyone), options)
        except (RuntimeError, ValueError, SafetensorError) as error:
            raise ModelError(f"model {donor!r}: mergekit does not know its architecture: {one_line(error)}") from None
    if len(info.modules) != 1:
        raise ModelError(f"model {donor!r}: expected one stack of layers, got {', '.join(sorted(info.modules))}")
    (definition,) = info.modules.values()
    return ConfiguredModuleArchitecture(
        info=definition.architecture, config=configs[donor], weight_prefix=definition.weight_prefix
    )


def _kept(weights: Sequence[WeightInfo], present: Mapping[str, set[str]]) -> list[WeightInfo]:
    """Without the optional weights that no parent has (a tied output layer, usually), as mergekit does."""
    return [
        weight
        for weight in weights
        if not weight.optional or any({weight.name, *(weight.aliases or ())} & names for names in present.values())
    ]


def _task(ref: ModelReference, weight: WeightInfo) -> LoadTensor:
    return LoadTensor(
        model=ref,
        tensor=weight.name,
        optional=weight.optional,
        aliases=weight.aliases,
        tied_names=weight.tied_names,
    )


def _read_tensors(name: str, ref: ModelReference, weights: Sequence[WeightInfo]) -> dict[str, torch.Tensor]:
    try:
        tensors = {weight.name: _task(ref, weight).execute() for weight in weights}
    except (SafetensorError, OSError, RuntimeError, KeyError) as error:
        raise ModelError(f"model {name!r}: expected readable weights, got: {one_line(error)}") from None
    if missing := [key for key, tensor in tensors.items() if tensor is None]:
        raise ModelError(f"model {name!r}: expected tensor {missing[0]} as in the other parents, got none")
    return tensors


def _promoted(raw: Any, weights: Sequence[WeightInfo]) -> torch.dtype:
    free = [weight.name for weight in weights if weight.force_dtype is None]
    dtypes = {tensors[name].dtype for tensors in raw for name in free if tensors[name].is_floating_point()}
    first, *others = sorted(dtypes, key=str)
    for other in others:
        first = torch.promote_types(first, other)
    return first


def _as(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _check_shapes(parents: Mapping[str, Parent], weights: Sequence[WeightInfo]) -> None:
    first, *others = parents.values()
    for parent in others:
        for weight in weights:
            got, want = list(parent.tensors[weight.name].shape), list(first.tensors[weight.name].shape)
            axis = weight.vocabulary_axis
            if axis is not None and len(got) == len(want):
                got[axis] = want[axis] = 0  # vocabularies have a check of their own, with a remedy
            if got != want:
                raise ModelError(
                    f"model {parent.name!r}: expected {weight.name} of shape {tuple(want)} as in {first.name!r}, "
                    f"got {tuple(got)}; merge models of one shape"
                )
