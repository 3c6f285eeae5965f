"""What mergekit calls sparsification, block by block: which elements of a delta are set to zero."""

from __future__ import annotations

from collections.abc import Callable

import torch

from merge3_plugin.merging.blocks import Blocks
from merge3_plugin.merging.kernels import Inputs
from merge3_plugin.merging.magnitudes import Magnitudes

# Thin out, in place, the block of a delta that starts at this place of the tensor.
Thinning = Callable[[torch.Tensor, int], None]


def keep_all(delta: torch.Tensor, start: int) -> None:
    """Leave the delta as it is."""


def keep_none(delta: torch.Tensor, start: int) -> None:
    """Leave nothing of it."""
    delta.zero_()


def keep_largest(inputs: Inputs, place: int, blocks: Blocks) -> Thinning:
    """Keep the source's ``density`` of its delta: the elements that are largest."""
    density, size = inputs.own[place]["density"], inputs.tensors[place].numel()
    if density >= 1:
        return keep_all
    if density <= 0:
        return keep_none
    cut = _magnitudes(inputs, place).largest(max(1, int(density * size)))
    below = _next_below(cut.value, inputs.tensors[place].dtype)

    def thin(delta: torch.Tensor, start: int) -> None:
        _drop_up_to(delta, below, cut.value, cut.place - start, out=delta)

    return thin


def keep_between(inputs: Inputs, place: int, blocks: Blocks) -> Thinning | None:
    """Keep the source's ``density`` of its delta: those below the ``gamma`` that are largest.

    None where parameters are beyond what mergekit gives a meaning.
    """
    density, gamma, size = inputs.own[place]["density"], inputs.own[place]["gamma"], inputs.tensors[place].numel()
    if density >= 1:
        return keep_all
    if density < 0 or gamma < 0:
        return None
    n = int(density * size)
    first = max(0, size - n - int(gamma * size))
    if n == 0:
        return keep_none
    cuts = [_magnitudes(inputs, place).smallest(rank) if 0 < rank < size else None for rank in (first, first + n)]
    low, high = [cut and (cut, _next_below(cut.value, inputs.tensors[place].dtype)) for cut in cuts]

    def thin(delta: torch.Tensor, start: int) -> None:
        if high:
            cut, below = high
            larger = blocks.buffer("larger", delta)
            delta.sub_(_drop_up_to(delta, cut.value, below, cut.place - start, out=larger))
        if low:
            cut, below = low
            _drop_up_to(delta, cut.value, below, cut.place - start, out=delta)

    return thin


def rescaled(thin: Thinning, inputs: Inputs, place: int, blocks: Blocks) -> Thinning:
    """Thin out, then multiply such that the magnitudes sum up to what they did before."""
    if inputs.base is None:
        raise ValueError("expected a base to form deltas from, got none")
    before = inputs.constant(sum_of_magnitudes, place, inputs.base)

    def magnitudes_left(start: int, tensor: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
        delta = torch.sub(tensor, base, out=blocks.buffer("thinned", tensor))
        thin(delta, start)
        return blocks.widened("wide", delta.abs_()).sum()

    # By blocks, which is nearer to the sum than mergekit's over the whole tensor, by its last bit.
    parts = blocks.map(magnitudes_left, inputs.tensors[place], inputs.tensors[inputs.base])
    left = torch.stack(parts).sum(dtype=torch.float64).to(before.dtype)
    ratio = torch.where((before < 1e-7) | (left < 1e-7), 1, before / left)

    def thin_and_rescale(delta: torch.Tensor, start: int) -> None:
        thin(delta, start)
        delta.mul_(ratio)

    return thin_and_rescale


def sum_of_magnitudes(tensor: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """That of what two tensors differ by, in their dtype, as mergekit sums it."""
    return (tensor - base).abs_().sum()


def _magnitudes(inputs: Inputs, place: int) -> Magnitudes:
    if inputs.base is None:
        raise ValueError("expected a base to form deltas from, got none")
    return inputs.constant(Magnitudes, place, inputs.base)


def _drop_up_to(block: torch.Tensor, first: float, then: float, turn: int, *, out: torch.Tensor) -> torch.Tensor:
    """``out``, set to the block without magnitudes up to ``first`` before the place ``turn``, up to ``then`` from it.

    By hardshrink, for a comparison to booleans and a product with them take ten times as long.
    """
    turn = min(max(turn, 0), block.numel())
    for part, result, threshold in ((block[:turn], out[:turn], first), (block[turn:], out[turn:], then)):
        if part.numel():
            torch.hardshrink(part, threshold, out=result)
    return out


def _next_below(value: float, dtype: torch.dtype) -> float:
    """The largest number of this dtype below a magnitude."""
    bits = torch.int32 if dtype == torch.float32 else torch.int16
    number = torch.tensor(value, dtype=dtype)
    return (number.view(bits) - 1).view(dtype).item() if value > 0 else -1.0
