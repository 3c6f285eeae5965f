"""Variables of every kind, and searches that are driven without a model: what the tests of strategies share."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from merge3_plugin.evolve.optimizers import Optimizer, Result, Settings, Trial, make_optimizer
from merge3_plugin.evolve.spaces.variables import Kind, Variable, When, start


def reals(n: int, low: float = 0.0, high: float = 1.0, begin: float = 0.5) -> list[Variable]:
    return [Variable(f"x{i}", low, high, begin) for i in range(n)]


def integers(n: int, high: int = 9) -> list[Variable]:
    return [Variable(f"i{i}", 0, high, high // 2, Kind.INTEGER) for i in range(n)]


def choices(n: int, k: int = 4) -> list[Variable]:
    return [Variable(f"c{i}", 0, k - 1, 0, Kind.CATEGORICAL, tuple("abcdefgh"[:k])) for i in range(n)]


# Whatever a space may have: limits on both sides, on one, on none, counts, choices, and a gene that matters sometimes.
MIXED = [
    *reals(2),
    Variable("wide", -2.0, 6.0, 0.0),
    *integers(1),
    *choices(1, 3),
    Variable("above", 0.0, math.inf, 0.5),
    Variable("free", -math.inf, math.inf, 0.0),
    Variable("sometimes", 0.0, 1.0, 0.5, when=When("c0", frozenset("ab"))),
]


def made(name: str, variables: Sequence[Variable], seed: int = 0, **settings: Any) -> Optimizer:
    options = {"budget": 400} | settings
    return make_optimizer(name, variables, start(variables), Settings(**options), np.random.default_rng(seed))


def told(
    trial: Trial, value: float | None, variance: float | None = None, apart: float | None = None, **more: Any
) -> Result:
    variances, disagreements = (() if known is None else (known,) for known in (variance, apart))
    return Result(trial.number, trial.vector, None if value is None else (value,), variances, disagreements, **more)


def drive(optimizer: Optimizer, cost: Callable[[Any], float], evaluations: int) -> list[Trial]:
    """One at a time until it is spent or converged; cost is minimised."""
    trials = []
    while len(trials) < evaluations and not optimizer.stop():
        trial = next(iter(optimizer.ask(1)), None)
        if trial is None:
            assert optimizer.stop(), "with nothing in flight, no more trials need a reason"
            break
        optimizer.tell([told(trial, -float(cost(trial.vector)))])
        trials.append(trial)
    return trials


def drive_in_disorder(optimizer: Optimizer, cost: Callable[[Any], float], evaluations: int, seed: int = 7) -> list[Any]:
    """Several in flight, finished in random order, some failing; the sequence of what was asked and told."""
    rng = np.random.default_rng(seed)
    flying: list[Trial] = []
    events: list[Any] = []
    asked = 0
    while asked < evaluations and not optimizer.stop():
        new = optimizer.ask(int(rng.integers(1, 5)))
        asked += len(new)
        flying += new
        events += [(t.number, t.vector.tolist(), t.level) for t in new]
        for _ in range(int(rng.integers(0, len(flying) + 1)) or (len(flying) > 8) or not new):
            trial = flying.pop(int(rng.integers(len(flying))))
            value = None if rng.random() < 0.05 else -float(cost(trial.vector))
            events.append((trial.number, optimizer.tell([told(trial, value, 0.01)])))
    return events
