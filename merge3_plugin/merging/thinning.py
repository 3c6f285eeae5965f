"""What mergekit calls sparsification: which elements of a delta are set to zero."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import torch

from merge3_plugin.merging.blocks import Blocks
from merge3_plugin.merging.kernels import Inputs
from merge3_plugin.merging.magnitudes import Kept, Magnitudes

_ALL, _NONE = Kept(), Kept(low=math.inf)


@dataclass(frozen=True, eq=False)
class Thinning:
    """Of a delta it keeps what is ``kept`` by size.

    And of these, where there are ``draws``, flat and as long as the delta, those whose draw is below ``probability``.
    What is left is multiplied by the ``ratio``, where there is one; or, where loops are to find that out, such that its
    magnitudes sum up to the ``total``.
    """

    kept: Kept = _ALL
    draws: torch.Tensor | None = None
    probability: float = 1.0
    ratio: torch.Tensor | None = None
    total: float = math.nan

    @property
    def of_all(self) -> bool:
        """Whether all elements are treated alike."""
        return self.draws is None and self.kept in (_ALL, _NONE)

    def apply(self, delta: torch.Tensor, start: int, blocks: Blocks) -> None:
        """Thin out and rescale, in place, the block of a delta that starts at this place of the tensor."""
        kept = self.kept
        if kept == _NONE:
            delta.zero_()
        elif kept != _ALL:
            _keep(kept, delta, start, blocks)
        if self.draws is not None:
            below = blocks.buffer("below", delta)
            delta.mul_(torch.lt(self.draws[start : start + delta.numel()], self.probability, out=below))
        if self.ratio is not None:
            delta.mul_(self.ratio)

    def for_loops(self) -> list[float]:
        """Its numbers for `fused_loops`: ratio, total, limits, probability."""
        ratio = 1.0 if self.ratio is None else self.ratio.item()
        probability = self.probability
        if self.draws is None:  # where other deltas have some
            probability = -math.inf if self.kept == _NONE else math.inf
        return [ratio, self.total, self.kept.low, self.kept.high, probability]


KEEP_ALL, KEEP_NONE = Thinning(), Thinning(_NONE)


def keep_largest(inputs: Inputs, place: int, blocks: Blocks) -> Thinning:
    """Keep the source's ``density`` of its delta: the elements that are largest."""
    density, size = inputs.own[place]["density"], inputs.tensors[place].numel()
    if density >= 1:
        return KEEP_ALL
    if density <= 0:
        return KEEP_NONE
    return Thinning(_magnitudes(inputs, place).largest(max(1, int(density * size))))


def keep_between(inputs: Inputs, place: int, blocks: Blocks) -> Thinning | None:
    """Keep the source's ``density`` of its delta: those below the ``gamma`` that are largest.

    None where parameters are beyond what mergekit gives a meaning.
    """
    density, gamma, size = inputs.own[place]["density"], inputs.own[place]["gamma"], inputs.tensors[place].numel()
    if density >= 1:
        return KEEP_ALL
    if density < 0 or gamma < 0:
        return None
    n = int(density * size)
    first = max(0, size - n - int(gamma * size))
    return KEEP_NONE if n == 0 else Thinning(_magnitudes(inputs, place).between(first, first + n))


def rescaled(thinning: Thinning, inputs: Inputs, place: int, blocks: Blocks) -> Thinning:
    """Thin out, then multiply such that the magnitudes sum up to what they did before."""
    if inputs.base is None:
        raise ValueError("expected a base to form deltas from, got none")
    before = inputs.constant(sum_of_magnitudes, place, inputs.base)
    # By blocks, which is nearer to the sum than mergekit's over the whole tensor, by its last bit. In fp32 these are
    # mergekit's where a tensor is one block, for torch sums there, as it does for mergekit.
    if inputs.in_one_pass and before.dtype != torch.float32:
        return replace(thinning, total=before.item())
    pair = inputs.tensors[place], inputs.tensors[inputs.base]
    left = _magnitude_left(thinning, *pair, blocks).to(before.dtype)
    ratio = torch.where((before < 1e-7) | (left < 1e-7), 1, before / left)
    return replace(thinning, ratio=ratio)


def sum_of_magnitudes(tensor: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """That of what two tensors differ by, in their dtype, as mergekit sums it in one thread.

    Over several threads torch rounds the sum of each to half precision, so that mergekit's last bit hangs on how many.
    """
    exact = torch.float32 if tensor.dtype == torch.float32 else _widest(tensor.device)
    return (tensor - base).abs_().sum(dtype=exact).to(tensor.dtype)


def _magnitude_left(thinning: Thinning, tensor: torch.Tensor, base: torch.Tensor, blocks: Blocks) -> torch.Tensor:
    """The sum of the magnitudes of a delta once it is thinned out; exact but for its last bits."""

    def of_block(start: int, tensor: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
        delta = torch.sub(tensor, base, out=blocks.buffer("thinned", tensor))
        thinning.apply(delta, start, blocks)
        return blocks.widened("wide", delta.abs_()).sum()

    return torch.stack(blocks.map(of_block, tensor, base)).sum(dtype=_widest(tensor.device))


def _widest(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64  # which MPS has not


def _magnitudes(inputs: Inputs, place: int) -> Magnitudes:
    if inputs.base is None:
        raise ValueError("expected a base to form deltas from, got none")
    return inputs.constant(_magnitudes_in_one_pass if inputs.in_one_pass else Magnitudes, place, inputs.base)


_magnitudes_in_one_pass = partial(Magnitudes, in_one_pass=True)


def _keep(kept: Kept, delta: torch.Tensor, start: int, blocks: Blocks) -> None:
    """Set to zero, in the block of a delta that starts at this place of the tensor, what is not kept.

    By hardshrink, for a comparison to booleans and a product with them take ten times as long.
    """
    equal = None
    if kept.equals is not None:
        flags = kept.equals.flags()[start : start + delta.numel()]
        equal = blocks.buffer("equal", delta).copy_(flags).mul_(delta)
    if kept.high != math.inf:
        delta.sub_(torch.hardshrink(delta, kept.high, out=blocks.buffer("larger", delta)))
    torch.hardshrink(delta, kept.low, out=delta)
    if equal is not None:
        delta.add_(equal)
