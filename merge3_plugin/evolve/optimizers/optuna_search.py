"""Searches with a model of what results say, by the package ``optuna``: Parzen estimators and a Gaussian process.

Both take real, whole and categorical variables as such. Where a variable does not matter, ``tpe`` leaves it out of the
trial. ``gp``, which has one model of all variables, asks for it all the same: held at its start instead, it hides what
other values do where they matter (of five seeds, after 50 trials of the tests' conditional problem, the median distance
from the best value was 0.31 instead of 0.003).
Trials that are asked and not told yet are taken into account: no two asked at the same time are alike.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from merge3_plugin.config.base import Strict
from merge3_plugin.domain import FloatArray
from merge3_plugin.errors import ConfigError
from merge3_plugin.evolve.optimizers import Result, Settings, Trial
from merge3_plugin.evolve.optimizers.extras import require
from merge3_plugin.evolve.spaces.variables import Kind, Variable, active

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.storages import InMemoryStorage
    from optuna.trial import Trial as OptunaTrial
    from optuna.trial import TrialState

# Draws before there is a model, as optuna has it; of a small budget a quarter.
STARTUP = 10


class Options(Strict):
    """Of ``gp``."""

    startup: int | None = Field(None, ge=1, description="draws before there is a model; unset: 10, at most 1/4 of all")


class TpeOptions(Options):
    """Of ``tpe``."""

    draws: int = Field(24, ge=1, description="from the density of the good trials, of which the likeliest is asked")


def make_tpe(
    variables: Sequence[Variable], start: FloatArray, settings: Settings, rng: np.random.Generator
) -> OptunaSearch:
    """Tree-structured Parzen estimators (Bergstra et al., NeurIPS 2011), multivariate in each group of variables."""
    options = settings.read(TpeOptions)
    startup = _startup(options, settings)
    require("optuna", "tpe")
    from merge3_plugin.evolve.optimizers.tpe_sampler import ParzenSampler

    with _quiet():
        sampler = ParzenSampler(
            _distributions(variables, start),
            n_startup_trials=startup,
            n_ei_candidates=options.draws,
            seed=_seed(rng),
            multivariate=True,
            group=True,  # conditional variables are modelled together with those that always go with them
            constant_liar=True,
        )
    return OptunaSearch(variables, start, settings.objectives, sampler, leave_out=True)


def make_gp(
    variables: Sequence[Variable], start: FloatArray, settings: Settings, rng: np.random.Generator
) -> OptunaSearch:
    """A Gaussian process with a Matern 5/2 kernel, asked where the logarithm of its expected improvement is greatest.

    (Ament et al., NeurIPS 2023.) Its noise is fitted along with it. As optuna's ``GPSampler``, of which it has the
    priors, but for what that takes: a tenth of a second a trial or more.
    """
    startup = _startup(settings.read(Options), settings)
    require("optuna", "gp")
    from merge3_plugin.evolve.optimizers.gp_sampler import GaussianSampler

    sampler = GaussianSampler(_distributions(variables, start), startup, _seed(rng))
    return OptunaSearch(variables, start, settings.objectives, sampler, leave_out=False)


class OptunaSearch:
    """An optuna study in memory, of which nothing reaches the process's logs, warnings or generators.

    optuna's own numbers of parameters are our coordinates: places of choices, and whole and real numbers as they are.
    It knows no tie-breakers: equal values are equal to it.
    """

    def __init__(
        self,
        variables: Sequence[Variable],
        start: FloatArray,
        objectives: int,
        sampler: BaseSampler,
        *,
        leave_out: bool,
    ) -> None:
        import optuna

        self._variables, self._start, self._leave_out = variables, start, leave_out
        self._distributions = list(_distributions(variables, start).values())
        self._storage = _storage()
        with _quiet():
            self._study = optuna.create_study(
                storage=self._storage, sampler=sampler, directions=["maximize"] * objectives
            )
        self._ids: list[int] = []  # optuna's, by the number of our trials
        self._violations: dict[int, float] = {}  # by optuna's id, of all that have values
        self._worst: tuple[float, ...] | None = None
        self._constrained = False
        self._start_known = False

    def ask(self, n: int) -> list[Trial]:
        """The start, unless it is known; then draws until there is a model, then what the model hopes most of."""
        with _quiet():
            return [self._ask() for _ in range(n)]

    def tell(self, results: Sequence[Result]) -> bool:
        """True: each result changes the model, and a later one of a trial replaces the earlier one.

        A failure is told as what is worst so far: of a trial that failed optuna's models hear nothing, and ask its like
        again and again.
        """
        with _quiet():
            for result in results:
                self._tell(result)
        return True

    def mean(self) -> None:
        """None: a model of the results is no distribution over vectors."""

    def stop(self) -> dict[str, Any]:
        """Nothing: it never ends."""
        return {}

    def _ask(self) -> Trial:
        if not self._ids and not self._start_known:
            self._study.enqueue_trial(
                {
                    variable.name: distribution.to_external_repr(coordinate)
                    for variable, distribution, coordinate in self._described(self._start)
                }
            )
        trial = self._study.ask()
        self._ids.append(trial._trial_id)
        vector = np.array([variable.start for variable in self._variables])
        chosen: dict[str, str] = {}  # of the categorical variables that matter
        for i, (variable, distribution) in enumerate(zip(self._variables, self._distributions, strict=True)):
            matters = variable.when is None or chosen.get(variable.when.name) in variable.when.choices
            if matters or not self._leave_out:
                suggested = _suggested(trial, variable.name, distribution)
                vector[i] = distribution.to_internal_repr(suggested)
                if matters and variable.kind is Kind.CATEGORICAL:
                    chosen[variable.name] = suggested
        return Trial(len(self._ids) - 1, vector)

    def _tell(self, result: Result) -> None:
        from optuna.trial import TrialState

        if result.trial is None:
            self._start_known |= np.array_equal(result.vector, self._start)
        values, violation = result.values, result.violation
        if values is not None:
            self._worst = tuple(map(min, self._worst or values, values))
        elif self._worst is not None:
            values, violation = self._worst, max(self._violations.values())
        number = self._added(result.vector) if result.trial is None else self._ids[result.trial]
        if number is None:
            return
        if values is None:
            self._storage.set_trial_state_values(number, TrialState.FAIL)
            return
        self._storage.set_trial_state_values(number, TrialState.COMPLETE, values)
        self._violations[number] = violation
        if self._constrained:
            self._constrain(number)
        elif violation > 0:
            # Constraints cost a model of their own, so there are none while all hold; from now on all trials have one.
            self._constrained = True
            for known in self._violations:
                self._constrain(known)

    def _added(self, vector: FloatArray) -> int | None:
        """optuna's id of a new trial that was not asked; None for one outside of what is searched."""
        described = list(self._described(vector))
        if not all(_holds(distribution, coordinate) for _, distribution, coordinate in described):
            return None
        number = self._storage.create_new_trial(self._storage.get_study_id_from_name(self._study.study_name))
        for variable, distribution, coordinate in described:
            self._storage.set_trial_param(number, variable.name, coordinate, distribution)
        return number

    def _described(self, vector: FloatArray) -> Iterator[tuple[Variable, BaseDistribution, float]]:
        """What optuna hears of a vector."""
        matters = active(self._variables, vector)
        columns = zip(self._variables, self._distributions, vector, matters, strict=True)
        for variable, distribution, coordinate, counts in columns:
            if counts or not self._leave_out:
                yield variable, distribution, variable.settled(coordinate)

    def _constrain(self, number: int) -> None:
        from optuna.trial import create_trial

        # Only a running trial's constraints have a setter; what it would write is what one that is made with them has.
        made = create_trial(value=0.0, constraints={"violation": self._violations[number]})
        for key, value in made.system_attrs.items():
            self._storage.set_trial_system_attr(number, key, value)


