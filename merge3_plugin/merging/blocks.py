"""Tensors taken in blocks that stay in the processor's cache, and the buffers that kernels use for a block."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

T = TypeVar("T")

# Just too few for torch to share one operation among its threads, which would meet thousands of times in a merge: on a
# busy machine a meeting can take a millisecond. Threads of ours take whole blocks and meet when all tensors are done.
# And several buffers of this size in fp32 fit the cache of a core.
_ELEMENTS = 2**15 - 2**6
_BLOCKS_OF_A_TASK = 8
# A GPU has no use for blocks but to bound what buffers take of its memory.
_ELEMENTS_OF_A_GPU = 2**24


class Blocks:
    """Blocks for tensors on ``device``, and buffers for one block at a time in each thread, reused from block to block.

    There are as many threads as torch uses when it is made.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.size = _ELEMENTS if device.type == "cpu" else _ELEMENTS_OF_A_GPU
        self._threads = torch.get_num_threads() if device.type == "cpu" else 1
        self._pool: ThreadPoolExecutor | None = None
        self._local = threading.local()

    def of(self, *tensors: torch.Tensor) -> Iterator[Any]:
        """The blocks of flat tensors of one length, side by side, after the place where they start."""
        starts = range(0, tensors[0].numel(), self.size)
        return zip(starts, *(tensor.split(self.size) for tensor in tensors), strict=True)

    def map(self, function: Callable[..., T], *tensors: torch.Tensor) -> list[T]:
        """What the function makes of each item of `of`, which threads share."""
        return self.begin(function, *tensors)()

    def begin(self, function: Callable[..., T], *tensors: torch.Tensor) -> Callable[[], list[T]]:
        """Begin to `map`; what comes back waits for the results."""
        items = list(self.of(*tensors))
        if self._threads == 1 or len(items) == 1:
            done = [function(*item) for item in items]
            return lambda: done
        self._pool = self._pool or ThreadPoolExecutor(self._threads, thread_name_prefix="merge")

        def results(first: int) -> list[T]:
            return [function(*item) for item in items[first : first + _BLOCKS_OF_A_TASK]]

        tasks = [self._pool.submit(results, first) for first in range(0, len(items), _BLOCKS_OF_A_TASK)]
        return lambda: [result for task in tasks for result in task.result()]

    def buffer(self, name: Hashable, like: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
        """This thread's buffer ``name``, flat and as long as ``like``; unset ``dtype`` is that of ``like``.

        It holds what the thread last wrote there.
        """
        kept: dict[Any, torch.Tensor] = self._local.__dict__
        key, n = (name, dtype or like.dtype), like.numel()
        buffer = kept.get(key)
        if buffer is None or buffer.numel() < n:
            buffer = kept[key] = torch.empty(n, dtype=key[1], device=self.device)
        return buffer if buffer.numel() == n else buffer[:n]

    def widened(self, name: Hashable, block: torch.Tensor) -> torch.Tensor:
        """The block in fp32: itself where it is, else a copy in the buffer ``name``."""
        if block.dtype == torch.float32:
            return block
        return self.buffer(name, block, torch.float32).copy_(block)

    def scalar(self, value: float, dtype: torch.dtype) -> torch.Tensor:
        """A number of this dtype on the device, where arithmetic on it needs no synchronisation."""
        return torch.full((), value, dtype=dtype, device=self.device)
