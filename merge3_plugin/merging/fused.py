"""Merges in one pass over a CPU's memory: loops that numba compiles, in place of torch's operations one by one.

Memory gives and takes a number in about a third of a nanosecond; each operation of torch's on a block in the cache
takes a good part of that, and a merge has five to fifty. These loops take a thousand elements of each source at a time,
which stay in the first cache in fp32 until they are written. Each step rounds as torch's operation does, and in the
same order, so that no weight differs, for any number of threads. Elsewhere than on a CPU, and in fp16, merges are
torch's (`kernels`, `arithmetic`), and so they are where numba is not installed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch

log = logging.getLogger(__name__)

# Types of elements as loops see them: the upper half of an fp32, or an fp32.
_STORED = {torch.bfloat16: torch.uint16, torch.float32: torch.float32}
# Of smaller tensors torch's operations take no longer, and a model of such alone is merged before a loop is compiled.
_SMALLEST = 2**15
# So many elements are worth the twentieth of a millisecond that a second thread takes to begin.
_WORTH_A_THREAD = 2**19


def fits(tensor: torch.Tensor) -> bool:
    """Whether tensors like this one are merged here."""
    on_cpu = tensor.device.type == "cpu" and tensor.dtype in _STORED
    return on_cpu and tensor.numel() >= _SMALLEST and _loops() is not None


class OnePass:
    """Writes a tensor, or the part of it that begins at ``start``, by the loop of this ``name`` (`fused_loops`).

    ``arguments`` go to the loop, ``kept`` stays in memory as long as this does: what arguments only say the place of.
    """

    def __init__(self, name: str, *arguments: Any, kept: Sequence[torch.Tensor | None] = ()) -> None:
        self._name, self._arguments, self._kept = name, arguments, kept

    def __call__(self, sources: Sequence[torch.Tensor], out: torch.Tensor, start: int) -> bool:
        """Whether all that was written is finite."""
        places, written = _places(*sources), _as_array(out)

        def part(first: int, last: int) -> bool:
            found: bool = _loop(self._name)(places, written, start, first, last, *self._arguments)
            return found

        return _in_parts(part, out.numel())


def _in_parts(part: Callable[[int, int], bool], n: int) -> bool:
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
    return float(_loop("magnitude_left")(_places(tensor, base), _as_array(tensor), cut, np.array(turns), drawn))


def count_magnitudes(tensor: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """How often each value of the leading 15 bits of a magnitude occurs in ``tensor - base``."""
    counts = np.zeros(2**15, dtype=np.int64)
    _loop("count_magnitudes")(_places(tensor, base), _as_array(tensor), counts)
    return torch.from_numpy(counts)


def place_of_equal(tensor: torch.Tensor, base: torch.Tensor, magnitude: float, before: int) -> int:
    """The place in ``tensor - base`` of the element of this magnitude that has so many equal ones before it.

    -1 where there is none.
    """
    bits = np.float32(magnitude).view(np.uint32)
    return int(_loop("place_of_equal")(_places(tensor, base), _as_array(tensor), bits, before))


def _as_array(tensor: torch.Tensor) -> Any:
    """The memory of a flat tensor as loops see it."""
    return tensor.view(_STORED[tensor.dtype]).numpy()


def _places(*tensors: torch.Tensor) -> Any:
    return np.array([tensor.data_ptr() for tensor in tensors])


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="merge")


def _loop(name: str) -> Any:
    return getattr(_loops(), name)


@cache
def _loops() -> Any:
    """`fused_loops`; None without a numba that works, as one that is older than numpy knows does not.

    It takes a second to import, and each loop one to three to compile, once in a process.
    """
    try:
        from merge3_plugin.merging import fused_loops
    except ModuleNotFoundError:
        return None
    except ImportError as error:
        log.warning("merges go by torch, which takes longer: numba does not work here: %s", error)
        return None
    return fused_loops
