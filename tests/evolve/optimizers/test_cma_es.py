import numpy as np
import pytest

from merge3_plugin.errors import ConfigError
from merge3_plugin.evolve.optimizers import Result
from merge3_plugin.evolve.spaces.variables import Kind, Variable
from tests.evolve.optimizers.worlds import choices, drive, integers, made, reals, told


def sphere(optimum):
    return lambda vector: float(((vector - optimum) ** 2).sum())


def found(optimizer, cost, evaluations):
    drive(optimizer, cost, evaluations)
    return optimizer.mean()


# Known optima


@pytest.mark.parametrize("covariance", ["full", "separable"])
@pytest.mark.parametrize("low", [0.0, -np.inf])
def test_finds_the_optimum_of_a_sphere(covariance, low):
    mean = found(made("cma-es", reals(5, low), options={"covariance": covariance}), sphere(0.3), 1500)
    assert np.abs(mean - 0.3).max() < 1e-3


def test_finds_an_optimum_on_the_limits():
    mean = found(made("cma-es", reals(4, 0.25, 2.0)), sphere(np.array([0.25, 2.0, 0.25, 1.0])), 1500)
    assert mean == pytest.approx([0.25, 2.0, 0.25, 1.0], abs=1e-3)


def test_a_quadratic_in_the_weights_is_recovered_within_3000_evaluations():
    """The weights of a soup of 16 checkpoints, as the softmax of free logits."""

    def weights(logits):
        return np.exp(logits) / np.exp(logits).sum()

    wanted = np.random.default_rng(3).dirichlet(np.ones(16))
    optimizer = made("cma-es", reals(16, -np.inf, np.inf, 0.0), budget=3000, sigma0=0.5)
    mean = found(optimizer, lambda logits: ((weights(logits) - wanted) ** 2).sum(), 3000)
    assert np.abs(weights(mean) - wanted).max() < 1e-3


def test_finds_whole_numbers_and_choices_beside_reals():
    variables = [*integers(3), *choices(3), *reals(2)]
    wanted = np.array([0, 9, 2, 2, 1, 3, 0.3, 0.9])

    def cost(vector):
        return (vector[3:6] != wanted[3:6]).sum() + 0.1 * ((vector - wanted)[[0, 1, 2, 6, 7]] ** 2).sum()

    hits = [found(made("cma-es", variables, seed=s, budget=1500), cost, 1500) for s in range(3)]
    assert sum(np.abs(mean - wanted).max() < 0.1 for mean in hits) >= 2


def test_the_order_of_choices_means_nothing():
    """The best choice lies between the two worst: no slope of the codes leads there."""
    bad = np.array([0.5, 1.0, 0.0, 1.0, 0.5])
    variables = choices(8, 5)
    means = [
        found(made("cma-es", variables, seed=s, budget=1200), lambda v: bad[v.astype(int)].sum(), 1200)
        for s in range(3)
    ]
    assert np.mean([(mean == 2).mean() for mean in means]) > 0.9


def test_steep_and_flat_directions_across_the_genes_are_learned():
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((4, 4)))[0]
    scales = np.array([1, 10, 100, 1000.0])
    full = made("cma-es", reals(4), budget=1200, options={"covariance": "full"})
    mean = found(full, lambda v: float((scales * (turn @ (v - 0.4)) ** 2).sum()), 1200)
    assert np.abs(mean - 0.4).max() < 1e-3


# Generations


def ask_and_cost(optimizer, n):
    trials = optimizer.ask(n)
    return [told(trial, -sphere(0.3)(trial.vector)) for trial in trials]


def test_a_generation_is_whoever_came_first():
    """Two workers: results of one generation come out of order and mixed with the next one's."""
    optimizer = made("cma-es", reals(3), popsize=6)
    first, second = ask_and_cost(optimizer, 6), ask_and_cost(optimizer, 4)
    assert not optimizer.tell([second[3], first[5], second[0], first[1]])
    assert not optimizer.tell([second[1]])
    before = optimizer.mean()
    assert optimizer.tell([first[0]])
    assert not np.array_equal(optimizer.mean(), before)
    late = [first[2], first[3], first[4], second[2]]
    assert not optimizer.tell(late)
    assert optimizer.tell(ask_and_cost(optimizer, 2))


