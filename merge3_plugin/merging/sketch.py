"""The parents by the headers of their files: how large they are and whether they fit each other, no weight read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mergekit.architecture import WeightInfo
from mergekit.architecture.conversion import convert_checkpoint_tensors
from mergekit.common import ModelReference, dtype_from_name
from mergekit.io.tasks import LoaderCache, LoadTensor
from mergekit.options import MergeOptions
from safetensors import SafetensorError, safe_open

from merge3_plugin.errors import ModelError
from merge3_plugin.merging.parents import Family, make_family
from merge3_plugin.merging.references import one_line
from merge3_plugin.merging.vocabulary import check_vocabularies, load_tokenizers

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip


@dataclass(frozen=True)
class Size:
    """A parent in bytes: in its ``files``; ``mapped`` from these as it is, ``copied`` to memory in another dtype."""

    files: int
    mapped: int
    copied: int


@dataclass(frozen=True, eq=False)
class Sketch:
    """What the parents are before they are loaded.

    ``sizes`` are the parents', ``live`` is a merged model in bytes, ``layer`` the largest of its layers and ``tensor``
    of its tensors, ``parameters`` how many weights it has, ``dtype_name`` what they are merged in. ``own_head`` lists
    the parents with an output layer of their own; the others tie it to the embeddings. ``config`` and ``tokenizer`` are
    those of the parent that merged models are made like; with a ``tokenizer_source`` their vocabulary is still to be
    built, and the tokenizer is None where no parent is here yet. ``chat_templates`` are as in `Merger`. Parents in
    ``away`` have no weights here yet: their sizes are by their configs, and they are not checked.
    """

    sizes: Mapping[str, Size]
    live: int
    layer: int
    tensor: int
    parameters: int
    dtype_name: str
    own_head: tuple[str, ...]
    config: Any
    tokenizer: Any
    chat_templates: Mapping[str, str | None]
    away: tuple[str, ...]


def sketch_parents(
    refs: Mapping[str, ModelReference],
    configs: Mapping[str, Any],
    base: str | None,
    away: Sequence[str],
    *,
    dtype: str,
    tokenizer_source: str | None,
    options: MergeOptions,
) -> Sketch:
    """The sketch of the parents ``refs``, of which those ``away`` have no weights here; ``dtype`` may not be auto then.

    Raises ModelError for files that are unreadable or cut short, and for parents that do not fit each other: shapes
    and, unless ``tokenizer_source`` is set, vocabulary.
    """
    # An adapter is merged when the parents are loaded; the result has the shapes and the dtype of its model.
    here = {name: ModelReference(model=ref.model) for name, ref in refs.items() if name not in away}
    donor = base or next(iter(refs))
    if not here:
        return _by_config(refs, configs[donor], donor, dtype, options)
    raw: dict[str, dict[str, torch.Tensor]] = {}

    def read(name: str, ref: ModelReference, wanted: Sequence[WeightInfo]) -> dict[str, torch.Tensor]:
        raw[name] = _read_headers(name, ref, wanted)
        return raw[name]

    family = make_family(here, base if base in here else None, dtype=dtype, options=options, read=read)
    tokenizers = load_tokenizers(family, options)
    if not tokenizer_source:
        check_vocabularies(family, tokenizers)
    tensors = family.parents[donor if donor in here else next(iter(here))].tensors
    sizes = {name: _size(raw[name], parent.tensors) for name, parent in family.parents.items()}
    largest = max(sizes.values(), key=lambda size: size.mapped + size.copied)
    return Sketch(
        {name: sizes.get(name, largest) for name in refs},
        sum(map(_bytes, tensors.values())),
        max(sum(_bytes(tensors[weight.name]) for weight in layer) for layer in family.layers),
        max(map(_bytes, tensors.values())),
        sum(tensor.numel() for tensor in tensors.values()),
        str(family.dtype).removeprefix("torch."),
        _own_head(family),
        configs[donor],
        tokenizers.get(donor) or next(iter(tokenizers.values())),
        {name: getattr(tokenizers.get(name), "chat_template", None) for name in refs},
        tuple(away),
    )


def _by_config(refs: Mapping[str, Any], config: Any, donor: str, dtype: str, options: MergeOptions) -> Sketch:
    """The sketch of parents none of which is here."""
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=options.trust_remote_code)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"model {donor!r}: expected a causal language model, got: {one_line(error)}") from None
    counts, itemsize = [parameter.numel() for parameter in model.parameters()], dtype_from_name(dtype).itemsize
    parameters = sum(counts)
    size = parameters * itemsize
    sizes, templates = dict.fromkeys(refs, Size(size, size, 0)), dict.fromkeys(refs)
    layer = size // int(config.num_hidden_layers)
    return Sketch(
        sizes, size, layer, max(counts) * itemsize, parameters, dtype, (), config, None, templates, tuple(refs)
    )


def _read_headers(name: str, ref: ModelReference, weights: Sequence[WeightInfo]) -> dict[str, torch.Tensor]:
    """The weights as tensors without content."""
    places = LoaderCache().get(ref).index.tensor_paths
    found: dict[str, torch.Tensor] = {}
    try:
        for shard in sorted(set(places.values())):
            with safe_open(Path(ref.model.path) / shard, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 - it is no mapping
                    header = file.get_slice(key)
                    found[key] = torch.empty(header.get_shape(), dtype=_DTYPES[header.get_dtype()], device="meta")
    except (SafetensorError, OSError, KeyError) as error:
        raise ModelError(
            f"model {name!r}: expected readable weights, got: {one_line(error)}; download it again"
        ) from None
    tensors = {weight.name: _found(ref, weight, found) for weight in weights}
    if missing := [weight for weight, tensor in tensors.items() if tensor is None]:
        raise ModelError(f"model {name!r}: expected tensor {missing[0]} as in the other parents, got none")
    return {weight: tensor for weight, tensor in tensors.items() if tensor is not None}


def _found(ref: ModelReference, weight: WeightInfo, found: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
    """A weight among what the files hold, or made of that as mergekit makes it (of experts, one by one)."""
    task = LoadTensor(model=ref, tensor=weight.name, aliases=weight.aliases, tied_names=weight.tied_names)
    if label := task.group_label():
        return found[label]
    sources = {key: (lambda tensor=tensor: tensor) for key, tensor in found.items()}
    kind = ref.config(trust_remote_code=LoaderCache().trust_remote_code).model_type
    made = (convert_checkpoint_tensors(kind, sources, name) for name in (weight.name, *(weight.aliases or ())))
    return next((tensor for tensor in made if tensor is not None), None)


def _own_head(family: Family) -> tuple[str, ...]:
    heads = {weight.name for weight in family.weights() if weight.optional and weight.tied_names}
    return tuple(n for n, p in family.parents.items() if any(p.labels[head] == head for head in heads))


def _size(raw: Mapping[str, torch.Tensor], used: Mapping[str, torch.Tensor]) -> Size:
    mapped = sum(_bytes(tensor) for name, tensor in raw.items() if tensor.dtype == used[name].dtype)
    copied = sum(_bytes(tensor) for name, tensor in used.items() if tensor.dtype != raw[name].dtype)
    return Size(sum(map(_bytes, raw.values())), mapped, copied)


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
