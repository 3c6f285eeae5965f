"""TPE and Gaussian processes on known optima, over variables that matter sometimes, and with results that change."""

from __future__ import annotations

import logging
import sys
import warnings

import numpy as np
import pytest

from merge3_plugin.errors import ConfigError
from merge3_plugin.evolve.front import hypervolume
from merge3_plugin.evolve.optimizers import Result, Settings
from merge3_plugin.evolve.optimizers.optuna_search import make_tpe
from merge3_plugin.evolve.spaces.variables import Variable, When, active, start

from .worlds import choices, drive, integers, made, reals, told

pytest.importorskip("optuna")

BOTH = ("tpe", "gp")
INNER = Variable("inner", 0.0, 1.0, 0.1, when=When("c0", frozenset("c")))
CONDITIONAL = [*choices(1), INNER, *integers(1)]


def sphere(x):
    return float(((np.asarray(x) - 0.3) ** 2).mean())


def quadratic(x):
    z = np.array([[1, 1], [1, -1]]) @ (np.asarray(x) - 0.3)
    return float(np.array([1.0, 10.0]) @ z**2)


def conditional(x):
    """Best is choice c, where a gene of its own wants 0.8, with 7 of 9."""
    values = {0.0: 0.5, 1.0: 0.6, 2.0: 0.0, 3.0: 0.8}
    return values[x[0]] + (abs(x[1] - 0.8) if x[0] == 2.0 else 0.0) + abs(x[2] - 7) / 9


@pytest.mark.parametrize("name, trials, near", [("tpe", 150, 0.05), ("gp", 24, 0.01)])
@pytest.mark.parametrize("cost, n", [(sphere, 3), (quadratic, 2)])
def test_finds_a_known_optimum(name, trials, near, cost, n):
    best = min(drive(made(name, reals(n)), cost, trials), key=lambda trial: cost(trial.vector))
    assert np.abs(best.vector - 0.3).max() < near


@pytest.mark.parametrize("name, trials", [("tpe", 120), ("gp", 24)])
def test_finds_whole_numbers_choices_and_what_matters_under_one_of_them(name, trials):
    asked = [trial.vector for trial in drive(made(name, CONDITIONAL), conditional, trials)]
    best = min(asked, key=conditional)
    assert best[0] == 2.0 and best[2] == 7.0 and abs(best[1] - 0.8) < 0.1
    if name == "tpe":
        inner = np.array([vector[1] for vector in asked if not active(CONDITIONAL, vector)[1]])
        assert len(inner) > 3 and (inner == INNER.start).all(), "what does not matter stays at its start"
    assert all(vector[[0, 2]].tolist() == np.round(vector[[0, 2]]).tolist() for vector in asked)


@pytest.mark.parametrize("name", BOTH)
def test_the_start_is_asked_first_unless_it_is_known(name):
    (first,) = made(name, CONDITIONAL).ask(1)
    assert (first.vector == start(CONDITIONAL)).all()
    optimizer = made(name, CONDITIONAL)
    optimizer.tell([Result(None, start(CONDITIONAL), (0.5,))])
    (first,) = optimizer.ask(1)
    assert first.number == 0 and not (first.vector == start(CONDITIONAL)).all()


def told_at(optimizer, vectors, cost):
    optimizer.tell([Result(None, vector, (-cost(vector),)) for vector in vectors])


@pytest.mark.parametrize("name", BOTH)
def test_known_points_teach_the_model_but_those_outside_of_what_is_searched(name):
    rng = np.random.default_rng(0)
    variables = [Variable(f"x{i}", -np.inf, np.inf, 0.5) for i in range(2)]  # searched in [0, 1]
    optimizer = made(name, variables)
    told_at(optimizer, rng.random((40, 2)), sphere)
    told_at(optimizer, rng.uniform(2, 3, (10, 2)), lambda x: -100.0)
    optimizer.tell([Result(None, np.full(2, 0.5), (-sphere(np.full(2, 0.5)),))])
    asked = np.array([trial.vector for trial in optimizer.ask(6)])
    assert np.median(np.abs(asked - 0.3)) < 0.15, "without a trial of its own it knows where to look"
    assert (asked >= 0).all() and (asked <= 1).all()


