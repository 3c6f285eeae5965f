import numpy as np
import pytest

from merge3_plugin.api import calibrate
from merge3_plugin.testing import simulate_merges, simulate_responses


@pytest.fixture(scope="session")
def calibration():
    """30 kd anchors of 300 items, from 12 models of a well specified world; a thirteenth model answered them too."""
    world = simulate_responses(13, 300, rng=np.random.default_rng(2))
    return calibrate(world.models(world.model_ids[:12]), 30, seed=1, anchors="kd")


@pytest.fixture(scope="session")
def newcomer():
    """The thirteenth model's answers to all items."""
    world = simulate_responses(13, 300, rng=np.random.default_rng(2))
    return dict(zip(world.item_ids, world.values[12], strict=True))


@pytest.fixture(scope="session")
def family():
    """Three parents and 16 merges of them on 400 items."""
    return simulate_merges(3, 16, 400, rng=np.random.default_rng(4))


@pytest.fixture(scope="session")
def family_calibration(family):
    """40 anchors, from the parents and six of the merges."""
    parents = family.models(["p0", "p1", "p2"])
    return calibrate(family.models(family.model_ids[:9]), 40, seed=1, anchors="kd", parents=parents)
