"""What mergekit calls sparsification: which elements of a delta are set to zero."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import torch

from merge3_plugin.merging.blocks import Blocks
from merge3_plugin.merging.kernels import Inputs
from merge3_plugin.merging.magnitudes import Cut, Magnitudes


@dataclass(frozen=True)
class Limit:
    """A magnitude that separates elements: ``before`` the place ``turn`` of the tensor it is another than ``then``."""

    before: float
    then: float
    turn: int


EVERYWHERE, NOWHERE = Limit(-1.0, -1.0, 0), Limit(math.inf, math.inf, 0)


@dataclass(frozen=True, eq=False)
class Thinning:
    """Of a delta it keeps what is above the limit ``low`` and up to the limit ``high``.

    And of these, where there are ``draws``, flat and as long as the delta, those whose draw is below ``probability``.
    What is left is multiplied by the ``ratio``, where there is one; or, where loops are to find that out, such that its
    magnitudes sum up to the ``total``.
    """

    low: Limit = EVERYWHERE
    high: Limit = NOWHERE
    draws: torch.Tensor | None = None
    probability: float = 1.0
    ratio: torch.Tensor | None = None
    total: float = math.nan

    @property
    def of_all(self) -> bool:
        """Whether all elements are treated alike."""
        return self.draws is None and (self.low == EVERYWHERE or self.low == NOWHERE) and self.high == NOWHERE

    def apply(self, delta: torch.Tensor, start: int, blocks: Blocks) -> None:
        """Thin out and rescale, in place, the block of a delta that starts at this place of the tensor."""
        if self.high != NOWHERE:
            larger = blocks.buffer("larger", delta)
            delta.sub_(_drop_up_to(delta, self.high, start, out=larger))
        if self.low == NOWHERE:
            delta.zero_()
        elif self.low != EVERYWHERE:
            _drop_up_to(delta, self.low, start, out=delta)
        if self.draws is not None:
            kept = blocks.buffer("kept", delta)
            delta.mul_(torch.lt(self.draws[start : start + delta.numel()], self.probability, out=kept))
        if self.ratio is not None:
            delta.mul_(self.ratio)

    def for_loops(self, instead: int = 0) -> tuple[list[float], list[int]]:
        """It for `fused_loops`: ratio, total, limits, probability; and where limits turn, and where draws lie.

        Where other deltas have draws, those of this one, which keeps all or nothing, are any numbers ``instead``.
        """
        ratio = 1.0 if self.ratio is None else self.ratio.item()
        limits = [self.low.before, self.low.then, self.high.before, self.high.then]
        if self.draws is not None:
            drawn, probability = self.draws.data_ptr(), self.probability
        else:
            drawn, probability = instead, -math.inf if self.low == NOWHERE else math.inf
        return [ratio, self.total, *limits, probability], [self.low.turn, self.high.turn, drawn]


KEEP_ALL, KEEP_NONE = Thinning(), Thinning(low=NOWHERE)


def keep_largest(inputs: Inputs, place: int, blocks: Blocks) -> Thinning:
    """Keep the source's ``density`` of its delta: the elements that are largest."""
    density, size = inputs.own[place]["density"], inputs.tensors[place].numel()
    if density >= 1:
        return KEEP_ALL
    if density <= 0:
        return KEEP_NONE
    cut = _magnitudes(inputs, place).largest(max(1, int(density * size)))
    below = _next_below(cut.value, inputs.tensors[place].dtype)
    return Thinning(low=Limit(below, cut.value, cut.place))


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
    if n == 0:
        return KEEP_NONE

    def limit(cut: Cut) -> Limit:
        return Limit(cut.value, _next_below(cut.value, inputs.tensors[place].dtype), cut.place)

    cuts = [_magnitudes(inputs, place).smallest(rank) if 0 < rank < size else None for rank in (first, first + n)]
    low, high = cuts
    return Thinning(low=limit(low) if low else EVERYWHERE, high=limit(high) if high else NOWHERE)


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


def _drop_up_to(block: torch.Tensor, limit: Limit, start: int, *, out: torch.Tensor) -> torch.Tensor:
    """``out``, set to the block, which starts at this place of the tensor, without magnitudes up to the limit.

    By hardshrink, for a comparison to booleans and a product with them take ten times as long.
    """
    turn = min(max(limit.turn - start, 0), block.numel())
    for part, result, threshold in ((block[:turn], out[:turn], limit.before), (block[turn:], out[turn:], limit.then)):
        if part.numel():
            torch.hardshrink(part, threshold, out=result)
    return out


@lru_cache(maxsize=2**12)
def _next_below(value: float, dtype: torch.dtype) -> float:
    """The largest number of this dtype below a magnitude."""
    bits = torch.int32 if dtype == torch.float32 else torch.int16
    number = torch.tensor(value, dtype=dtype)
    return (number.view(bits) - 1).view(dtype).item() if value > 0 else -1.0
