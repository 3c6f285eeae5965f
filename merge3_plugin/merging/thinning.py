"""What mergekit calls sparsification, block by block: elements of a delta that are set to zero."""

from __future__ import annotations

from collections.abc import Callable

import torch

from merge3_plugin.merging.kernels import Inputs
from merge3_plugin.merging.magnitudes import Magnitudes

# Set elements to zero in the block of a delta that starts at this place of the tensor.
Thinning = Callable[[torch.Tensor, int], None]


def keep_all(delta: torch.Tensor, start: int) -> None:
    """Leave the delta as it is."""


def keep_none(delta: torch.Tensor, start: int) -> None:
    """Leave nothing of it."""
    delta.zero_()


def keep_largest(inputs: Inputs, place: int) -> Thinning:
    """Keep the source's ``density`` of the elements: the largest of the delta."""
    density, size = inputs.own[place]["density"], inputs.tensors[place].numel()
    if density >= 1:
        return keep_all
    if density <= 0 or inputs.base is None:
        return keep_none
    cut = inputs.constant(Magnitudes, place, inputs.base).largest(max(1, int(density * size)))
    below = _next_below(cut.value, inputs.tensors[place].dtype)

    def thin(delta: torch.Tensor, start: int) -> None:
        # hardshrink keeps what is larger than its threshold.
        turn = min(max(cut.position - start, 0), delta.numel())
        for part, threshold in ((delta[:turn], below), (delta[turn:], cut.value)):
            if part.numel():
                torch.hardshrink(part, threshold, out=part)

    return thin


def _next_below(value: float, dtype: torch.dtype) -> float:
    """The largest number of this dtype below a magnitude."""
    bits = {torch.float32: torch.int32}.get(dtype, torch.int16)
    number = torch.tensor(value, dtype=dtype)
    return (number.view(bits) - 1).view(dtype).item() if value > 0 else -1.0
