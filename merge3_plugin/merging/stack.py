"""The layers of a live model: which stand in it, in which order, and what its config says of each."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Hashable, Sequence
from typing import Any

import torch

from merge3_plugin.merging import MergeFailed

# What configs say of every layer, in a list with an entry for each; and lists of the layers that are of some kind.
_OF_EACH = (
    "layer_types",
    "mlp_layer_types",
    "layers_block_type",
    "no_rope_layers",
    "indexer_types",
    "layer_rope_theta",
)
_THOSE_WITH = ("mlp_only_layers", "moe_layers", "full_attn_idxs")
_INDEX = "layer_idx"  # where a layer of transformers keeps its place, by which the KV cache knows it


class Stack:
    """The stack of decoder layers of ``model``, which is put together anew in place: the same model object, deeper,
    shallower, or with layers in another order.

    ``first`` are names of tensors of its first layer. Layers beyond the original ones are copies, kept for further use:
    the model holds as many as its deepest stack so far. Layers of one kind (class, shapes, attention window ...) stand
    in for each other, since every merge writes all their weights.
    """

    def __init__(self, model: Any, first: Collection[str]) -> None:
        self._model = model
        self._path = _path(model, first)
        owner, _, self._name = self._path.rpartition(".")
        self._owner = model.get_submodule(owner)
        self._config = self._owner.config
        layers = list(getattr(self._owner, self._name))
        self._original = tuple(range(len(layers)))
        self._kinds = [_kind(layer) for layer in layers]
        self._kept: dict[Hashable, list[torch.nn.Module]] = {}
        for kind, layer in zip(self._kinds, layers, strict=True):
            self._kept.setdefault(kind, []).append(layer)
        self._of_each = lists_by_layer(self._config, len(layers))
        self._those_with = {
            name: set(values) for name in _THOSE_WITH if (values := _listed(self._config, name)) is not None
        }
        self._now: tuple[int, ...] | None = self._original
        self._told: set[tuple[Hashable, ...]] = {tuple(self._kinds)}

    def build(self, sources: Sequence[int]) -> bool:
        """Make layer ``j`` one of the kind that original layer ``sources[j]`` is; whether anything changed.

        The weights of the new stack are undefined. Raises MergeFailed for a stack that the architecture's config
        cannot describe, so that the saved model would be another; the model is then no candidate until the next call.
        """
        if tuple(sources) == self._now:
            return False
        self._now = None
        used: Counter[Hashable] = Counter()
        layers = []
        for place, source in enumerate(sources):
            layers.append(self._take(self._kinds[source], used, place))
        setattr(self._owner, self._name, torch.nn.ModuleList(layers))
        self._config.num_hidden_layers = len(layers)
        for name, values in self._of_each.items():
            setattr(self._config, name, [values[source] for source in sources])
        for name, of in self._those_with.items():
            setattr(self._config, name, [place for place, source in enumerate(sources) if source in of])
        self._check([self._kinds[source] for source in sources])
        self._now = tuple(sources)
        return True

    def _take(self, kind: Hashable, used: Counter[Hashable], place: int) -> torch.nn.Module:
        kept = self._kept[kind]
        if used[kind] == len(kept):
            # The config is the whole model's, and changes with it.
            kept.append(copy.deepcopy(kept[0], {id(self._config): self._config}))
        layer = kept[used[kind]]
        used[kind] += 1
        for module in layer.modules():
            if hasattr(module, _INDEX):
                setattr(module, _INDEX, place)
        return layer

    def _check(self, kinds: Sequence[Hashable]) -> None:
        """MergeFailed unless a model made from the config has layers of these kinds."""
        if tuple(kinds) in self._told:
            return
        try:
            with torch.random.fork_rng(devices=[]), torch.device("meta"):
                made = type(self._model)(copy.deepcopy(self._model.config)).eval()
        except (ValueError, IndexError, KeyError, RuntimeError) as error:
            raise MergeFailed(f"layers: expected a config of {len(kinds)} layers, got: {error}") from None
        for place, (layer, kind) in enumerate(zip(made.get_submodule(self._path), kinds, strict=True)):
            if _kind(layer) != kind:
                raise MergeFailed(
                    f"layers: {type(self._config).__name__} cannot say of layer {place} what it is; "
                    "keep such layers in their place, or merge without changing the depth"
                )
        self._told.add(tuple(kinds))


def lists_by_layer(config: Any, n_layers: int) -> dict[str, list[Any]]:
    """The lists in a config that have an entry for each of its layers, by name.

    mergekit leaves them as they are where it changes the depth. transformers then refuses to write the config, so that
    ``mergekit-yaml`` ends with an error after it has written the weights.
    """
    lists = {name: _listed(config, name) for name in _OF_EACH}
    return {name: values for name, values in lists.items() if values is not None and len(values) == n_layers}


def _path(model: Any, first: Collection[str]) -> str:
    """Where the stack is that has all these tensors in its first layer."""
    for path, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and all(name.startswith(f"{path}.0.") for name in first):
            return str(path)
    raise ValueError(f"expected a stack of layers around {min(first)}, got none")


def _listed(config: Any, name: str) -> list[Any] | None:
    values = getattr(config, name, None)
    computed = isinstance(getattr(type(config), name, None), property)
    return list(values) if isinstance(values, list | tuple) and not computed else None


def _kind(layer: torch.nn.Module) -> Hashable:
    """What makes two layers interchangeable: their modules, the shapes in them, and their plain settings."""
    return tuple(
        (
            name,
            type(module),
            tuple((key, tuple(tensor.shape)) for key, tensor in module.named_parameters(recurse=False)),
            tuple((key, tuple(tensor.shape)) for key, tensor in module.named_buffers(recurse=False)),
            tuple(
                (key, value)
                for key, value in sorted(vars(module).items())
                if key != _INDEX and not key.startswith("_") and isinstance(value, bool | int | float | str | None)
            ),
        )
        for name, module in layer.named_modules()
    )
