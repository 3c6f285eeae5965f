"""Merges in one pass over a CPU's memory: loops that numba compiles, in place of torch's operations one by one.

Memory gives and takes a number in about a third of a nanosecond; each operation of torch's on a block in the cache
takes a good part of that, and a merge has five to fifty. These loops keep an element of all sources in registers until
it is merged. Each step rounds as torch's operation does, and in the same order, so that no weight differs, for any
number of threads. Elsewhere than on a CPU, and in fp16, merges are torch's (`kernels`, `arithmetic`), and so they are
where numba is not installed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from merge3_plugin.merging.team import together

log = logging.getLogger(__name__)

Loop = tuple[Any, ...]

# An element as loops see those of a type: the upper half of an fp32, or an fp32.
_STORED = {torch.bfloat16: np.uint16(0), torch.float32: np.float32(0)}
# A model of smaller tensors alone is merged by torch before a loop is compiled.
_SMALLEST = 2**15
# So many elements are merged at a time: a tenth of a second, and a little memory for draws that are not kept.
_AT_ONCE = 2**22
# So many elements are worth the twentieth of a millisecond that a second thread takes to begin.
_WORTH_A_THREAD = 2**19


def merges_here(device: torch.device, largest: int) -> bool:
    """Whether models on this device, whose largest tensor has so many elements, are merged here."""
    return device.type == "cpu" and largest >= _SMALLEST and _loops() is not None


def takes(dtype: torch.dtype) -> bool:
    """Whether there are loops for tensors of this dtype."""
    return dtype in _STORED


def compile_ahead(loops: Iterable[Loop], dtype: torch.dtype, n_sources: int) -> None:
    """Begin to compile these loops for as many sources of this dtype, in a thread.

    Who calls one of them meanwhile waits for it alone.
    """
    _compiler().submit(_compile, list(loops), _STORED[dtype], n_sources)


def _compile(loops: Sequence[Loop], like: Any, n_sources: int) -> None:
    rows, nothing = np.zeros((1, 2), np.int64), np.zeros(0, np.int64)
    for loop in loops:
        if loop == ("count_magnitudes",):
            _loop(loop)(0, 0, like, 0, nothing)
        elif loop == ("place_of_equal",):
            _loop(loop)(0, 0, like, 0, np.uint32(0), 0)
        else:
            _loop(loop)(rows, rows.astype(np.float32), rows, (like,) * n_sources, np.zeros((0, 3), np.int64), 0)


@cache
def _compiler() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="compile")


@dataclass(frozen=True, eq=False)
class OnePass:
    """A tensor to be merged by a ``loop`` of `fused_loops`, on sources that lie at these ``places``.

    The loop is its name and, of a kind of loops, what tells it from the others. ``numbers`` and ``turns`` are what it
    asks for; the loop ``first``, if any, goes through the whole tensor before it and finds out the rest of ``numbers``.
    ``kept`` stays in memory as long as this does: what ``turns`` only say the place of.
    """

    loop: Loop
    places: Sequence[int]
    numbers: Sequence[float]
    turns: Sequence[int] = ()
    first: Loop | None = None
    kept: Sequence[torch.Tensor | None] = ()


class Passes:
    """Merges of tensors in one pass, carried out many at a time, which is once what a call and a thread cost.

    ``finite`` says whether all that was written so far is.
    """

    def __init__(self) -> None:
        self.finite = True
        self._waiting: dict[tuple[Loop, Loop | None, int, torch.dtype], list[tuple[OnePass, torch.Tensor]]] = {}
        self._elements = 0

    def add(self, one: OnePass, out: torch.Tensor) -> None:
        """Write this merge into ``out``, now or when `carry_out` is called."""
        key = one.loop, one.first, len(one.places), out.dtype
        self._waiting.setdefault(key, []).append((one, out))
        self._elements += out.numel()
        if self._elements >= _AT_ONCE:
            self.carry_out()

    def carry_out(self) -> None:
        """Write all that was added."""
        for waiting in self._waiting.values():
            self.finite = _merged(waiting) and self.finite
        self._waiting.clear()
        self._elements = 0


def _merged(passes: Sequence[tuple[OnePass, torch.Tensor]]) -> bool:
    """Whether what is written is finite, of tensors of one dtype that are merged by one loop from as many sources."""
    any_, n_sources = passes[0][0], len(passes[0][0].places)
    likes = (_STORED[passes[0][1].dtype],) * n_sources
    places = np.array([[*one.places, out.data_ptr()] for one, out in passes])
    numbers = np.array([one.numbers for one, _ in passes], dtype=np.float32)
    turns = np.array([one.turns for one, _ in passes], dtype=np.int64)
    room = torch.empty(torch.get_num_threads(), _loops().room(n_sources))

    def by_threads(loop: Loop, spans: Sequence[Any]) -> bool:
        def part(number: int) -> bool:
            return bool(_loop(loop)(places, numbers, turns, likes, spans[number], room[number].data_ptr()))

        return all(together(part, len(spans)))

    sizes = np.array([out.numel() for _, out in passes])
    if any_.first:
        by_threads(any_.first, _shared_out(sizes, whole=True))
    return by_threads(any_.loop, _shared_out(sizes))


def _shared_out(sizes: Any, *, whole: bool = False) -> list[Any]:
    """Rows of a tensor's number, its first element and its last, for each thread: as many elements for one as another.

    Or about as many, where tensors are to be ``whole``. There are as many threads as torch has, or fewer where that is
    not worth their while.
    """
    ends = np.cumsum(sizes)
    begins, total = ends - sizes, int(ends[-1])
    threads = max(1, min(torch.get_num_threads(), total // _WORTH_A_THREAD))
    bounds = [total * number // threads for number in range(threads + 1)]
    shares = []
    if whole:
        bounds = [0, *(int(ends[np.abs(ends - bound).argmin()]) for bound in bounds[1:])]
    for first, last in pairwise(bounds):
        spans = np.stack([np.arange(len(sizes)), np.maximum(first - begins, 0), np.minimum(last - begins, sizes)], 1)
        shares.append(spans[spans[:, 1] < spans[:, 2]])
    return shares


def count_magnitudes(tensor: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """How often each value of the leading 15 bits of a magnitude occurs in ``tensor - base``."""
    counts = np.zeros(2**15, dtype=np.int64)
    _loop(("count_magnitudes",))(*_pair(tensor, base), counts)
    return torch.from_numpy(counts)


def place_of_equal(tensor: torch.Tensor, base: torch.Tensor, magnitude: float, before: int) -> int:
    """The place in ``tensor - base`` of the element of this magnitude that has so many equal ones before it.

    -1 where there is none.
    """
    bits = np.float32(magnitude).view(np.uint32)
    return int(_loop(("place_of_equal",))(*_pair(tensor, base), bits, before))


def _pair(tensor: torch.Tensor, base: torch.Tensor) -> tuple[int, int, Any, int]:
    return tensor.data_ptr(), base.data_ptr(), _STORED[tensor.dtype], tensor.numel()


def _loop(loop: Loop) -> Any:
    name, *kind = loop
    found = getattr(_loops(), name)
    return found(*kind) if kind else found


@cache
def _loops() -> Any:
    """`fused_loops`; None without a numba that works, as one that is older than numpy knows does not.

    It takes a third of a second to import, and each loop up to two to compile, once in a process.
    """
    try:
        from merge3_plugin.merging import fused_loops
    except ModuleNotFoundError:
        return None
    except ImportError as error:
        log.warning("merges go by torch, which takes longer: numba does not work here: %s", error)
        return None
    return fused_loops