@pytest.mark.parametrize("name", BOTH)
def test_a_later_result_of_a_trial_replaces_the_earlier_one(name):
    """A tenth of the square is thought best by luck, until each of its trials is told again."""

    def after(retold):
        optimizer = made(name, reals(2), options={"startup": 40})
        trials = optimizer.ask(40)
        luck = [10.0 if (trial.vector > 0.6).all() else 0.0 for trial in trials]
        optimizer.tell([told(t, extra - sphere(t.vector)) for t, extra in zip(trials, luck, strict=True)])
        if retold:
            optimizer.tell([told(t, -sphere(t.vector)) for t, extra in zip(trials, luck, strict=True) if extra])
        return np.mean([trial.vector for trial in optimizer.ask(5)])

    assert after(retold=True) < 0.45 < 0.6 < after(retold=False)


@pytest.mark.parametrize("name", BOTH)
def test_trials_in_flight_at_the_same_time_are_not_alike(name):
    optimizer = made(name, reals(2), options={"startup": 15})
    told_trials = optimizer.ask(15)
    optimizer.tell([told(trial, -sphere(trial.vector)) for trial in told_trials])
    asked = np.array([trial.vector for trial in optimizer.ask(5)])
    apart = np.abs(asked[:, None] - asked[None]).max(axis=-1)[~np.eye(5, dtype=bool)]
    assert apart.min() > 1e-3


def test_tpe_spreads_over_a_front_and_keeps_constraints():
    """The less of each the better, where their sum is 1 at least."""
    optimizer = make_tpe(reals(2), np.full(2, 0.5), Settings(200, objectives=2), np.random.default_rng(0))
    found = []
    for _ in range(200):
        (trial,) = optimizer.ask(1)
        violation = max(0.0, 1 - trial.vector.sum())
        optimizer.tell([Result(trial.number, trial.vector, tuple(-trial.vector), violation=violation)])
        if violation == 0:
            found.append(-trial.vector)
    assert len(found) > 100 and hypervolume(np.array(found), np.full(2, -1.1)) > 0.55, "0.605 is all there is"


@pytest.mark.parametrize("name", BOTH)
def test_nothing_of_it_reaches_the_process(name, tmp_path, monkeypatch, capsys):
    torch = pytest.importorskip("torch")
    drive(made(name, reals(2), options={"startup": 3}), sphere, 5)  # whatever importing does is done
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.getLogger("optuna"), "level", logging.DEBUG)
    filters, generator, threads = list(warnings.filters), torch.get_rng_state(), torch.get_num_threads()
    drive(made(name, reals(2), options={"startup": 3}), sphere, 6)
    assert logging.getLogger("optuna").level == logging.DEBUG and list(warnings.filters) == filters
    assert (torch.get_rng_state() == generator).all() and torch.get_num_threads() == threads
    assert not list(tmp_path.iterdir()) and capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", BOTH)
def test_draws_that_the_budget_cannot_pay_are_an_error(name):
    with pytest.raises(ConfigError, match=r"startup: expected at most the budget of 8 candidates, got 9") as raised:
        made(name, reals(2), budget=8, options={"startup": 9})
    assert "\n" not in str(raised.value)
    # Unset, they leave most of a small budget to the model: two draws and six trials near the best of them.
    optimizer = made(name, reals(2), budget=8)
    assert len(drive(optimizer, sphere, 8)) == 8


@pytest.mark.parametrize("name", BOTH)
def test_without_the_extra_it_says_what_to_install(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(
        ConfigError, match=rf"^search.optimizer: {name} needs optuna; pip install 'merge3-plugin\[optuna\]'$"
    ):
        made(name, reals(3))
