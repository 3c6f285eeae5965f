"""What every strategy owes the search, whoever offers it."""

import numpy as np
import pytest

from merge3_plugin.errors import ConfigError
from merge3_plugin.evolve.optimizers import Result, Settings, make_optimizer
from merge3_plugin.evolve.spaces.variables import start
from merge3_plugin.plugins import plugin_host

from .worlds import MIXED, drive, drive_in_disorder, integers, made, reals, told

STRATEGIES = sorted(plugin_host().optimizers())
# Trials in which a strategy goes through generations, and a model of results is fitted several times.
ENOUGH = 60
SEVERAL = [name for name in STRATEGIES if plugin_host().optimizers()[name].several_objectives]


def ready(name, variables=MIXED, **settings):
    """The strategy, or a skip where the extra that it needs is not installed."""
    try:
        return made(name, variables, **settings)
    except ConfigError as error:
        if "pip install" in str(error):
            pytest.skip(str(error))
        raise


def bowl(vector):
    return float(((np.asarray(vector) - 0.3) ** 2).sum())


@pytest.fixture(params=STRATEGIES)
def name(request):
    ready(request.param)
    return request.param


def test_trials_are_numbered_from_0_finite_and_inside_all_limits(name):
    asked = drive(made(name, MIXED), bowl, ENOUGH)
    assert [trial.number for trial in asked] == list(range(ENOUGH))
    for trial in asked:
        assert trial.vector.shape == (len(MIXED),) and np.isfinite(trial.vector).all()
        settled = [variable.settled(x) for variable, x in zip(MIXED, trial.vector, strict=True)]
        assert trial.vector.tolist() == settled and trial.level >= 0


def test_the_same_asks_and_tells_give_the_same_trials_and_leave_no_trace(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    first = drive_in_disorder(made(name, MIXED), bowl, ENOUGH)
    assert (np.random.get_state()[1] == before).all(), "numpy's global generator is nobody's"
    np.random.seed(6)
    assert drive_in_disorder(made(name, MIXED), bowl, ENOUGH) == first
    assert drive_in_disorder(made(name, MIXED, seed=1), bowl, ENOUGH) != first
    assert not list(tmp_path.iterdir()) and capsys.readouterr() == ("", "")


def test_many_workers_never_wait_for_a_generation(name):
    optimizer = made(name, MIXED)
    flying = optimizer.ask(50)
    assert len({trial.number for trial in flying}) == 50
    for trial in reversed(flying):
        optimizer.tell([told(trial, -bowl(trial.vector))])
    assert len(optimizer.ask(3)) == 3


def test_failures_and_broken_constraints_end_nothing_and_are_not_sought(name):
    """Half of the space fails, a quarter is not allowed though it looks best: later trials are mostly of the rest."""
    optimizer = made(name, reals(3))

    def outcome(trial):
        x, y, _ = trial.vector
        if x > 0.5:
            return told(trial, None)
        return told(trial, 1.0 - y, 1e-6, violation=0.1) if y < 0.5 else told(trial, y / 2, 1e-6)

    allowed, trials = [], 150
    for _ in range(trials):
        if optimizer.stop():
            break
        (trial,) = optimizer.ask(1)
        result = outcome(trial)
        optimizer.tell([result])
        allowed.append(result.values is not None and result.violation == 0)
    if name not in ("random", "grid"):
        assert np.mean(allowed[-trials // 3 :]) > 0.6


def test_nothing_but_failures_is_survived(name):
    optimizer = made(name, MIXED)
    for _ in range(40):
        (trial,) = optimizer.ask(1)
        optimizer.tell([told(trial, None)])
    assert np.isfinite(optimizer.ask(1)[0].vector).all()


def test_results_of_no_trial_and_later_results_of_one_are_taken_in(name):
    optimizer = made(name, MIXED)
    optimizer.tell([Result(None, start(MIXED), (0.5,), (0.01,), items=10), Result(None, start(MIXED) + 0.01, None)])
    trials = optimizer.ask(5)
    optimizer.tell([told(trial, 0.1, 0.02, items=10) for trial in trials])
    optimizer.tell([told(trials[0], 0.2, 0.01, items=20)])
    drive_after = [optimizer.ask(1)[0] for _ in range(20)]
    assert len({trial.number for trial in [*trials, *drive_after]}) == 25


def test_a_mean_is_a_vector_of_the_space_or_none(name):
    optimizer = made(name, MIXED)
    drive(optimizer, bowl, ENOUGH)
    mean = optimizer.mean()
    if mean is not None:
        assert mean.tolist() == [variable.settled(x) for variable, x in zip(MIXED, mean, strict=True)]


def test_one_gene_is_enough(name):
    for variables in (reals(1), integers(1, 5)):
        optimizer = made(name, variables)
        assert len(drive(optimizer, bowl, 20)) >= 6


def test_an_unknown_option_is_an_error_that_names_it(name):
    with pytest.raises(ConfigError, match=r"search.options: unknown key 'colour'"):
        made(name, MIXED, options={"colour": "blue"})


@pytest.mark.parametrize("name", sorted({*STRATEGIES} - {"random", "tpe", "gp"}))
def test_a_budget_below_one_generation_is_an_error_that_says_how_much_is_needed(name):
    ready(name)
    with pytest.raises(
        ConfigError, match=r"expected at least one generation of \d+|grid needs \d+ candidates"
    ) as raised:
        made(name, MIXED, budget=3)
    assert "\n" not in str(raised.value) and "3" in str(raised.value)


@pytest.mark.parametrize("name", sorted({*STRATEGIES} - {*SEVERAL}))
def test_several_objectives_for_a_strategy_of_one_are_an_error_that_names_those_of_several(name):
    with pytest.raises(ConfigError, match="expected a strategy for 2 objectives .*nsga2, nsga3"):
        made(name, MIXED, objectives=2)


def test_an_unknown_strategy_is_an_error_that_names_the_nearest():
    with pytest.raises(ConfigError, match=r"expected a strategy, got 'cmaes'; did you mean 'cma-es'"):
        make_optimizer("cmaes", MIXED, start(MIXED), Settings(10), np.random.default_rng(0))
