"""Runs that vLLM scores: whether it can here, and how each candidate's weights come to it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from merge3_plugin.config import RunConfig
from merge3_plugin.errors import ConfigError
from merge3_plugin.machine import memory_total

if TYPE_CHECKING:
    from merge3_plugin.harness.vllm_model import VllmModel
    from merge3_plugin.merging.merger import Merger

VLLM = "vllm"


class Served:
    """``merger``, whose every new weights go on to ``engine``, tensor by tensor and in memory.

    It begins with a parent: ModelError where the engine computes something else of it than transformers.
    """

    def __init__(self, merger: Merger, engine: VllmModel) -> None:
        self._merger, self._engine = merger, engine
        self.load_parent(merger.parents[0])

    def merge(self, recipe: Mapping[str, Any]) -> None:
        self._merger.merge(recipe)
        self._engine.take(self._merger.tensors)

    def load_parent(self, name: str) -> None:
        self._merger.load_parent(name)
        self._engine.take(self._merger.tensors)


def check_vllm(config: RunConfig) -> None:
    """Raise ConfigError where vLLM shall score and is not installed, finds no device, or cannot do what is asked."""
    if config.merge3.eval.model != VLLM:
        return
    where = "merge3.eval.model: expected vLLM"
    if config.merge3.space.kind in ("dis", "prune"):
        raise ConfigError(f"{where} with models of one depth, got space {config.merge3.space.kind}; write model: hf")
    if (many := len(config.merge3.devices())) > 1:
        raise ConfigError(f"{where} with one live model, got {many}; name one device, or write model: hf")
    if find_spec(VLLM) is None:
        raise ConfigError(f"{where} to be installed, got none; pip install 'merge3-plugin[vllm]', or write model: hf")
    if not vllm_device():
        raise ConfigError(f"{where} with a device that it supports, got none here; write model: hf")


def vllm_device() -> str:
    """The type of device that vLLM runs on here; empty: none."""
    return str(_platform().device_type)


def vllm_settings(config: RunConfig) -> dict[str, Any] | None:
    """What `VllmModel` is made with; None where vLLM does not score."""
    settings = config.merge3.eval
    if settings.model != VLLM:
        return None
    return {**settings.model_args.model_dump(), "batch_size": settings.batch_size, "seed": config.merge3.seed}


def vllm_identity(config: RunConfig) -> dict[str, Any] | None:
    """Of vLLM, all that answers hang on, as plain JSON; None where it does not score."""
    settings = vllm_settings(config)
    if settings is None:
        return None
    return {**settings, "version": version(VLLM), "device": _platform().get_device_name()}


def vllm_memory(config: RunConfig, device: str) -> int:
    """Bytes that vLLM takes of the memory in which ``device`` merges; 0 where it does not score, or elsewhere."""
    kind, _, number = device.partition(":")
    if config.merge3.eval.model != VLLM or vllm_device() != kind or number.strip("0"):  # it takes the first GPU
        return 0
    return int(config.merge3.eval.model_args.gpu_memory_utilization * memory_total(device))


def _platform() -> Any:
    # From its first import on: standard output is for results, and a warning for each candidate says nothing.
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from vllm.platforms import current_platform

    return current_platform
