"""Whose a run folder is: the config, the items and the parents that it was begun with, by its record."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from merge3_plugin import __version__
from merge3_plugin.config import RunConfig, parse_config
from merge3_plugin.errors import RunError
from merge3_plugin.evolve.guard import fingerprint
from merge3_plugin.evolve.store import RunStore
from merge3_plugin.harness.benchmark import Benchmark

# Settings that only say when to stop: a run may go on under others.
BUDGET_KEYS = ("max_fevals", "max_items", "max_tokens", "timeout", "patience", "stop_at_noise", "max_failures")


def claim(store: RunStore, config: RunConfig, folder: Path) -> None:
    """Make the folder this config's, or see that it is. Raises RunError that names the first key that differs."""
    # A folder in which nothing was scored is free: a config that failed its checks may come back mended.
    store.forget_unless_scored()
    own = _lasting(config)
    kept = store.pin("config", own)
    if kept != own:
        # A key that is newer than the record had its default then.
        kept = _lasting(parse_config(kept, str(store.path)))
        # How many live models there are, and on which of several GPUs, may change on the way.
        for each in (kept, own):
            each["merge3"]["device"] = _kind(each["merge3"]["device"])
    if kept != own:
        key, was, now = next(_differences(kept, own))
        raise RunError(
            f"{folder}: expected the config that this folder was begun with, got another: {key} was {was!r}, "
            f"is {now!r}; go back to it, or name a new --storage-path"
        )


def _lasting(config: RunConfig) -> dict[str, Any]:
    """What of a config makes a run what it is."""
    own = config.model_dump(mode="json")
    for key in BUDGET_KEYS:
        own["merge3"]["search"].pop(key)
    own["merge3"].pop("reuse")  # the answers are the same either way
    own["merge3"].pop("baselines")  # they come after all else, so a finished run may still be asked for them
    return own


def _kind(device: str | list[str]) -> str:
    names = [device] if isinstance(device, str) else device
    return ", ".join(sorted({name.partition(":")[0] for name in names}))


def _differences(kept: Any, own: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(kept, dict) and isinstance(own, dict):
        for key in sorted(kept.keys() | own.keys()):
            yield from _differences(kept.get(key), own.get(key), f"{path}.{key}" if path else key)
    elif kept != own:
        yield path, kept, own


def pin_inputs(store: RunStore, benchmarks: Mapping[str, Benchmark], folders: Sequence[Sequence[Path]]) -> None:
    """Keep what identifies items and parents; RunError if they have changed under a run that goes on."""
    inputs: dict[str, Any] = {f"model {i}": [fingerprint(part) for part in of] for i, of in enumerate(folders)}
    for name, benchmark in benchmarks.items():
        identity = json.dumps([benchmark.item_ids, benchmark.item_hashes])
        inputs[f"items {name}"] = hashlib.sha256(identity.encode()).hexdigest()
    for key, now in inputs.items():
        if store.pin(key, now) != now:
            raise RunError(f"{store.path}: expected {key} as the run began, it has changed; use a new --storage-path")
    packages = ("lm_eval", "mergekit", "torch", "transformers", "cma", "numpy")
    store.pin("versions", {"merge3-plugin": __version__} | {name: metadata.version(name) for name in packages})
