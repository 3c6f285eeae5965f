"""Several objectives for strategies that know one: their weighted regret, under weights that are drawn again and again.

``parego`` (Knowles, IEEE Trans. Evol. Comp. 10, 2006) is the augmented Chebyshev function, which has its best points
all along a front. Those of ``random``, the weighted sum, are never where a front bends inwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from merge3_plugin.domain import FloatArray
from merge3_plugin.evolve.optimizers import Optimizer, Result, Settings, Trial, make_optimizer
from merge3_plugin.evolve.spaces.variables import Variable

Kind = Literal["parego", "random"]

# The share of the weighted sum in ParEGO's function: without it, points that are as good in the worst of the
# objectives and worse in another would be as good.
RHO = 0.05

# Strategies that make their next trial from all that was told, so that they can be told it anew under other weights.
LEARN_ANEW = ("tpe", "gp")


def make_scalarised(
    kind: Kind,
    name: str,
    variables: Sequence[Variable],
    start: FloatArray,
    settings: Settings,
    rng: np.random.Generator,
) -> Optimizer:
    """A strategy for ``settings.objectives`` objectives over the strategy ``name`` for one.

    Raises ConfigError for what `make_optimizer` refuses.
    """
    weights_rng, inner_rng = rng.spawn(2)
    scalarisation = Scalarisation(kind, settings.objectives, weights_rng)
    one = replace(settings, objectives=1)

    def make() -> Optimizer:
        return make_optimizer(name, variables, start, one, inner_rng)

    return LearnedAnew(make, scalarisation) if name in LEARN_ANEW else Scalarised(make(), scalarisation)


class Scalarisation:
    """Makes one value, at most 0, of several: less the regret under ``weights``, drawn uniformly from the simplex.

    The regret of an objective is how far it is below the best that was `seen`, as a share of the range seen; the range
    is that at the last `redraw`, so that values between two redraws can be compared.
    """

    def __init__(self, kind: Kind, objectives: int, rng: np.random.Generator) -> None:
        self._kind, self._rng = kind, rng
        self._low, self._high = np.full(objectives, np.inf), np.full(objectives, -np.inf)
        self.redraw()

    def seen(self, results: Sequence[Result]) -> None:
        """Widen the range of each objective, from the next `redraw` on."""
        for result in results:
            if result.values is not None:
                self._low = np.minimum(self._low, result.values)
                self._high = np.maximum(self._high, result.values)

    def redraw(self) -> None:
        """Other weights, and the range of all that was seen so far."""
        self.weights = self._rng.dirichlet(np.ones(len(self._low)))
        known = self._high > self._low
        self._best = np.where(np.isfinite(self._high), self._high, 0.0)
        self._slopes = self.weights / np.where(known, self._high - self._low, 1.0)

    def one(self, result: Result) -> Result:
        """The result with one value; its variance and disagreement are by the slopes there."""
        if result.values is None:
            return result
        regrets = self._slopes * (self._best - np.array(result.values))
        slopes, value = self._slopes, -float(regrets.sum())
        if self._kind == "parego":
            worst = int(np.argmax(regrets))
            value = RHO * value - float(regrets[worst])
            slopes = self._slopes * (RHO + (np.arange(len(regrets)) == worst))
        variances = (float(slopes**2 @ np.array(result.variances)),) if result.variances else ()
        apart = (float(slopes @ np.array(result.disagreements)),) if result.disagreements else ()
        return replace(result, values=(value,), variances=variances, disagreements=apart)


class Scalarised:
    """A strategy that keeps what it has learned when the weights change, as they do each time it has learned more."""

    def __init__(self, inner: Optimizer, scalarisation: Scalarisation) -> None:
        self._inner, self._scalarisation = inner, scalarisation
        # Until the first trial: what is known beforehand says in which range the objectives lie.
        self._known: list[Result] | None = []

    def ask(self, n: int) -> list[Trial]:
        if self._known is not None:
            known, self._known = self._known, None
            self._scalarisation.redraw()
            self._inner.tell([self._scalarisation.one(result) for result in known])
        return self._inner.ask(n)

    def tell(self, results: Sequence[Result]) -> bool:
        """Whether the strategy has learned: then the weights are others."""
        self._scalarisation.seen(results)
        if self._known is not None:
            self._known.extend(results)
            return False
        learned = self._inner.tell([self._scalarisation.one(result) for result in results])
        if learned:
            self._scalarisation.redraw()
        return learned

    def mean(self) -> None:
        """None: a centre that follows changing weights is no finding."""

    def stop(self) -> Any:
        return self._inner.stop()


class LearnedAnew:
    """A strategy that is made anew, and told everything under other weights, whenever there is something new to tell.

    Trials are numbered across these strategies.
    """

    def __init__(self, make: Callable[[], Optimizer], scalarisation: Scalarisation) -> None:
        self._make, self._scalarisation = make, scalarisation
        self._inner = make()
        self._results: dict[int, Result] = {}
        self._asked, self._new = 0, False

    def ask(self, n: int) -> list[Trial]:
        if self._new:
            self._new = False
            self._scalarisation.redraw()
            self._inner = self._make()
            self._inner.tell([replace(self._scalarisation.one(r), trial=None) for r in self._results.values()])
        trials = [replace(trial, number=self._asked + i) for i, trial in enumerate(self._inner.ask(n))]
        self._asked += len(trials)
        return trials

    def tell(self, results: Sequence[Result]) -> bool:
        """Whether there is something new to learn from."""
        self._scalarisation.seen(results)
        for result in results:
            # A later result of a trial replaces the earlier one; those of no trial get keys of their own.
            key = -1 - len(self._results) if result.trial is None else result.trial
            self._results[key] = result
        learned = any(result.values is not None for result in results)
        self._new |= learned
        return learned

    def mean(self) -> None:
        """None: the centre under the weights of now is no finding."""

    def stop(self) -> Any:
        return self._inner.stop()
