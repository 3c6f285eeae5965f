from pathlib import Path

import numpy as np
import pytest

from merge3_plugin.calibrate import leave_one_model_out
from merge3_plugin.calibrate.report import random_sample_error
from merge3_plugin.domain import ResponseMatrix
from merge3_plugin.errors import DataError
from merge3_plugin.testing import simulate_merges, simulate_responses

CHEMBENCH = Path(__file__).parents[3] / "shared" / "data" / "responses_chembench.npz"


@pytest.fixture(scope="module")
def world():
    return simulate_responses(8, 200, rng=np.random.default_rng(0))


def test_random_error_is_that_of_drawn_samples():
    answers = (np.arange(300) < 120).astype(float)
    rng = np.random.default_rng(0)
    errors = [abs(rng.permutation(answers)[:30].mean() - 0.4) for _ in range(20_000)]
    # sqrt(2/pi) holds for the normal distribution, which 30 answers nearly have.
    assert np.mean(errors) == pytest.approx(random_sample_error(0.4, 30, 300), rel=0.03)
    assert random_sample_error(0.4, 300, 300) == 0


def test_the_plain_mean_of_random_anchors_errs_as_a_random_sample_does(world):
    found = leave_one_model_out(world, 20, seed=0, anchors="random", estimator="mean")
    # 8 models of 4 draws each: the mean of 32 absolute errors has a relative standard error of 0.75 / sqrt(32) = 0.13.
    assert 0.6 < found.ratio < 1.4
    assert [m.model_id for m in found.models] == list(world.model_ids)
    assert found.ratio == pytest.approx(found.error / found.random_error)
    assert found.random_error == pytest.approx(np.mean([m.random_error for m in found.models]))


def test_only_merges_are_left_out_where_parents_are_known():
    family = simulate_merges(2, 6, 200, rng=np.random.default_rng(1))
    found = leave_one_model_out(family, 20, seed=0, estimator="gmp-irt", parents=family.models(["p0", "p1"]))
    assert [m.model_id for m in found.models] == [f"m{m}" for m in range(6)]
    assert found.ratio < 1.0


def test_all_items_as_anchors_leave_no_error(world):
    found = leave_one_model_out(world, 500, seed=0)
    assert found.error == 0 and found.random_error == 0 and found.coverage == 1 and np.isnan(found.ratio)


def test_too_few_models(world):
    with pytest.raises(DataError, match="at least 3 models"):
        leave_one_model_out(world.models(world.model_ids[:2]), 20, seed=0)


@pytest.mark.skipif(not CHEMBENCH.exists(), reason="the ChemBench responses are not here")
def test_on_real_models():
    """22 models on ChemBench, one left out at a time: better than a random sample, and covered."""
    data = np.load(CHEMBENCH)
    values = data["values"].astype(float)
    responses = ResponseMatrix(values, data["model_ids"], [f"q{j}" for j in range(values.shape[1])])
    found = leave_one_model_out(responses, 50, seed=0)
    assert found.ratio < 0.9
    # 22 models of four dependent draws: three standard errors of a share near 0.95 over 22 are 0.14.
    assert found.coverage > 0.81
