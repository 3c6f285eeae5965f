"""Merges in one pass over a CPU's memory: loops that numba compiles, in place of torch's operations one by one.

Memory gives and takes a number in about a third of a nanosecond; each operation of torch's on a block in the cache
takes a good part of that, and a merge has five to fifty. These loops take a thousand elements of each source at a time,
which stay in the first cache in fp32 until they are written. Each step rounds as torch's operation does, and in the
same order, so that no weight differs, for any number of threads. Elsewhere than on a CPU, and in fp16, merges are
torch's (`kernels`, `arithmetic`), and so they are where numba is not installed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

# Types of elements as loops see them: the upper half of an fp32, or an fp32.
_STORED = {torch.bfloat16: torch.uint16, torch.float32: torch.float32}
# Of smaller tensors torch's operations take no longer, and a model of such alone is merged before a loop is compiled.
_SMALLEST = 2**15
# So many elements are worth the twentieth of a millisecond that a second thread takes to begin.
_WORTH_A_THREAD = 2**19


def fits(tensor: torch.Tensor) -> bool:
    """Whether tensors like this one are merged here."""
    on_cpu = tensor.device.type == "cpu" and tensor.dtype in _STORED
    return on_cpu and tensor.numel() >= _SMALLEST and _installed()


@cache
def _installed() -> bool:
    return find_spec("numba") is not None


class OnePass:
    """Writes a tensor, or the part of it that begins at ``start``, by the loop of this ``name`` (`fused_loops`).

    ``arguments`` go to the loop, ``kept`` stays in memory as long as this does: what arguments only say the place of.
    """

    def __init__(self, name: str, *arguments: Any, kept: Sequence[torch.Tensor | None] = ()) -> None:
        self._name, self._arguments, self._kept = name, arguments, kept

    def __call__(self, sources: Sequence[torch.Tensor], out: torch.Tensor, start: int) -> bool:
        """Whether all that was written is finite."""
        loop = _loops()[self._name]
        places, written = _places(*sources), as_array(out)
        return run(lambda first, last: loop(places, written, start, first, last, *self._arguments), out.numel())


def run(part: Callable[[int, int], bool], n: int) -> bool:
    """``part`` on all of ``n`` elements, by as many threads as torch has; whether it is true of each part."""
    threads = min(torch.get_num_threads(), n // _WORTH_A_THREAD)
    if threads < 2:
        return part(0, n)
    ends = [n * number // threads for number in range(threads + 1)]
    return all(_pool(threads).map(part, ends[:-1], ends[1:]))


def magnitude_left(
    tensor: torch.Tensor, base: torch.Tensor, limits: Sequence[float], turns: Sequence[int], drawn: int
) -> float:
    """The sum of the magnitudes of ``tensor - base`` that are left, in fp32 and beyond (`thinning.Thinning`)."""
    cut = np.array(limits, dtype=np.float32)
    return float(_loops()["magnitude_left"](_places(tensor, base), as_array(tensor), cut, np.array(turns), drawn))


def count_magnitudes(tensor: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """How often each value of the leading 15 bits of a magnitude occurs in ``tensor - base``."""
    counts = np.zeros(2**15, dtype=np.int64)
    _loops()["count_magnitudes"](_places(tensor, base), as_array(tensor), counts)
    return torch.from_numpy(counts)


def place_of_equal(tensor: torch.Tensor, base: torch.Tensor, magnitude: float, before: int) -> int:
    """The place in ``tensor - base`` of the element of this magnitude that has so many equal ones before it.

    -1 where there are fewer.
    """
    bits = np.float32(magnitude).view(np.uint32)
    return int(_loops()["place_of_equal"](_places(tensor, base), as_array(tensor), bits, before))


def as_array(tensor: torch.Tensor) -> Any:
    """The memory of a flat tensor as loops see it."""
    return tensor.view(_STORED[tensor.dtype]).numpy()


def _places(*tensors: torch.Tensor) -> Any:
    return np.array([tensor.data_ptr() for tensor in tensors])


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="merge")


@cache
def _loops() -> dict[str, Callable[..., Any]]:
    """By name; numba takes a second to import, and one to three to compile a loop, once in a process."""
    from merge3_plugin.merging import fused_loops

    named = ("linear", "chord", "arithmetic", "magnitude_left", "count_magnitudes", "place_of_equal")
    return {name: getattr(fused_loops, name) for name in named}
