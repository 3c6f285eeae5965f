"""CMA-ES (Hansen, arXiv 1604.00772) through the package ``cma``, cut off from every global state."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from merge3_plugin.domain import FloatArray


class CmaEs:
    """Ask/tell on vectors of genes. Same generator state, same tells: same asks, bit for bit."""

    def __init__(self, x0: FloatArray, sigma0: float, *, popsize: int | None, rng: np.random.Generator) -> None:
        options: dict[str, Any] = {
            # cma would seed, and so reset, numpy's global generator, and take 0 for "the clock".
            "seed": float("nan"),
            "randn": lambda *shape: rng.standard_normal(shape),
            "verbose": -9,
            "verb_log": 0,
            "signals_filename": "",
        }
        if popsize is not None:
            options["popsize"] = popsize
        with warnings.catch_warnings():
            # Importing cma without matplotlib warns of plots that nobody asked for.
            warnings.simplefilter("ignore")
            import cma

            self._es = cma.CMAEvolutionStrategy(np.array(x0, dtype=np.float64), sigma0, options)

    @property
    def popsize(self) -> int:
        return int(self._es.popsize)

    def ask(self) -> list[FloatArray]:
        """The next generation, ``popsize`` vectors. Asking again without a tell draws afresh."""
        return [np.array(x, dtype=np.float64) for x in self._es.ask()]

    def tell(self, vectors: Sequence[FloatArray], costs: Sequence[float | None]) -> bool:
        """Learn from a generation, and from any further vectors scored beside it; a cost of None is a failure.

        Failures take the worst rank. Returns False, and learns nothing, when every candidate failed: cma would accept
        such a generation in silence and drift on noise.
        """
        known = [c for c in costs if c is not None and np.isfinite(c)]
        if not known:
            return False
        worst = max(known) + 1.0
        values = [c if c is not None and np.isfinite(c) else worst for c in costs]
        with warnings.catch_warnings():
            # It warns of a generation larger than popsize, which the vectors scored beside it are meant to make.
            warnings.simplefilter("ignore")
            self._es.tell([np.array(v, dtype=np.float64) for v in vectors], values)
        return True

    def mean(self) -> FloatArray:
        """The centre of the distribution: under noise often better than the best candidate seen."""
        return np.array(self._es.result.xfavorite, dtype=np.float64)

    def stop(self) -> dict[str, Any]:
        """Why it has converged (cma's own criteria), or an empty dict."""
        return {str(k): v for k, v in self._es.stop().items()}
