"""The largest elements of a delta, without sorting it: counts by the leading bits of their magnitudes.

The bits of a number's magnitude, read as an integer, grow with it. In half precision they are 15, so that counts of
each value, made once for a delta, tell which value has any rank. In fp32 the upper 15 of them narrow it down to a few
elements, and only these are sorted. Of equal ones the first are taken, as mergekit does where its sort is stable.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from merge3_plugin.merging import fused
from merge3_plugin.merging.blocks import Blocks

_BINS = 2**15


@dataclass(frozen=True)
class Cut:
    """A magnitude, and a place that parts the elements that have just this one: those before it, and the others."""

    value: float
    place: int


class Magnitudes:
    """The magnitudes of ``tensor - base``, flat tensors of fewer than 2**31 elements and of one dtype.

    They are looked through ``in_one_pass`` (`fused`), or by torch.
    """

    def __init__(self, tensor: torch.Tensor, base: torch.Tensor, *, in_one_pass: bool = False) -> None:
        self._tensor, self._base, self._in_one_pass = tensor, base, in_one_pass
        counts = fused.count_magnitudes(tensor, base) if in_one_pass else self._counts()
        occupied = counts > 0
        # Of the 2**15 values most do not occur: what is kept takes less than a hundredth of what the tensor takes.
        self._values = occupied.nonzero().flatten().cpu().numpy().astype(np.int16)
        self._ends = counts.cumsum(0)[occupied].cpu().numpy().astype(np.int32)

    def largest(self, n: int) -> Cut:
        """The ``n`` largest, 1 to all: those above the cut's value, and those equal to it before its place."""
        size = self._tensor.numel()
        value, below, end = self._at(size - n)
        return self._cut(value, n - (size - end), end - below)

    def smallest(self, n: int) -> Cut:
        """The ``n`` smallest, 0 to all but one: those below the cut's value, and those equal to it before its place."""
        value, below, end = self._at(n)
        return self._cut(value, n - below, end - below)

    def _counts(self) -> torch.Tensor:
        counts = torch.zeros(_BINS, dtype=torch.int64, device=self._tensor.device)
        for _, block in self._blocks():
            counts += torch.bincount(_leading_bits(block), minlength=_BINS)
        return counts

    def _at(self, rank: int) -> tuple[float, int, int]:
        """The magnitude of this rank from the smallest, and from which rank on and up to which all have it."""
        place = int(self._ends.searchsorted(np.int32(rank), side="right"))
        below, end = int(self._ends[place - 1]) if place else 0, int(self._ends[place])
        bits = int(self._values[place])
        if self._tensor.dtype != torch.float32:
            return _of_bits(bits, self._tensor.dtype), below, end
        inside = torch.cat([block[_leading_bits(block) == bits] for _, block in self._blocks()]).sort().values
        value = inside[rank - below].item()
        first, last = (int(torch.searchsorted(inside, value, right=right)) for right in (False, True))
        return value, below + first, below + last

    def _cut(self, value: float, n_equal: int, all_equal: int) -> Cut:
        """The cut that has so many of the elements of this magnitude before its place."""
        return Cut(value, self._tensor.numel() if n_equal == all_equal else self._place_of_equal(value, n_equal))

    def _place_of_equal(self, value: float, n_before: int) -> int:
        """The place of the element of this magnitude that has so many equal ones before it."""
        if self._in_one_pass:
            place = fused.place_of_equal(self._tensor, self._base, value, n_before)
        else:
            place = self._place_by_blocks(value, n_before)
        if place < 0:
            raise IndexError(f"expected more elements of magnitude {value}")
        return place

    def _place_by_blocks(self, value: float, n_before: int) -> int:
        bits = _bits(torch.tensor(value, dtype=self._tensor.dtype)).item()
        for start, block in self._blocks():
            equal = _places_of(bits, _bits(block))
            if len(equal) > n_before:
                return start + int(equal[n_before])
            n_before -= len(equal)
        return -1

    def _blocks(self) -> Iterator[tuple[int, torch.Tensor]]:
        """The magnitudes, block by block, each with the place where it starts."""
        blocks = Blocks(self._tensor.device)
        for start, tensor, base in blocks.of(self._tensor, self._base):
            yield start, torch.sub(tensor, base, out=blocks.buffer("delta", tensor)).abs_()


@lru_cache(maxsize=2**12)
def _of_bits(bits: int, dtype: torch.dtype) -> float:
    return torch.tensor(bits, dtype=torch.int16).view(dtype).item()


def _bits(numbers: torch.Tensor) -> torch.Tensor:
    return numbers.view(torch.int32 if numbers.dtype == torch.float32 else torch.int16)


def _leading_bits(magnitudes: torch.Tensor) -> torch.Tensor:
    bits = _bits(magnitudes)
    return bits >> 16 if bits.dtype == torch.int32 else bits.to(torch.int32)


def _places_of(value: int | float, numbers: torch.Tensor) -> Any:
    """Where these integers have this value, in order."""
    if numbers.device.type == "cpu":  # where torch takes ten times as long for it
        return np.flatnonzero(numbers.numpy() == value)
    return (numbers == value).nonzero().flatten()
