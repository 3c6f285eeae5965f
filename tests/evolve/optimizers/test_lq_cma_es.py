import numpy as np

from merge3_plugin.evolve.optimizers import Result
from tests.evolve.optimizers.worlds import choices, drive, integers, made, reals, told


def ellipsoid(n):
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((n, n)))[0]
    return lambda v: float((np.geomspace(1, 30, n) * (turn @ (v - 0.3)) ** 2).sum())


def test_the_model_spares_most_evaluations_where_there_is_no_noise():
    cost = ellipsoid(6)

    def needed(name):
        optimizer = made(name, reals(6), budget=2000)
        for evaluations in range(1, 2001):
            (trial,) = optimizer.ask(1)
            optimizer.tell([told(trial, -cost(trial.vector))])
            if cost(optimizer.mean()) < 1e-6:
                return evaluations
        return 2001

    assert needed("lq-cma-es") < 0.5 * needed("cma-es")


def test_under_noise_it_is_no_worse_than_the_plain_one():
    cost = ellipsoid(5)

    def error(name, seed):
        rng = np.random.default_rng(seed)
        optimizer = made(name, reals(5), seed=seed, budget=150)
        for _ in range(150):
            (trial,) = optimizer.ask(1)
            error, apart = 0.3 * rng.standard_normal(2)
            optimizer.tell([told(trial, -cost(trial.vector) + error, 0.09, apart)])
        return cost(optimizer.mean())

    surrogate, plain = (np.median([error(name, s) for s in range(7)]) for name in ("lq-cma-es", "cma-es"))
    assert surrogate < 1.5 * plain


def test_whom_the_model_thinks_best_is_asked_first():
    """Once the model knows a slope, each generation's first trial lies further down than most draws do."""
    optimizer = made("lq-cma-es", reals(4), popsize=12, budget=400)
    first, generations = [], 0
    while generations < 6:
        (trial,) = optimizer.ask(1)
        first.append(trial.vector.sum())
        if optimizer.tell([told(trial, -trial.vector.sum() + 0.001 * (trial.number % 3))]):
            generations += 1
    assert len(first) < 6 * 12, "some of the generations were not evaluated whole"


def test_whole_numbers_and_choices_are_found():
    wanted = np.array([7, 2, 1, 3, 0.3])
    variables = [*integers(2), *choices(2), *reals(1)]

    def cost(v):
        return (v[2:4] != wanted[2:4]).sum() + 0.1 * ((v - wanted)[[0, 1, 4]] ** 2).sum()

    optimizer = made("lq-cma-es", variables, budget=300)
    drive(optimizer, cost, 300)
    assert np.abs(optimizer.mean() - wanted).max() < 0.05


def test_results_of_no_trial_teach_the_model():
    """A grid of known points tells where the optimum is: the first generation's model has it."""
    optimizer = made("lq-cma-es", reals(2), budget=400)
    ticks = np.linspace(0, 1, 5)
    known = [np.array([x, y]) for x in ticks for y in ticks]
    optimizer.tell([Result(None, v, (-float(((v - 0.9) ** 2).sum()),)) for v in known])
    trials = drive(optimizer, lambda v: ((v - 0.9) ** 2).sum(), 25)
    assert min(((trial.vector - 0.9) ** 2).sum() for trial in trials) < 1e-3