def test_two_generations_may_be_told_at_once():
    optimizer = made("cma-es", reals(3), popsize=5)
    assert optimizer.tell(list(reversed(ask_and_cost(optimizer, 12))))
    assert optimizer.tell(ask_and_cost(optimizer, 3))


def test_results_of_no_trial_move_the_search():
    def after(extra):
        optimizer = made("cma-es", reals(4), popsize=8)
        optimizer.tell(extra)
        optimizer.tell(ask_and_cost(optimizer, 8))
        return optimizer.mean()

    known = Result(None, np.full(4, 0.3), (0.0,))
    poor = Result(None, np.full(4, 1.0), (-9.0,))
    assert sphere(0.3)(after([known])) < sphere(0.3)(after([]))
    assert sphere(0.3)(after([poor])) < 2 * sphere(0.3)(after([]))


@pytest.mark.parametrize("worst", [-99.0, None])
def test_failures_rank_last_and_broken_constraints_before_them(worst):
    def mean(outcomes):
        optimizer = made("cma-es", reals(3), popsize=6)
        trials = optimizer.ask(6)
        assert optimizer.tell([told(t, value, violation=v) for t, (value, v) in zip(trials, outcomes, strict=True)])
        return optimizer.mean()

    plain = mean([(worst, 0.0), (-98.0, 0.0), (2.0, 0.0), (3.0, 0.0), (4.0, 0.0), (5.0, 0.0)])
    broken = mean([(None, 0.0), (90.0, 0.5), (2.0, 0.0), (3.0, 0.0), (4.0, 0.0), (5.0, 0.0)])
    assert (plain == broken).all()


def test_a_failed_generation_teaches_nothing():
    optimizer = made("cma-es", reals(3), popsize=6)
    before = optimizer.mean()
    assert not optimizer.tell([told(trial, None) for trial in optimizer.ask(6)])
    assert (optimizer.mean() == before).all() and len(optimizer.ask(6)) == 6


def test_values_that_are_all_equal_do_not_end_the_search_at_once():
    """A few items make ties: five flat generations are no convergence, but endless ones are."""
    optimizer = made("cma-es", reals(3), popsize=6)
    drive(optimizer, lambda v: 0.0, 30)
    assert not optimizer.stop()
    drive(optimizer, lambda v: 0.0, 300)
    assert "tolflatfitness" in optimizer.stop()


# Restarts


def two_valleys(vector):
    """A wide valley at 0.8, and a deeper one at 0.1 that is narrow."""
    return min(((vector - 0.8) ** 2).sum(), 8 * ((vector - 0.1) ** 2).sum() - 0.05)


@pytest.mark.parametrize("restarts", ["ipop", "bipop"])
def test_restarts_begin_anew_where_a_run_has_converged(restarts):
    begun = [Variable(f"x{i}", 0.0, 1.0, 0.8) for i in range(2)]
    plain = made("cma-es", begun, budget=3000)
    used = len(drive(plain, two_valleys, 3000))
    assert used < 1000 and "tolx" in plain.stop() and plain.mean() == pytest.approx([0.8, 0.8], abs=1e-3)
    again = made("cma-es", begun, budget=3000, options={"restarts": restarts})
    assert len(drive(again, two_valleys, 3000)) > 3 * used
    assert again.mean() == pytest.approx([0.1, 0.1], abs=1e-3), "the mean of the best run"


def test_restarts_double_the_population_and_end_where_no_generation_fits():
    optimizer = made("cma-es", reals(2), popsize=5, budget=500, options={"restarts": "ipop"})
    sizes, since = [], 0
    for _ in range(500):
        (trial,) = optimizer.ask(1)
        since += 1
        if optimizer.tell([told(trial, -sphere(0.3)(trial.vector))]):
            sizes.append(since)
            since = 0
        if optimizer.stop():
            break
    assert sorted(set(sizes))[:2] == [5, 10] and sizes == sorted(sizes)


