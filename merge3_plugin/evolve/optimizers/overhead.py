"""What a strategy takes for itself, beside the candidates that it asks for."""

from __future__ import annotations

import numpy as np

_GENES = (10, 50, 200)
# Milliseconds a candidate over these genes, by benchmarks/optimizer_overhead.py: medians on one thread of a server, to
# tell orders of magnitude. They are of 300 candidates, for models of all results take longer the more there are. What
# is not here took a quarter of a millisecond at most.
_MILLISECONDS = {"lq-cma-es": (1.5, 3.6, 20.0), "tpe": (2.0, 4.0, 11.0), "gp": (33.0, 45.0, 63.0)}


def overhead(strategy: str, genes: int) -> float:
    """Seconds a candidate, about: between what was measured, or the nearest of it; 0 for what costs next to nothing.

    So it is for a plug-in's strategy, of which nothing is known.
    """
    measured = _MILLISECONDS.get(strategy)
    return float(np.interp(genes, _GENES, measured)) / 1000 if measured else 0.0
