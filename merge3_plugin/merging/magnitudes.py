"""The largest elements of a delta, without sorting it: counts by the leading bits of their magnitudes.

The bits of a number's magnitude, read as an integer, grow with it. In half precision they are 15, so that counts of
each value, made once for a delta, tell which value has any rank. In fp32 the upper 15 of them narrow it down to a few
elements, and only these are sorted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from merge3_plugin.merging import fused
from merge3_plugin.merging.blocks import Blocks
from merge3_plugin.merging.equals import Cut, Equals

_BINS = 2**15


@dataclass(frozen=True)
class Kept:
    """What is kept of a delta: magnitudes above ``low`` and up to ``high``, and the elements that ``equals`` flags."""

    low: float = -1.0
    high: float = math.inf
    equals: Equals | None = None


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

    def largest(self, n: int) -> Kept:
        """The ``n`` largest, 1 to all."""
        rank = self._tensor.numel() - n
        value, below, end = self._at(rank)
        if below == rank or value == 0:
            return Kept(low=_next_below(value, self._tensor.dtype))
        return Kept(low=value, equals=self._equals(None, Cut(value, n, end - rank), largest=True))

    def between(self, begin: int, end: int) -> Kept:
        """Those of the ranks, from the smallest on, from ``begin`` up to ``end``, which is more."""
        low, high, first, last = -1.0, math.inf, None, None
        if begin > 0:
            value, first = self._cut(begin)
            low = value if first else _next_below(value, self._tensor.dtype)
        if end < self._tensor.numel():
            value, last = self._cut(end)
            high = _next_below(value, self._tensor.dtype)
        return Kept(low, high, self._equals(first, last, largest=False) if first or last else None)

    def _cut(self, rank: int) -> tuple[float, Cut | None]:
        """The magnitude of this rank, and the cut before it; None where none is equal there, or all are zero."""
        value, below, _ = self._at(rank)
        return value, None if below == rank or value == 0 else Cut(value, rank, rank - below)

    def _equals(self, begin: Cut | None, end: Cut | None, *, largest: bool) -> Equals:
        return Equals(self._tensor, self._base, begin, end, largest=largest, in_one_pass=self._in_one_pass)

    def _counts(self) -> torch.Tensor:
        counts = torch.zeros(_BINS, dtype=torch.int64, device=self._tensor.device)
        for block in self._blocks():
            counts += torch.bincount(_leading_bits(block), minlength=_BINS)
        return counts

    def _at(self, rank: int) -> tuple[float, int, int]:
        """The magnitude of this rank from the smallest, and from which rank on and up to which all have it."""
        place = int(self._ends.searchsorted(np.int32(rank), side="right"))
        below, end = int(self._ends[place - 1]) if place else 0, int(self._ends[place])
        bits = int(self._values[place])
        if self._tensor.dtype != torch.float32:
            return _of_bits(bits, self._tensor.dtype), below, end
        inside = torch.cat([block[_leading_bits(block) == bits] for block in self._blocks()]).sort().values
        value = inside[rank - below].item()
        first, last = (int(torch.searchsorted(inside, value, right=right)) for right in (False, True))
        return value, below + first, below + last

    def _blocks(self) -> Iterator[torch.Tensor]:
        """The magnitudes, block by block."""
        blocks = Blocks(self._tensor.device)
        for _, tensor, base in blocks.of(self._tensor, self._base):
            yield torch.sub(tensor, base, out=blocks.buffer("delta", tensor)).abs_()


@lru_cache(maxsize=2**12)
def _of_bits(bits: int, dtype: torch.dtype) -> float:
    return torch.tensor(bits, dtype=torch.int16).view(dtype).item()


@lru_cache(maxsize=2**12)
def _next_below(value: float, dtype: torch.dtype) -> float:
    """The largest number of this dtype below a magnitude."""
    return (_bits(torch.tensor(value, dtype=dtype)) - 1).view(dtype).item() if value > 0 else -1.0


def _bits(numbers: torch.Tensor) -> torch.Tensor:
    return numbers.view(fused.BITS[numbers.dtype])


def _leading_bits(magnitudes: torch.Tensor) -> torch.Tensor:
    bits = _bits(magnitudes)
    return bits >> 16 if bits.dtype == torch.int32 else bits.to(torch.int32)
