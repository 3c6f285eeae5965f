"""What the parents' config.json files tell of the model they merge to, before a weight is read or downloaded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from mergekit.architecture import arch_info_for_config
from mergekit.common import ModelReference
from mergekit.options import MergeOptions

from merge3_plugin.errors import ModelError
from merge3_plugin.merging.parents import check_dtype, read_configs
from merge3_plugin.merging.references import canonical, find_model
from merge3_plugin.merging.residual import why_not_scaled
from merge3_plugin.merging.stack import lists_by_layer


@dataclass(frozen=True)
class Outline:
    """The depth of a merged model, the torch name of the dtype its config announces, and its tensors' names.

    ``tensors`` is None where mergekit knows the architecture only from the weights. The dtype of weights may differ
    from what their config says: what is merged in is then ``Merger.dtype_name``. ``unscalable`` says why no residual
    scale can be folded into such a model (None: it can). ``by_layer`` are the lists of the config that have an entry
    for each layer.
    """

    n_layers: int
    dtype_name: str
    tensors: tuple[str, ...] | None
    unscalable: str | None
    by_layer: tuple[str, ...]


def read_outline(
    models: Sequence[str],
    base_model: str | None,
    *,
    dtype: str = "auto",
    trust_remote_code: bool = False,
    allow_crimes: bool = False,
) -> Outline:
    """The outline of these parents. Of models on the hub, JSON files alone are downloaded.

    Raises ModelError for parents that are missing, without readable config, or of different architecture or depth, and
    ConfigError for an unknown ``dtype``.
    """
    check_dtype(dtype)
    options = MergeOptions(trust_remote_code=trust_remote_code, allow_crimes=allow_crimes)
    names = dict.fromkeys(canonical(name) for name in ([base_model] if base_model else []) + list(models))
    refs = {name: find_model(name, options, ("*.json",)) for name in names}
    away = [name for name in names if not _is_folder(name)]
    configs = read_configs(refs, options, away)
    name, donor = next(iter(configs.items()))
    n_layers = getattr(donor, "num_hidden_layers", None)
    if not n_layers:
        raise ModelError(f"model {name!r}: expected num_hidden_layers in its config, got none")
    info = arch_info_for_config(donor)
    tensors = None if info is None else tuple(weight.name for weight in info.all_weights(donor))
    dtype_name = dtype if dtype != "auto" else _announced(configs.values())
    by_layer = tuple(lists_by_layer(donor, n_layers))
    return Outline(n_layers, dtype_name, tensors, why_not_scaled(donor, tensors), by_layer)


def _is_folder(name: str) -> bool:
    return Path(ModelReference.parse(name).model.path).expanduser().is_dir()


def _announced(configs: Iterable[Any]) -> str:
    """The dtype that the configs say, promoted where they differ; float32 where none says any."""
    dtypes = [config.dtype for config in configs if getattr(config, "dtype", None)]
    return str(reduce(torch.promote_types, dtypes) if dtypes else torch.float32).removeprefix("torch.")
