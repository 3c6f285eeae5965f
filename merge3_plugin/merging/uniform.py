"""The numbers that mergekit's random methods draw, drawn once a run.

A draw of torch's on the CPU takes one number of the generator for each element, in their order, and compares it with
the element's probability. `uniform_` takes the same numbers, several times faster than `bernoulli`.
"""

from __future__ import annotations

import torch

from merge3_plugin.machine import can_spare
from merge3_plugin.merging.blocks import Blocks


class Uniform:
    """Numbers of torch's generator on the CPU, rounded down to the dtype of a merge.

    A number is below a probability of that dtype if and only if it is so before it is rounded down. Every merge of a
    run starts from the same seed, so the same numbers come again, unless a recipe draws for fewer tensors than others.

    They are kept up to ``size`` bytes, that of all parents, and while as much again can be spared: parents that are
    mapped from their files would be read from the disk otherwise, which takes longer than drawing.
    """

    def __init__(self, size: int) -> None:
        self._size, self._left = size, size
        self._known: dict[tuple[bytes, int, torch.dtype], tuple[torch.Tensor, torch.Tensor]] = {}

    def next(self, like: torch.Tensor, blocks: Blocks) -> torch.Tensor:
        """One number in [0, 1) for each element, which the generator has then passed; not to be written to."""
        generator = torch.default_generator
        before = generator.get_state()
        key = before.numpy().tobytes(), like.numel(), like.dtype
        if key in self._known:
            found, after = self._known[key]
            generator.set_state(after)
            return found
        found = torch.empty(like.numel(), dtype=like.dtype)
        for _, part in blocks.of(found):
            numbers = blocks.buffer("draws", part, torch.float32).uniform_()
            if part.dtype == torch.float32:
                part.copy_(numbers)
            else:  # bfloat16 is the upper half of float32
                part.view(torch.int16).copy_(numbers.view(torch.int32) >> 16)
        n_bytes = found.numel() * found.element_size()
        if n_bytes <= self._left and can_spare(self._size):
            self._known[key] = found, generator.get_state()
            self._left -= n_bytes
        return found
