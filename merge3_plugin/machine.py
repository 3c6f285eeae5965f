"""What the machine has left, and how fast it is: memory of the host and of a GPU, arithmetic, memory traffic."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def memory_in_use() -> dict[str, int]:
    """Bytes of this process that are resident, files mapped into it included; of GPUs in use, what is taken there."""
    import psutil

    used = {"memory_bytes": int(psutil.Process().memory_info().rss)}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        used["device_memory_bytes"] = sum(map(torch.cuda.memory_reserved, range(torch.cuda.device_count())))
    return used


def memory_available() -> int:
    """Bytes of host memory that can be had without swapping, page cache that can be dropped among them.

    Of a container with a limit of its own, what is left of that.
    """
    return _memory()[0]


def can_spare(n_bytes: int) -> bool:
    """Whether so many bytes of host memory can be had with a tenth of all of it left free."""
    available, total = _memory()
    return available - n_bytes > total // 10


def _memory() -> tuple[int, int]:
    """What is available of the host's memory, or of this container's, and all of it."""
    import psutil

    memory = psutil.virtual_memory()
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
        figures = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        limit = "max"
    if limit == "max":
        return int(memory.available), int(memory.total)
    left = max(0, min(memory.available, int(limit) - used + int(figures.get("inactive_file", 0))))
    return int(left), min(int(memory.total), int(limit))


def device_memory_available(device: str) -> int | None:
    """Bytes that are free on a GPU; None for what shares the host's memory."""
    import torch

    if torch.device(device).type != "cuda":
        return None
    return int(torch.cuda.mem_get_info(torch.device(device))[0])


def memory_total(device: str) -> int:
    """All bytes of a GPU's memory; of what shares the host's, those of the host or of this container."""
    import torch

    if torch.device(device).type != "cuda":
        return _memory()[1]
    return int(torch.cuda.mem_get_info(torch.device(device))[1])


def flops_per_second(device: str, dtype_name: str, *, size: int = 1024, seconds: float = 0.2) -> float:
    """Floating-point operations a second of matrix products in this dtype, the best of those that fit in the time."""
    import torch

    a, b = (torch.randn(size, size, device=device).to(getattr(torch, dtype_name)) for _ in range(2))
    return 2.0 * size**3 / _fastest(lambda: torch.mm(a, b), device, seconds)


def bytes_per_second(device: str, source: str | None = None, *, size: int = 2**26, seconds: float = 0.2) -> float:
    """Bytes a second that a copy in memory reads and writes, the best of those that fit in the time.

    From ``source``, page-locked memory of the host, to a GPU: the bytes a second that come there.
    """
    import torch

    read = torch.zeros(size, dtype=torch.uint8, device=source or device, pin_memory=source is not None)
    target = torch.empty(size, dtype=torch.uint8, device=device)
    moved = size if source else 2 * size
    return moved / _fastest(lambda: target.copy_(read, non_blocking=True), device, seconds)


def _fastest(work: Callable[[], object], device: str, seconds: float) -> float:
    import torch

    end, best = time.perf_counter() + seconds, float("inf")
    while best == float("inf") or time.perf_counter() < end:
        started = time.perf_counter()
        work()
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return best
