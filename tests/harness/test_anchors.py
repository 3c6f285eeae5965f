"""From the scores of an anchor task's items to its estimate."""

from __future__ import annotations

import numpy as np
import pytest

from merge3_plugin.api import ResponseMatrix, calibrate, estimate
from merge3_plugin.artifact import save_calibration
from merge3_plugin.errors import DataError
from merge3_plugin.harness.anchors import Anchors, Scored
from merge3_plugin.harness.settings import AnchorSettings

N_MODELS, N_ITEMS = 12, 12


@pytest.fixture
def items(manager):
    return manager.load(["anchor_choice"])["tasks"]["anchor_choice"].items


def test_a_sample_is_checked_and_its_order_does_not_matter(items):
    anchors = Anchors(items, AnchorSettings(anchors=5))
    scored = [Scored(document.item_id, 1.0, 0.5) for document in anchors.documents]
    assert anchors.calibration is None and anchors.estimate(scored).accuracy == 1.0
    assert anchors.estimate(scored[::-1]) == anchors.estimate(scored)
    with pytest.raises(DataError, match="each anchor once"):
        anchors.estimate([*scored, scored[0]])
    with pytest.raises(DataError, match="each anchor once"):
        anchors.estimate([*scored[:-1], Scored("elsewhere", 0.0, None)])


def test_soft_scores_reach_the_estimate(items, tmp_path):
    rng = np.random.default_rng(0)
    soft = 1 / (1 + np.exp(rng.normal(size=N_ITEMS) - 2 * rng.normal(size=(N_MODELS, 1))))
    right = (rng.random(soft.shape) < soft).astype(float)
    made = calibrate(ResponseMatrix(right, range(N_MODELS), items.documents, soft=soft), 6, seed=0)
    save_calibration(made, tmp_path / "soft.safetensors")
    column = {item: j for j, item in enumerate(items.documents)}
    scored = [Scored(item, right[3, column[item]], soft[3, column[item]]) for item in made.anchors.item_ids]
    without = [one._replace(soft=None) for one in scored]
    scores, graded = {one.item: one.score for one in scored}, {one.item: one.soft for one in scored}
    for estimator in ("auto", "factor-soft"):
        anchors = Anchors(items, AnchorSettings(calibration=tmp_path / "soft.safetensors", estimator=estimator))
        expected = estimate(anchors.calibration, scores, soft=graded, estimator=estimator)
        assert anchors.estimate(scored) == anchors.estimate(scored[::-1]) == expected
        if estimator == "auto":
            assert anchors.estimate(without) == estimate(anchors.calibration, scores)
        else:
            doubted = anchors.estimate([one._replace(soft=1 - one.soft) for one in scored])
            assert doubted.accuracy != expected.accuracy
            with pytest.raises(DataError, match="factor-soft"):
                anchors.estimate(without)
