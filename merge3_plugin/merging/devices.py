"""The devices that live models are on."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

import torch

from merge3_plugin.errors import ConfigError
from merge3_plugin.merging.references import one_line

log = logging.getLogger(__name__)


def find_device(name: str) -> torch.device:
    """The device of this name, ``auto`` for a GPU where there is one. Raises ConfigError for one that is not here."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"device: expected auto, cpu or one that is here, got {name!r}: {one_line(error)}") from None
    return device


def live_models_on(names: Sequence[str]) -> dict[str, int]:
    """How many of these devices are one and the same, by its name. ConfigError for one that is not here.

    Scores differ in their last bits from one kind of device to another, and which live model scores what is chance: so
    ConfigError for a CPU beside GPUs, and a warning for GPUs of several kinds.
    """
    places = [place_of(find_device(name)) for name in names]
    if len(types := {place.type for place in places}) > 1:
        raise ConfigError(f"device: expected devices of one kind, got {' and '.join(sorted(types))}; name one of them")
    kinds = {torch.cuda.get_device_name(place) for place in places if place.type == "cuda"}
    if len(kinds) > 1:
        log.warning(
            "device: %s differ in the last bits of scores: a search on both is not repeated bit for bit",
            " and ".join(sorted(kinds)),
        )
    return dict(Counter(map(str, places)))


def use_device(device: torch.device, *, own_stream: bool = False) -> None:
    """Let this thread work on this device; of a GPU, in its ``own_stream`` where it has others beside it."""
    if device.type != "cuda":
        return
    torch.cuda.set_device(place_of(device))
    if own_stream:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.default_stream())  # in which the model was written there
        torch.cuda.set_stream(stream)


def place_of(device: torch.device) -> torch.device:
    """The device with its number: ``cuda`` is one of those that have one."""
    return torch.empty(0, device=device).device
