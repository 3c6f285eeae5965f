"""Settings of the space genome that other spaces have no use for."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from merge3_plugin.errors import ConfigError

if TYPE_CHECKING:
    from merge3_plugin.config import RunConfig

_GENOME = ("merge_method", "layer_granularity", "normalize", "allow_negative_weights", "filters", "smooth")
_MERGE3 = ("bounds", "parameters")


def refuse_unused(config: RunConfig, *, used: Collection[str] = ()) -> None:
    """Raise ConfigError where the config sets what its space does not read; ``used`` are the keys that it does read."""
    for where, block, keys in (("genome", config.genome, _GENOME), ("merge3", config.merge3, _MERGE3)):
        for key in keys:
            default = type(block).model_fields[key].get_default(call_default_factory=True)
            if key not in used and (value := getattr(block, key)) != default:
                kind = config.merge3.space.kind
                raise ConfigError(f"{where}.{key}: the space {kind} has no use for it, got {value!r}; leave it out")
