"""Tensors taken in blocks that stay in the processor's cache, and the buffers that kernels use for a block."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Any, TypeVar

import torch

T = TypeVar("T")

# So many that torch's threads, which share each operation on a block and meet after it, are busy for longer than they
# meet; so few that what an operation leaves is still in the cache for the next.
_ELEMENTS = 2**18
# A GPU has no use for blocks but to bound what buffers take of its memory.
_ELEMENTS_OF_A_GPU = 2**24
# How many numbers are kept on the device.
_SCALARS = 1000


class Blocks:
    """Blocks for tensors on ``device``, and buffers for one block at a time, reused from block to block."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.size = _ELEMENTS if device.type == "cpu" else _ELEMENTS_OF_A_GPU
        self._buffers: dict[tuple[Hashable, torch.dtype], torch.Tensor] = {}
        self._scalars: dict[tuple[float, torch.dtype], torch.Tensor] = {}

    def of(self, *tensors: torch.Tensor) -> Iterator[Any]:
        """The blocks of flat tensors of one length, side by side, after the place where they start."""
        length = tensors[0].numel()
        if length <= self.size:  # as most are, on a GPU
            return iter([(0, *tensors)])
        starts = range(0, length, self.size)
        return zip(starts, *(tensor.split(self.size) for tensor in tensors), strict=True)

    def map(self, function: Callable[..., T], *tensors: torch.Tensor) -> list[T]:
        """What the function makes of each item of `of`."""
        return [function(*item) for item in self.of(*tensors)]

    def buffer(self, name: Hashable, like: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
        """The buffer ``name``, flat and as long as ``like``; unset ``dtype`` is that of ``like``.

        It holds what was last written there.
        """
        key, n = (name, dtype or like.dtype), like.numel()
        buffer = self._buffers.get(key)
        if buffer is None or buffer.numel() < n:
            buffer = self._buffers[key] = torch.empty(n, dtype=key[1], device=self.device)
        return buffer if buffer.numel() == n else buffer[:n]

    def widened(self, name: Hashable, block: torch.Tensor) -> torch.Tensor:
        """The block in fp32: itself where it is, else a copy in the buffer ``name``."""
        if block.dtype == torch.float32:
            return block
        return self.buffer(name, block, torch.float32).copy_(block)

    def term(self, name: Hashable, block: torch.Tensor) -> torch.Tensor:
        """The block, to be added to or multiplied with fp32: itself on a GPU, which widens as it reads, else `widened`.

        Not to be written to.
        """
        return block if self.device.type == "cuda" else self.widened(name, block)

    def scalar(self, value: float, dtype: torch.dtype) -> torch.Tensor:
        """A number on the device, where arithmetic on it needs no synchronisation; not to be written to."""
        if len(self._scalars) > _SCALARS:
            self._scalars.clear()
        if (value, dtype) not in self._scalars:  # as it mostly is, for a recipe has few numbers for all its tensors
            self._scalars[value, dtype] = torch.full((), value, dtype=dtype, device=self.device)
        return self._scalars[value, dtype]

    def factor(self, value: float) -> torch.Tensor:
        """A number in fp32 by which a `term` is multiplied in fp32."""
        # A product with a number without dimensions would have the dtype of the other factor.
        return self.scalar(value, torch.float32).view(1)
