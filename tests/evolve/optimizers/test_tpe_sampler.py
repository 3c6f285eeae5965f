"""The sampler behind ``tpe`` asks what optuna's own asks, whatever the variables."""

from __future__ import annotations

import numpy as np
import pytest

from merge3_plugin.evolve.optimizers import Result, Settings
from merge3_plugin.evolve.optimizers.optuna_search import make_tpe
from merge3_plugin.evolve.spaces.variables import start

from .worlds import MIXED, choices, drive, drive_in_disorder, integers, made, reals

optuna = pytest.importorskip("optuna")

from merge3_plugin.evolve.optimizers import tpe_sampler  # noqa: E402


def cost(vector):
    return float(((np.asarray(vector) - 0.3) ** 2).sum())


def with_optunas_own(monkeypatch):
    monkeypatch.setattr(
        tpe_sampler, "ParzenSampler", lambda distributions, **options: optuna.samplers.TPESampler(**options)
    )


def close(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("variables", [reals(5), integers(3, 40), choices(3), MIXED])
def test_asks_what_optunas_own_sampler_asks(variables, monkeypatch):
    ours = [trial.vector for trial in drive(made("tpe", variables), cost, 60)]
    with_optunas_own(monkeypatch)
    close(ours, [trial.vector for trial in drive(made("tpe", variables), cost, 60)])


def test_asks_the_same_of_several_workers_with_failures(monkeypatch):
    def asked():
        return [event[1] for event in drive_in_disorder(made("tpe", MIXED), cost, 60) if len(event) == 3]

    ours = asked()
    with_optunas_own(monkeypatch)
    close(ours, asked())


def test_asks_the_same_for_several_objectives_and_under_constraints(monkeypatch):
    def asked():
        optimizer = make_tpe(reals(2), start(reals(2)), Settings(60, objectives=2), np.random.default_rng(0))
        found = []
        for _ in range(60):
            (trial,) = optimizer.ask(1)
            violation = max(0.0, 1 - trial.vector.sum())
            optimizer.tell([Result(trial.number, trial.vector, tuple(-trial.vector), violation=violation)])
            found.append(trial.vector)
        return found

    ours = asked()
    with_optunas_own(monkeypatch)
    close(ours, asked())


@pytest.mark.parametrize(
    "owner, name",
    [
        (tpe_sampler.Parzen, "sample"),
        (tpe_sampler.Parzen, "log_pdf"),
        (tpe_sampler.ParzenSampler, "_get_internal_repr"),
    ],
)
def test_optuna_still_calls_what_is_replaced(owner, name, monkeypatch):
    calls = []
    original = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *args: calls.append(name) or original(*args))
    drive(made("tpe", MIXED), cost, 12)
    assert calls, f"optuna no longer calls {name}: tpe is slow again"
