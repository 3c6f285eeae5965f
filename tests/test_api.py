import importlib
import pkgutil

import numpy as np
import pytest

import merge3_plugin
from merge3_plugin.api import ResponseMatrix, calibrate, estimate
from merge3_plugin.errors import DataError
from merge3_plugin.testing import simulate_responses


def test_the_readme_example():
    world = simulate_responses(13, 400, rng=np.random.default_rng(0))
    responses = ResponseMatrix(world.values[:12], world.model_ids[:12], world.item_ids)
    calibration = calibrate(responses, 40, seed=0)
    anchors = calibration.anchors.item_ids
    scores = {item: world.values[12, world.item_ids.index(item)] for item in anchors}
    found = estimate(calibration, scores)
    low, high = found.interval
    assert len(anchors) == 40 and low <= found.accuracy <= high and found.standard_error > 0
    assert abs(found.accuracy - world.values[12].mean()) < 0.15


def test_models_that_look_wrong_are_named_and_doubles_count_once(caplog):
    world = simulate_responses(6, 200, rng=np.random.default_rng(0))
    twin = ResponseMatrix(np.vstack([world.values, world.values[:1]]), [*world.model_ids, "twin"], world.item_ids)
    found = calibrate(twin, 20, seed=0)
    assert "m0, twin: gave the same answers to all 200 items" in caplog.text
    assert found.responses.model_ids == world.model_ids and found.errors == calibrate(world, 20, seed=0).errors
    assert caplog.text.count("\n") == 1


def test_embeddings_of_any_kind_of_array_are_taken_and_checked_before_hours_of_fits():
    world, vectors = (
        simulate_responses(5, 1600, rng=np.random.default_rng(0)),
        np.random.default_rng(1).random((1600, 2)),
    )
    found = [
        calibrate(world, 6, seed=0, anchors="representation-clusters", embeddings=embeddings).anchors
        for embeddings in (vectors, vectors.tolist())
    ]
    assert found[0].method == "representation-clusters" and found[0].item_ids == found[1].item_ids
    for embeddings, got in ((vectors[:9], r"\(9, 2\)"), (vectors[:, :0], r"\(1600, 0\)"), (vectors * np.nan, "NaN")):
        with pytest.raises(DataError, match=f"embeddings: expected .* got {got}"):
            calibrate(world, 6, seed=0, embeddings=embeddings)


def test_no_export_shares_a_name_with_a_subpackage():
    modules = {module.name for module in pkgutil.iter_modules(merge3_plugin.__path__)}
    assert modules >= {"calibrate", "estimate", "extract"}
    assert not modules & set(merge3_plugin.__all__)


@pytest.mark.parametrize("name", sorted(set(merge3_plugin.__all__) - {"__version__"}))
def test_exports_are_the_real_thing(name):
    found = getattr(merge3_plugin, name)
    assert getattr(importlib.import_module(found.__module__), name) is found and name in dir(merge3_plugin)


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="calibrat3"):
        merge3_plugin.calibrat3  # noqa: B018
