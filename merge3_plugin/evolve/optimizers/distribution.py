"""The normal distribution of CMA-ES (Hansen, arXiv 1604.00772), by the package ``cma``, without its global state."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from merge3_plugin.domain import FloatArray
from merge3_plugin.evolve.optimizers.relaxed import Relaxed, quiet_cma
from merge3_plugin.generators import GlobalGenerators

T = TypeVar("T")

# A standard deviation below this share of a gene's spread makes the same model again.
_SAME = 1e-6
# So many generations in a row whose best three quarters are all equal end a run: with few items ties are common.
_FLAT = 10


class Distribution:
    """Points of a relaxed space are drawn from it, and the better half of those told together moves and shapes it.

    ``sigma0`` is the first step as a share of each gene's spread. ``separable`` adapts the variances alone, in linear
    time. ``most`` is after how many generations it counts as converged at the latest.
    """

    def __init__(
        self,
        relaxed: Relaxed,
        centre: FloatArray,
        sigma0: float,
        rng: np.random.Generator,
        *,
        popsize: int | None,
        separable: bool,
        most: float = np.inf,
    ) -> None:
        self._relaxed = relaxed
        # cma draws from numpy's global generator where it centres integers: it gets one of its own.
        self._generators = GlobalGenerators(int(rng.integers(2**32)))
        cma = quiet_cma()
        options: dict[str, Any] = {
            # cma would seed, and so reset, numpy's global generator, and take 0 for "the clock".
            "seed": float("nan"),
            "randn": lambda *shape: rng.standard_normal(shape),
            "verbose": -9,
            "verb_log": 0,
            "signals_filename": "",
            "CMA_diagonal": separable,
            "CMA_stds": relaxed.widths,
            "minstd": relaxed.least_deviations(),
            "maxstd": relaxed.greatest_deviations(),
            "integer_variables": list(relaxed.integers),
            # The other rule of above 300 genes needs results in the order of the draws.
            "AdaptSigma": cma.sigma_adaptation.CMAAdaptSigmaCSA,
            "CMA_mirrors": 0,
            # Never another coordinate system on the way: points that are out keep their meaning.
            "conditioncov_alleviate": [1e8, 0],
            "tolx": _SAME * float(relaxed.widths.min()),
            "tolflatfitness": _FLAT,
            # Few items make many equal values, which is no convergence.
            "tolfun": 0,
            "tolfunhist": 0,
        }
        if popsize is not None:
            options["popsize"] = popsize
        if np.isfinite(most):
            options["maxiter"] = most
        self._es = self._apart(lambda: cma.CMAEvolutionStrategy(np.array(centre), sigma0, options))

    @property
    def popsize(self) -> int:
        """How many results it learns from at once."""
        return int(self._es.popsize)

    @property
    def centre(self) -> FloatArray:
        """Its mean, a point."""
        return np.array(self._es.mean, dtype=np.float64)

    def draw(self, n: int) -> list[FloatArray]:
        """``n`` points inside the limits; injected ones are the first, if ``n`` is above 1."""
        return [self._relaxed.drawn(point) for point in self._apart(lambda: self._es.ask_geno(n))]

    def learn(self, points: Sequence[FloatArray], costs: Sequence[float], strange: Sequence[int] = ()) -> None:
        """Learn from the costs of ``popsize`` points or more; ``strange`` are the places of those drawn elsewhere.

        A strange point counts as one in its direction that could have been drawn (``repair_genotype`` shortens it).
        """
        told = [np.array(point, dtype=np.float64) for point in points]
        for place in strange:
            told[place] = self._es.repair_genotype(told[place], copy_if_changed=True)

        def learn() -> None:
            if self._es.number_of_solutions_asked == 0:  # cma learns only after it was asked
                self._es.ask_geno(1)
            self._es.tell(told, list(costs), check_points=False)
            self._es.manage_plateaus()

        self._apart(learn)

    def inject(self, point: FloatArray) -> None:
        """Make the next draws begin with this point, or one in its direction that is as far as draws are."""
        self._es.inject([np.array(point)])

    def grow(self, popsize: int) -> None:
        """Go on with this ``popsize``; mean, shape and evolution paths stay as they are."""
        if popsize == self.popsize:
            return

        def grow() -> None:
            parameters = self._es.sp
            parameters.set(self._es.opts, popsize=popsize, verbose=False)
            if self._es.opts["CMA_diagonal"]:
                parameters.weights.finalize_negative_weights(
                    self._es.N, parameters.c1_sep, parameters.cmu_sep, pos_def=False
                )
            self._es.adapt_sigma.initialize_settings(self._es, reset=True)

        self._apart(grow)

    def stop(self) -> dict[str, Any]:
        """Why it has converged (``cma``'s own criteria), or an empty dict."""
        return {str(reason): value for reason, value in self._apart(self._es.stop).items()}

    def _apart(self, work: Callable[[], T]) -> T:
        """Do ``work`` of cma's on a global generator of our own, unheard: it warns of what is meant here."""
        with self._generators.in_use(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return work()