def _startup(options: Options, settings: Settings) -> int:
    if options.startup is not None and options.startup > settings.budget:
        raise ConfigError(
            f"search.options: startup: expected at most the budget of {settings.budget} candidates, "
            f"got {options.startup}; before as many there is no model"
        )
    return options.startup or min(STARTUP, max(1, settings.budget // 4))


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def _distributions(variables: Sequence[Variable], start: FloatArray) -> dict[str, BaseDistribution]:
    return {variable.name: _distribution(variable, x) for variable, x in zip(variables, start, strict=True)}


def _distribution(variable: Variable, start: float) -> BaseDistribution:
    """Where a variable is searched: its spread, widened to hold the start."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    low, high = min(variable.spread[0], start), max(variable.spread[1], start)
    if variable.kind is Kind.CATEGORICAL:
        return CategoricalDistribution(variable.choices)
    return IntDistribution(int(low), int(high)) if variable.kind is Kind.INTEGER else FloatDistribution(low, high)


def _holds(distribution: BaseDistribution, coordinate: float) -> bool:
    from optuna.distributions import FloatDistribution

    return not isinstance(distribution, FloatDistribution) or distribution.low <= coordinate <= distribution.high


def _suggested(trial: OptunaTrial, name: str, distribution: BaseDistribution) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(name, distribution.low, distribution.high)
    if isinstance(distribution, FloatDistribution):
        return trial.suggest_float(name, distribution.low, distribution.high)
    raise TypeError(f"{name}: expected a categorical, integer or float distribution, got {distribution!r}")


def _storage() -> InMemoryStorage:
    from optuna.storages import InMemoryStorage

    class Revised(InMemoryStorage):
        """A storage in which a later result of a finished trial replaces the earlier one, as it may here."""

        def check_trial_is_updatable(self, trial_id: int, trial_state: TrialState) -> None:
            pass

    return Revised()


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings of experimental features, no log of every trial; as it was afterwards."""
    from optuna.logging import ERROR, get_verbosity, set_verbosity

    before = get_verbosity()
    set_verbosity(ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        set_verbosity(before)
