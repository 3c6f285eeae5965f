"""Threads that work together on a CPU.

After an operation, torch's threads wait for the next one without a rest, for milliseconds: another thread would share a
core with one of them. So they do it themselves, where they are OpenMP's of GNU, as in torch's packages for Linux.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch

T = TypeVar("T")

_REGION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def together(part: Callable[[int], T], n: int) -> list[T]:
    """What ``part`` returns of 0 to ``n`` - 1, each in a thread of its own; raises what one of them raises."""
    if n == 1:
        return [part(0)]
    team = _team()
    if team is None:
        return list(_pool(n).map(part, range(n)))
    found: dict[int, T] = {}
    raised: list[BaseException] = []

    def of_thread(_: Any) -> None:
        # OpenMP may give fewer threads than it was asked for. An exception, Ctrl-C's too, would go no further.
        try:
            for number in range(team.omp_get_thread_num(), n, team.omp_get_num_threads()):
                found[number] = part(number)
        except BaseException as error:  # noqa: BLE001 - raised again below
            raised.append(error)

    team.GOMP_parallel(_REGION(of_thread), None, n, 0)
    if raised:
        raise raised[0]
    return [found[number] for number in range(n)]


@cache
def _team() -> ctypes.CDLL | None:
    """The library that torch's threads are of; None where it is another than GNU's."""
    try:
        (library,) = (Path(torch.__file__).parent / "lib").glob("libgomp*.so*")
        team = ctypes.CDLL(str(library))
        return team if hasattr(team, "GOMP_parallel") else None
    except (ValueError, OSError):
        return None


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="merge")
