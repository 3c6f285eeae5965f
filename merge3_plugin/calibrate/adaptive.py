"""Adaptive tests with known errors: simulated on the calibration's own models first, then held with a new one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral
from typing import NamedTuple

import numpy as np

from merge3_plugin.calibrate.choice import surely_best
from merge3_plugin.calibrate.folds import dimensions, eligible, fit_folds, generator
from merge3_plugin.calibrate.simulation import SimulatedTests, latent_of, simulate, test_sizes
from merge3_plugin.domain import Calibration, Estimate, FloatArray, ResponseMatrix, check_scores
from merge3_plugin.errors import ConfigError, DataError
from merge3_plugin.estimate.adaptive import ABILITY, AdaptiveTest, Policy, combined
from merge3_plugin.estimate.base import FEWEST_MODELS, align_parents
from merge3_plugin.estimate.interval import Moderated, moderated, score_interval, variance_unit
from merge3_plugin.estimate.interval import standard_error as half_width

METHOD = "merge3_adaptive"

# The larger the adaptive share, the more rests on the item parameters: few models make them good enough for little.
SHARES = (0.0, 0.25, 0.5, 1.0)
DEFAULT_SHARE = 0.25  # with which no real benchmark did worse than with none

# Why a test ended.
REACHED, SPENT, EXHAUSTED = "standard error reached", "budget spent", "all items asked"

Ask = Callable[[Sequence[str]], Mapping[str, float]]


class Step(NamedTuple):
    """The state of a test after one batch: items asked so far, the estimated accuracy, its standard error."""

    n_items: int
    accuracy: float
    standard_error: float


@dataclass(frozen=True)
class AdaptiveResult:
    """One model's adaptive test: the ``estimate``, the items in the ``order`` asked, the state after each batch.

    ``stopped`` says why it ended: `REACHED`, `SPENT` or `EXHAUSTED`. ``policy`` is the one that tests of the
    calibration's models found best.
    """

    estimate: Estimate
    order: tuple[str, ...]
    steps: tuple[Step, ...]
    stopped: str
    policy: Policy


@dataclass(frozen=True, eq=False)
class Plan:
    """How to test, and the error to expect.

    ``ratios`` (K,) are cross-validated squared errors over the variance of a random sample of as many items, at
    ``sizes`` (K,) items, ascending; ``n_models`` are behind them. ``misfit`` says how far the IRT's mean errs (see
    `combined`): infinite where nothing is known, so that the probability sample has the word.
    """

    policy: Policy
    misfit: float
    sizes: FloatArray
    ratios: FloatArray
    n_models: int

    def error(self, n_items: int) -> Moderated:
        """Squared error of a test of so many items, as a moderated ratio."""
        return moderated(float(np.interp(np.log(n_items), np.log(self.sizes), self.ratios)), self.n_models)

    def estimate(self, test: AdaptiveTest) -> Estimate:
        """The accuracy by the answers so far. Its interval rests on the simulated tests, not on the ability's."""
        n_asked, n_items = len(test.asked), len(test.scores)
        accuracy = float(combined(test.terms(), self.misfit))
        error = self.error(n_asked)
        interval = score_interval(accuracy, error.ratio * variance_unit(n_asked, n_items), error.quantile)
        return Estimate(accuracy, half_width(interval), interval, METHOD, n_asked, n_items)


# Of fewer models nothing is known: what was drawn for the sample is then a random sample.
UNTESTED = Plan(Policy(0.0), np.inf, np.ones(1), np.ones(1), 0)


def run_adaptive(
    calibration: Calibration,
    ask: Ask,
    *,
    seed: int,
    standard_error: float | None = None,
    budget: int | None = None,
    batch: int = 8,
    parents: ResponseMatrix | None = None,
    watch: Callable[[Step], None] | None = None,
) -> AdaptiveResult:
    """See `merge3_plugin.api.adaptive`; ``watch`` hears of every step."""
    check_limits(standard_error, budget)
    _check(budget, batch, seed)
    n_items = calibration.n_items
    budget = n_items if budget is None else min(budget, n_items)
    aligned = None if parents is None else align_parents(parents, calibration.item_ids)
    plan = make_plan(calibration, standard_error, budget, batch, seed, simulated_parents(calibration, aligned))
    # By id: the order of the items in the calibration must not decide which ones are drawn.
    by_id = np.array(sorted(range(n_items), key=calibration.item_ids.__getitem__))
    latent = latent_of(calibration.items, aligned, calibration.ability_precision).take(by_id)
    test = AdaptiveTest(latent, calibration.responses.item_weights[by_id], plan.policy, generator(seed, "adaptive"))
    order: list[str] = []
    steps: list[Step] = []
    while True:
        chosen = test.choose(min(batch, budget - len(order)))
        asked = [calibration.item_ids[place] for place in by_id[chosen]]
        test.tell(chosen, _answers(ask(asked), asked))
        order += asked
        estimate = plan.estimate(test)
        steps.append(Step(len(order), estimate.accuracy, estimate.standard_error))
        if watch is not None:
            watch(steps[-1])
        if len(order) == n_items:
            stopped = EXHAUSTED
        elif standard_error is not None and estimate.standard_error <= standard_error:
            stopped = REACHED
        elif len(order) == budget:
            stopped = SPENT
        else:
            continue
        return AdaptiveResult(estimate, tuple(order), tuple(steps), stopped, plan.policy)