def test_late_results_of_an_earlier_run_are_left_out():
    optimizer = made("cma-es", reals(2), popsize=5, budget=2000, options={"restarts": "ipop"})
    late = ask_and_cost(optimizer, 7)
    optimizer.tell(late[:5])
    for _ in range(400):
        if not optimizer.tell(ask_and_cost(optimizer, 1)):
            continue
        before = optimizer.mean()
        optimizer.tell(late[5:])
        assert (optimizer.mean() == before).all()


# Noise


def noisy_run(noise, tau, seed, evaluations=400, shared=0.0):
    """Noise ``tau`` of each value beside the others, on top of that which all of a generation share."""
    rng = np.random.default_rng(seed)
    optimizer = made("cma-es", reals(10), seed=seed, budget=evaluations, options={"noise": noise})
    sizes, since = [], 0
    for _ in range(evaluations):
        (trial,) = optimizer.ask(1)
        since += 1
        error, apart = tau * rng.standard_normal(2)
        in_common = shared * (-1) ** trial.batch
        value = -sphere(0.2)(trial.vector) + error + in_common
        if optimizer.tell([told(trial, value, tau**2 + shared**2, apart + in_common)]):
            sizes.append(since)
            since = 0
    return sphere(0.2)(optimizer.mean()), sizes


def test_the_population_grows_while_ranks_are_noise_and_the_mean_is_nearer_for_it():
    grown, fixed = ([noisy_run(noise, 0.2, seed) for seed in range(8)] for noise in ("grow", "none"))
    assert all(len(set(sizes)) == 1 for _, sizes in fixed)
    assert all(2 * sizes[0] < max(sizes) <= 400 // 12 for _, sizes in grown)
    assert np.median([error for error, _ in grown]) < 0.7 * np.median([error for error, _ in fixed])


@pytest.mark.parametrize("tau, shared", [(0.0, 0.0), (1e-6, 0.0), (0.0, 1.0)])
def test_the_population_stays_where_ranks_are_no_noise_however_noisy_levels_are(tau, shared):
    _, sizes = noisy_run("grow", tau, 0, evaluations=200, shared=shared)
    assert len(set(sizes)) == 1


def test_a_population_that_was_asked_for_is_kept():
    rng = np.random.default_rng(0)
    optimizer = made("cma-es", reals(4), popsize=6)
    learned = [optimizer.tell([told(optimizer.ask(1)[0], rng.standard_normal(), 1.0)]) for _ in range(60)]
    assert learned == ([False] * 5 + [True]) * 10


# Settings


def test_separable_is_chosen_for_many_genes():
    """200 genes in a number of evaluations that could not begin to teach a full matrix its 20,100 entries."""
    scales = np.geomspace(1, 100, 120)
    runs = [
        found(
            made("cma-es", reals(120), options={"covariance": c}, budget=1500), lambda v: scales @ (v - 0.4) ** 2, 1500
        )
        for c in ("auto", "separable")
    ]
    assert (runs[0] == runs[1]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"covarance": "full"}, "unknown key 'covarance'; did you mean 'covariance'"),
        ({"restarts": "pop"}, "restarts: .*'ipop' or 'bipop', got 'pop'"),
    ],
)
def test_wrong_options_are_errors_that_say_what_is_known(options, message):
    with pytest.raises(ConfigError, match=message):
        made("cma-es", reals(3), options=options)


def test_the_first_step_is_a_share_of_each_genes_spread():
    variables = [Variable("narrow", 0.0, 0.1, 0.05), Variable("wide", -50.0, 50.0, 0.0), *integers(1, 60)]
    drawn = np.array([t.vector for t in made("cma-es", variables, sigma0=0.1).ask(500)])
    assert drawn.std(axis=0) / [0.1, 100, 60] == pytest.approx([0.1] * 3, rel=0.15)
    assert variables[2].kind is Kind.INTEGER
