"""What is said of a calibration in a few lines."""

import numpy as np
import pytest

from merge3_plugin.api import calibrate
from merge3_plugin.report.calibration import describe
from merge3_plugin.testing import simulate_responses


@pytest.mark.parametrize(
    ("n", "method", "said"),
    [
        (10, "random", "anchors  10, drawn by random, seed 0: weighted means are unbiased"),
        (3, "irt-clusters", "anchors  3, chosen by irt-clusters, seed 0: no estimator is unbiased by design"),
        (40, "random", "anchors  40, all items: nothing is left to estimate"),
        (99, "irt-clusters", "anchors  40, all items: nothing is left to estimate"),
    ],
)
def test_how_the_anchors_came_about(n, method, said):
    world = simulate_responses(4, 40, rng=np.random.default_rng(0))
    assert describe(calibrate(world, n, seed=0, anchors=method)).splitlines()[-1] == said
