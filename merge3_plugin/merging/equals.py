"""Which elements of a delta are kept that have just the magnitude at which a merge method cuts, as mergekit keeps them.

In half precision, where a delta has few values, they are up to a tenth of it. mergekit sorts, and cuts where the number
that it keeps is reached. On a CPU torch's sort leaves equals in an order of its own, elsewhere in the order they had.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache

import torch

from merge3_plugin.merging import fused
from merge3_plugin.merging.blocks import Blocks

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cut:
    """A cut through the order of a delta's elements that falls among those of the magnitude ``value``.

    ``first`` elements come before it, so many of them (``equal``) of this value.
    """

    value: float
    first: int
    equal: int


class Equals:
    """Of ``tensor - base``, flat, what lies between the cuts ``begin`` and ``end`` and has the value of one of them.

    The order starts at the ``largest`` elements or at the smallest, and at its ends is no cut (None). ``in_one_pass``
    says whether the loops of `fused` merge the tensor.
    """

    def __init__(
        self,
        tensor: torch.Tensor,
        base: torch.Tensor,
        begin: Cut | None,
        end: Cut | None,
        *,
        largest: bool,
        in_one_pass: bool,
    ) -> None:
        self._tensor, self._base, self._begin, self._end, self._largest = tensor, base, begin, end, largest
        self._by_loop = in_one_pass or fused.merges_here(tensor.device, tensor.numel())
        self._found: torch.Tensor | None = None

    def flags(self) -> torch.Tensor:
        """1 for those elements, 0 for all others, in uint8; kept from the first time on. Not by two threads at once."""
        if self._found is None:
            self._found = self._find()
        return self._found

    def _find(self) -> torch.Tensor:
        flags = torch.zeros_like(self._tensor, dtype=torch.uint8)
        if flags.device.type != "cpu":
            self._flag_in_place(flags)
        elif not (self._by_loop and _sort_is_known() and self._flag_by_loop(flags)):
            self._flag_by_sorting(flags.zero_())
        return flags

    def _flag_by_loop(self, flags: torch.Tensor) -> bool:
        """Flag them; False, and some may be flagged that are not to be, where the loop gives up."""

        def mark(cut: Cut, *, before: bool, mark: int) -> bool:
            pair = self._tensor, self._base
            return fused.mark_equals(pair, cut.value, cut.first, flags, largest=self._largest, before=before, mark=mark)

        begin, end = self._begin, self._end
        done = begin is None or mark(begin, before=False, mark=1)
        if end and begin and begin.value == end.value:
            return done and mark(end, before=False, mark=0)
        return done and (end is None or mark(end, before=True, mark=1))

    def _flag_by_sorting(self, flags: torch.Tensor) -> None:
        """As mergekit finds them."""
        magnitudes = (self._tensor - self._base).abs_()
        order = torch.argsort(magnitudes.float(), descending=self._largest)
        between = order[self._begin.first if self._begin else 0 : self._end.first if self._end else None]
        for value in self._values:
            flags[between[magnitudes[between] == value]] = 1

    def _flag_in_place(self, flags: torch.Tensor) -> None:
        """Where equals stay in their order. Nothing waits for the device."""
        for value in self._values:
            begin, end = (cut if cut and cut.value == value else None for cut in (self._begin, self._end))
            seen = torch.zeros((), dtype=torch.int64, device=flags.device)
            for _, tensor, base, part in Blocks(flags.device).of(self._tensor, self._base, flags):
                equal = (tensor - base).abs_() == value
                places = equal.cumsum(0) + seen
                seen = places[-1]
                if begin:
                    equal &= places > begin.equal
                if end:
                    equal &= places <= end.equal
                part.masked_fill_(equal, 1)

    @property
    def _values(self) -> set[float]:
        return {cut.value for cut in (self._begin, self._end) if cut}


@cache
def _sort_is_known() -> bool:
    """Whether torch's sort is that of `fused_order`, which goes by the library that torch was built with."""
    generator = torch.Generator().manual_seed(0)
    magnitudes = torch.randint(1, 50, (4000,), generator=generator).bfloat16()
    pair, first = (magnitudes, torch.zeros_like(magnitudes)), len(magnitudes) // 2
    for largest in (True, False):
        order = torch.argsort(magnitudes.float(), descending=largest)
        value = magnitudes[order[first]].item()
        flags = torch.zeros_like(magnitudes, dtype=torch.uint8)
        fused.mark_equals(pair, value, first, flags, largest=largest, before=True, mark=1)
        expected = order[:first][magnitudes[order[:first]] == value]
        if not torch.equal(flags.nonzero().flatten(), expected.sort().values):
            log.warning("TIES and breadcrumbs wait for torch's sort, as in mergekit: it is another than GNU's here")
            return False
    return True
