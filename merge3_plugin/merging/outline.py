"""What the parents' small files and headers tell of the model they merge to, before a weight is read or downloaded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from mergekit.common import ModelReference
from mergekit.options import MergeOptions

from merge3_plugin.errors import ModelError
from merge3_plugin.merging.parents import Family, check_dtype, check_files, read_configs, weightless_family
from merge3_plugin.merging.references import SMALL_FILES, canonical, find_model
from merge3_plugin.merging.residual import why_not_scaled
from merge3_plugin.merging.sketch import Sketch, sketch_parents
from merge3_plugin.merging.stack import lists_by_layer


@dataclass(frozen=True)
class Outline:
    """The depth of a merged model, the torch name of its dtype, the parents without weights, and a sketch of them.

    ``family`` is None where mergekit knows the architecture only from the weights. Where these are not here yet, the
    dtype is the one that the configs announce, and ``Merger.dtype_name`` may be another. ``unscalable`` says why no
    residual scale can be folded into such a model (None: it can). ``by_layer`` are the lists of the config that have an
    entry for each layer.
    """

    n_layers: int
    dtype_name: str
    family: Family | None
    unscalable: str | None
    by_layer: tuple[str, ...]
    sketch: Sketch

    @property
    def tensors(self) -> tuple[str, ...] | None:
        """The names of a merged model's tensors, where they are known."""
        return None if self.family is None else tuple(weight.name for weight in self.family.weights())


def read_outline(
    models: Sequence[str],
    base_model: str | None,
    *,
    tokenizer_source: str | None = None,
    dtype: str = "auto",
    trust_remote_code: bool = False,
    allow_crimes: bool = False,
) -> Outline:
    """The outline of these parents. Of models on the hub, all but the weights is downloaded.

    Raises ModelError for parents that are missing, unreadable or do not fit each other (see `sketch_parents`), and
    ConfigError for an unknown ``dtype``.
    """
    check_dtype(dtype)
    options = MergeOptions(trust_remote_code=trust_remote_code, allow_crimes=allow_crimes)
    base = canonical(base_model) if base_model else None
    names = dict.fromkeys([*([base] if base else []), *map(canonical, models)])
    refs = {name: find_model(name, options, SMALL_FILES) for name in names}
    away = [name for name, ref in refs.items() if _is_away(name, ref)]
    configs = read_configs(refs, options, away)
    name, donor = next(iter(configs.items()))
    n_layers = getattr(donor, "num_hidden_layers", None)
    if not n_layers:
        raise ModelError(f"model {name!r}: expected num_hidden_layers in its config, got none")
    family = weightless_family(refs, base, configs, options)
    tensors = None if family is None else [weight.name for weight in family.weights()]
    announced = _announced(configs.values()) if dtype == "auto" else dtype
    sketch = sketch_parents(
        refs,
        configs,
        base,
        away,
        dtype=announced if away else dtype,
        tokenizer_source=tokenizer_source,
        options=options,
    )
    by_layer = tuple(lists_by_layer(donor, n_layers))
    return Outline(n_layers, sketch.dtype_name, family, why_not_scaled(donor, tensors), by_layer, sketch)


def _is_away(name: str, ref: ModelReference) -> bool:
    """Whether it is a model on the hub whose weights were not downloaded yet."""
    if Path(ModelReference.parse(name).model.path).expanduser().is_dir():
        return False
    try:
        check_files(name, Path(ref.model.path))
    except ModelError:
        return True
    return False


def _announced(configs: Iterable[Any]) -> str:
    """The dtype that the configs say, promoted where they differ; float32 where none says any."""
    dtypes = [config.dtype for config in configs if getattr(config, "dtype", None)]
    return str(reduce(torch.promote_types, dtypes) if dtypes else torch.float32).removeprefix("torch.")