@lru_cache(maxsize=16)
def make_plan(
    calibration: Calibration,
    standard_error: float | None,
    budget: int,
    batch: int,
    seed: int,
    parents: ResponseMatrix | None = None,
) -> Plan:
    """The policy under which simulated tests of left-out models err least before the test will end, and their error.

    ``parents`` have the calibration's items; the tests are then of their merges, which the other models should be. With
    fewer than 5 models to leave out all items are a probability sample, whose error is taken to be that of a
    random one.
    """
    responses = calibration.responses
    parent_ids = () if parents is None else parents.model_ids
    if len(eligible(responses, parent_ids)) < FEWEST_MODELS or calibration.n_items <= batch:
        return UNTESTED
    # Tests need one fit: in the dimensions of the calibration's own, where so many models allow them.
    allowed, wanted = dimensions(responses.n_models), calibration.items.n_dimensions
    n_dimensions = wanted if wanted in allowed else allowed[0]
    folds = fit_folds(responses, seed=seed, parents=parents, numbers=(n_dimensions,))
    n_items = folds.responses.n_items
    sizes = test_sizes(batch, min(budget, _most_needed(standard_error, n_items)), n_items)
    found = simulate(folds, [Policy(share) for share in SHARES], sizes)
    chosen = found[_surely_best(found, standard_error)].policy
    if chosen.share > 0 and wanted > 1:
        found += simulate(folds, [chosen._replace(aim=ABILITY)], sizes)
    best = found[_surely_best(found, standard_error)]
    return Plan(best.policy, best.misfit, best.sizes, _honest_ratios(found, standard_error), len(best.accuracies))


def simulated_parents(calibration: Calibration, parents: ResponseMatrix | None) -> ResponseMatrix | None:
    """The parents to simulate tests with: none where the calibration was not made with merges of theirs.

    The errors are then those of tests without parents: the merge-aware ability is the same fit with less freedom.
    """
    if parents is None or set(parents.model_ids) != set(calibration.provenance.get("parents", ())):
        return None
    return parents


def _surely_best(tests: Sequence[SimulatedTests], standard_error: float | None, without: int | None = None) -> int:
    """Which of ``tests`` errs least, by all models or by all but one: the default share's, unless another surely does.

    Errors count from half the items on to where the first of the policies ends.
    """
    end = min(_end(of, standard_error) for of in tests)
    sizes = tests[0].sizes
    counted = (sizes >= sizes[end] / 2) & (sizes <= sizes[end])
    keep = np.arange(len(tests[0].accuracies)) != (-1 if without is None else without)
    errors = {str(n): of.relative_errors[keep][:, counted].mean(axis=1) for n, of in enumerate(tests)}
    default = next(n for n, of in enumerate(tests) if of.policy == Policy(DEFAULT_SHARE))
    return int(surely_best(str(default), errors))


def _end(tests: SimulatedTests, standard_error: float | None) -> int:
    """Position of the first of their sizes at which tests of the average model reach the ``standard_error``."""
    reached = tests.squares.mean(axis=0) <= (standard_error or 0.0) ** 2
    return int(reached.argmax()) if reached.any() else len(reached) - 1


def _honest_ratios(tests: Sequence[SimulatedTests], standard_error: float | None) -> FloatArray:
    """Squared error over a random sample's variance, shape (K,), each model under the policy that the others choose.

    The least of several errors is low by luck; this is the error of choosing. More items never mean more of it.
    """
    from scipy.optimize import isotonic_regression

    n_models = len(tests[0].accuracies)
    squares = np.mean([tests[_surely_best(tests, standard_error, m)].squares[m] for m in range(n_models)], axis=0)
    return np.asarray(isotonic_regression(squares, increasing=False).x) / tests[0].variances


def _most_needed(standard_error: float | None, n_items: int) -> int:
    """Items of a random sample that reach the ``standard_error`` for any model, by a wide interval."""
    if standard_error is None:
        return n_items
    size = 1.5 * 0.25 / standard_error**2
    return int(np.ceil(size / (1.0 + size / n_items)))


def _answers(scores: Mapping[str, float], asked: Sequence[str]) -> FloatArray:
    checked = check_scores(scores, asked)
    if missing := [item for item in asked if item not in checked]:
        raise DataError(f"adaptive test: expected a score of every item asked, got none of {missing[0]!r}")
    return np.array([checked[item] for item in asked])


def check_limits(standard_error: float | None, budget: int | None) -> None:
    """Raise ConfigError unless a test under these limits has an end that makes sense."""
    if standard_error is None and budget is None:
        raise ConfigError("adaptive test: expected a standard error to reach or a budget of items, got neither")
    if standard_error is not None and not 0.0 < standard_error < 0.5:
        raise ConfigError(f"standard error: expected a number between 0 and 0.5, got {standard_error:g}; try 0.02")


def _check(budget: int | None, batch: int, seed: int) -> None:
    for name, value, least in (("budget", budget, 1), ("batch", batch, 1), ("seed", seed, 0)):
        if value is not None and (not isinstance(value, Integral) or value < least):
            raise ConfigError(f"{name}: expected a whole number, at least {least}, got {value!r}")
