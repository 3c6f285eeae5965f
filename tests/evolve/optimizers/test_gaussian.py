"""The Gaussian process and its acquisition function, by another implementation, by differences and by known limits."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from scipy.stats import norm

from merge3_plugin.evolve.optimizers.acquisition import Acquisition, log_improvement
from merge3_plugin.evolve.optimizers.gaussian import LEAST_NOISE, GaussianProcess, improbability, likeliest

OWNER = np.array([0, 1, 2, 2])  # the last variable has two columns
SHAPE = np.log([3.0, 0.5, 2.0, 1.4, 0.05])


def observed(n=30, noise=0.1, seed=0):
    rng = np.random.default_rng(seed)
    points = rng.random((n, len(OWNER)))
    values = np.sin(5 * points[:, 0]) + noise * rng.standard_normal(n)
    return points, (values - values.mean()) / values.std()


def test_the_posterior_is_that_of_another_implementation():
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern

    points, values = observed()
    at = np.random.default_rng(1).random((7, len(OWNER)))
    kernel = ConstantKernel(1.4) * Matern(1 / np.sqrt([3.0, 0.5, 2.0, 2.0]), nu=2.5)
    other = GaussianProcessRegressor(kernel, alpha=0.05 + LEAST_NOISE, optimizer=None).fit(points, values)
    ours = GaussianProcess(points, values, OWNER, SHAPE).posterior(at)
    np.testing.assert_allclose(ours, other.predict(at, return_std=True), rtol=1e-8)


def test_the_gradient_of_the_fit_is_that_of_its_value():
    slopes = improbability(SHAPE, *observed(), OWNER)[1]
    by_differences = approx_fprime(SHAPE, lambda shape: improbability(shape, *observed(), OWNER)[0], 1e-6)
    np.testing.assert_allclose(slopes, by_differences, rtol=1e-3, atol=1e-3)


def test_the_fit_tells_what_matters_and_how_much_noise_there_is():
    shape = likeliest(*observed(80, noise=0.2), OWNER)
    precision, noise = np.exp(shape[:-2]), np.exp(shape[-1])
    assert precision[0] > 3 * precision[1:].max()
    assert 0.02 < noise < 0.15, "0.04 of a variance of 0.5 or so"
    quiet = likeliest(*observed(80, noise=0.0), OWNER)
    assert np.exp(quiet[-1]) < 0.1 * noise


@pytest.mark.parametrize("best", [0.5, 3.0, None])
def test_the_gradients_of_the_acquisition_are_those_of_its_values(best):
    model, constraint = (GaussianProcess(*observed(seed=seed), OWNER, SHAPE) for seed in (0, 1))
    acquisition = Acquisition(model, best, [(constraint, -0.2)])
    at = np.random.default_rng(2).random((5, len(OWNER)))
    values, slopes = acquisition.slopes(at)
    np.testing.assert_allclose(values, acquisition.values(at))
    by_differences = [approx_fprime(point, lambda x: acquisition.values(x[None])[0], 1e-7) for point in at]
    np.testing.assert_allclose(slopes, by_differences, rtol=1e-3, atol=1e-4)


def test_the_logarithm_of_the_improvement_is_exact_where_it_can_be_computed_and_finite_beyond():
    near = np.linspace(-5, 30, 71)
    np.testing.assert_allclose(log_improvement(near)[0], np.log(near * norm.cdf(near) + norm.pdf(near)), rtol=1e-8)
    far = np.array([-1e8, -1e4, -1e3, -100.0, -10.0, 10.0, 19.9, 20.1, 1e8])
    value, by_mean, by_deviation = log_improvement(far)
    assert np.isfinite([value, by_mean, by_deviation]).all() and (np.diff(value[1:]) > 0).all()
    assert (by_mean > 0).all() and (by_deviation >= 0).all()
