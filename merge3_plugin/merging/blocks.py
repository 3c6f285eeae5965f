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
        self._buffers: dict[Hashable, torch.Tensor] = {}

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
        """The buffer ``name`` of a kernel, as long as the block ``like``; unset ``dtype`` is that of ``like``.

        It holds what was last written there.
        """
        key = (name, dtype or like.dtype, like.numel())
        if key not in self._buffers:
            whole = self._buffers.get(key[:2])
            if whole is None or whole.numel() < key[2]:
                whole = self._buffers[key[:2]] = torch.empty(
                    max(key[2], self.size) if self.device.type == "cpu" else key[2], dtype=key[1], device=self.device
                )
            self._buffers[key] = whole[: key[2]]
        return self._buffers[key]

    def widened(self, name: Hashable, block: torch.Tensor) -> torch.Tensor:
        """The block in fp32: itself where it is, else a copy in the buffer ``name``."""
        if block.dtype == torch.float32:
            return block
        return self.buffer(name, block, torch.float32).copy_(block)

    def scalar(self, value: float, dtype: torch.dtype) -> torch.Tensor:
        """A number of this dtype on the device, where arithmetic on it needs no synchronisation."""
        return torch.full((), value, dtype=dtype, device=self.device)
