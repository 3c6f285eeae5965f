"""Global random generators: a process has one of each, for all its threads."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

# Held by who uses torch's: to draw from them, or to record a CUDA graph, which takes hold of the device's meanwhile.
TORCH_IN_USE = threading.Lock()
_IN_USE = threading.Lock()


class GlobalGenerators:
    """A state of Python's and numpy's for code that draws from them: that of ``seed``, then as it was last left.

    What else draws from them sees nothing of it.
    """

    def __init__(self, seed: int) -> None:
        self._first = self._state = random.Random(seed).getstate(), np.random.RandomState(seed).get_state()

    def restart(self) -> None:
        """Go back to the state of the seed."""
        self._state = self._first

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """The generators are in this state meanwhile; one thread at a time."""
        with _IN_USE:
            before = random.getstate(), np.random.get_state()
            _set(*self._state)
            try:
                yield
            finally:
                self._state = random.getstate(), np.random.get_state()
                _set(*before)


def _set(python: object, numpy: object) -> None:
    random.setstate(python)  # type: ignore[arg-type]
    np.random.set_state(numpy)  # type: ignore[arg-type]
