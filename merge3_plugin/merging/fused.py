"""Merges in one pass over a CPU's memory: loops that numba compiles, in place of torch's operations one by one.

Memory gives and takes a number in about a third of a nanosecond; each operation of torch's on a block in the cache
takes a good part of that, and a merge has five to fifty. These loops keep an element of all sources in registers until
it is merged. Each step rounds as torch's operation does, and in the same order, so that no weight differs, for any
number of threads. Elsewhere than on a CPU, and in fp16, merges are torch's (`kernels`, `arithmetic`), and so they are
where numba is not installed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch

from merge3_plugin.merging.team import together

log = logging.getLogger(__name__)

Loop = tuple[Any, ...]

# An element as loops see those of a type: the upper half of an fp32, or an fp32.
_STORED = {torch.bfloat16: np.uint16(0), torch.float32: np.float32(0)}
# By dtype: that of a number's bits, which are a key of `fused_order` where it is a magnitude.
BITS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}
# In an item of 32 bits there is room for a key of 15 bits, or a place up to this one.
_PLACES = 2**30
# A model of smaller tensors alone is merged by torch before a loop is compiled.
_SMALLEST = 2**15
# So many elements are merged at a time: a tenth of a second, and a little memory for draws that are not kept.
_AT_ONCE = 2**23
# Tensors with more elements than that are put in order one at a time: it takes twice their memory.
_LARGE, _ONE_LARGE = 2**24, threading.Lock()
# So many elements are worth the twentieth of a millisecond that a second thread takes to begin.
_WORTH_A_THREAD = 2**19


def merges_here(device: torch.device, largest: int) -> bool:
    """Whether models on this device, whose largest tensor has so many elements, are merged here."""
    return _worth_it(device, largest) and _loops() is not None


def _worth_it(device: torch.device, largest: int) -> bool:
    return device.type == "cpu" and largest >= _SMALLEST


def takes(dtype: torch.dtype) -> bool:
    """Whether there are loops for tensors of this dtype."""
    return dtype in _STORED


def import_ahead(device: torch.device, largest: int) -> None:
    """Begin to import the compiler, in a thread; if models like this are merged here."""
    if _worth_it(device, largest):
        _compiler().submit(_loops)


def compile_ahead(
    device: torch.device, largest: int, dtype: torch.dtype, loops: Iterable[tuple[Sequence[Loop], int]]
) -> None:
    """Begin to compile loops, for so many sources of this dtype, in a thread; if models like this are merged here.

    Who calls one of them meanwhile waits for it alone.
    """
    if takes(dtype) and _worth_it(device, largest):
        for named, n_sources in loops:
            _compiler().submit(_compile, named, dtype, n_sources)


def _compile(loops: Sequence[Loop], dtype: torch.dtype, n_sources: int) -> None:
    if _loops() is None:
        return
    like = _STORED[dtype]
    rows, nothing = np.zeros((1, 2), np.int64), np.zeros(0, np.int64)
    for loop in loops:
        if loop == ("count_magnitudes",):
            _loop(loop)(0, 0, like, 0, nothing)
        elif loop == ("mark_equals",):
            none = torch.zeros(0, dtype=dtype)
            mark_equals((none, none), 0.0, 0, none, largest=True, before=True, mark=0)
        else:
            _loop(loop)(rows, rows.astype(np.float32), rows, (like,) * n_sources, np.zeros((0, 3), np.int64), 0)


@cache
def _compiler() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="compile")


@dataclass(frozen=True, eq=False)
class OnePass:
    """A tensor to be merged by a ``loop`` of `fused_loops`, on sources that lie at these ``places``.

    The loop is its name and, of a kind of loops, what tells it from the others. ``numbers`` are what it asks for; the
    loop ``first``, if any, goes through the whole tensor before it and finds out the rest of them. Of each source but
    the first, ``masks`` are what it is thinned by, element by element: its draws, and what is kept of equals.
    """

    loop: Loop
    places: Sequence[int]
    numbers: Sequence[float]
    first: Loop | None = None
    masks: Sequence[tuple[torch.Tensor | None, Flagged | None]] = ()


class Flagged(Protocol):
    """Elements that are found, in any thread, when they are asked for."""

    def flags(self) -> torch.Tensor: ...


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
    masks = _masks(passes)
    room = torch.empty(torch.get_num_threads(), _loops().ROOM)

    def by_threads(loop: Loop, spans: Sequence[Any]) -> bool:
        def part(number: int) -> bool:
            return bool(_loop(loop)(places, numbers, masks, likes, spans[number], room[number].data_ptr()))

        return all(together(part, len(spans)))

    sizes = np.array([out.numel() for _, out in passes])
    if any_.first:
        by_threads(any_.first, _shared_out(sizes, whole=True))
    return by_threads(any_.loop, _shared_out(sizes))


def _masks(passes: Sequence[tuple[OnePass, torch.Tensor]]) -> Any:
    """Rows of where, for each source but the first, its draws and its flags lie in memory.

    Where it has no draws, and others have, that is where any numbers lie; and where it has no flags, where zeros do.
    """
    flagged = [equals for one, _ in passes for _, equals in one.masks if equals]
    left = iter(flagged)

    def find(_: int) -> None:
        for equals in left:  # each is taken by one thread
            equals.flags()

    if flagged:
        together(find, torch.get_num_threads())
    zeros = _zeros(max(out.numel() for _, out in passes).bit_length()).ctypes.data
    rows = []
    for one, _ in passes:
        row = list[int]()
        for place, (draws, equals) in zip(one.places[1:], one.masks, strict=False):
            row += (
                draws.data_ptr() if draws is not None else place,
                equals.flags().data_ptr() if equals else zeros,
            )
        rows.append(row)
    return np.array(rows, dtype=np.int64)


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


def mark_equals(
    pair: tuple[torch.Tensor, torch.Tensor],
    value: float,
    first: int,
    flags: torch.Tensor,
    *,
    largest: bool,
    before: bool,
    mark: int,
) -> bool:
    """Write ``mark`` to the flags of what has this magnitude and is ``before`` the ``first`` elements end, or after.

    The elements are those of what a tensor differs by from a base, in the order of std::sort by magnitude, from the
    ``largest`` or from the smallest. False, and nothing is written, if it gives up.
    """
    tensor, base = pair
    key = BITS[tensor.dtype]
    equal = np.uint32(_PLACES) if key == torch.int16 and tensor.numel() <= _PLACES else np.uint64(2**62)
    bits = int(torch.tensor(value, dtype=tensor.dtype).view(key))
    turned = 0 if largest else torch.iinfo(key).max
    if tensor.dtype in _STORED:
        like = _STORED[tensor.dtype]
    else:  # loops cannot subtract it
        tensor = base = (tensor - base).abs_().view(key)
        like = np.int16(0)
    which = tensor.numel(), type(equal)(turned), type(equal)(bits ^ turned), first, before, mark
    places = tensor.data_ptr(), base.data_ptr(), like
    with _ONE_LARGE if tensor.numel() > _LARGE else nullcontext():
        # By numpy, for the pages of its large arrays are large, and so found in a fraction of the time.
        room = np.empty(tensor.numel(), dtype=type(equal))
        return bool(_loop(("mark_equals",))(*places, *which, room.ctypes.data, equal, flags.data_ptr()))


def _pair(tensor: torch.Tensor, base: torch.Tensor) -> tuple[int, int, Any, int]:
    return tensor.data_ptr(), base.data_ptr(), _STORED[tensor.dtype], tensor.numel()


@cache
def _zeros(bits: int) -> Any:
    """As many zeros as a number of so many bits can count; they take no memory, for nothing is written to them."""
    return np.zeros(2**bits, dtype=np.uint8)


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
