"""Tensors taken in blocks that stay in the processor's cache, and the buffers that kernels use for a block."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any

import torch

# So much in fp32 fits a core's cache together with a few buffers, and one call on it outlasts its overhead by far.
_ELEMENTS_OF_A_CORE = 2**16
# A GPU has no use for blocks but to bound what buffers take of its memory.
_ELEMENTS_OF_A_GPU = 2**24


class Blocks:
    """Blocks for tensors on ``device``, and buffers for one block at a time, reused from block to block."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._buffers: dict[tuple[Hashable, torch.dtype], torch.Tensor] = {}
        self._views: dict[tuple[Any, int], torch.Tensor] = {}

    @property
    def size(self) -> int:
        """How many elements a block has: enough that torch shares it among its threads."""
        if self.device.type != "cpu":
            return _ELEMENTS_OF_A_GPU
        return _ELEMENTS_OF_A_CORE * torch.get_num_threads()

    def of(self, *tensors: torch.Tensor) -> Iterator[Any]:
        """The blocks of flat tensors of one length, side by side, after the place where they start."""
        size = self.size
        return zip(range(0, tensors[0].numel(), size), *(tensor.split(size) for tensor in tensors), strict=True)

    def buffer(self, name: Hashable, like: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
        """The buffer ``name`` of a kernel, flat and as long as ``like``; unset ``dtype`` is that of ``like``.

        It holds what was last written there.
        """
        key, n = (name, dtype or like.dtype), like.numel()
        view = self._views.get((key, n))
        if view is None:
            whole = self._buffers.get(key)
            if whole is None or whole.numel() < n:
                self._views = {known: kept for known, kept in self._views.items() if known[0] != key}
                whole = self._buffers[key] = torch.empty(n, dtype=key[1], device=self.device)
            view = self._views[key, n] = whole[:n]
        return view

    def widened(self, name: Hashable, block: torch.Tensor) -> torch.Tensor:
        """The block in fp32: itself where it is, else a copy in the buffer ``name``."""
        if block.dtype == torch.float32:
            return block
        return self.buffer(name, block, torch.float32).copy_(block)

    def scalar(self, value: float, dtype: torch.dtype) -> torch.Tensor:
        """A number of this dtype on the device, where arithmetic on it needs no synchronisation."""
        return torch.full((), value, dtype=dtype, device=self.device)
