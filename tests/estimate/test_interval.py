"""Intervals from ratios to a random sample's variance."""

import numpy as np
import pytest

from merge3_plugin.api import calibrate, estimate
from merge3_plugin.estimate.base import CROSS_VALIDATION, moderated_difference, moderated_ratio
from merge3_plugin.estimate.design import Z, wilson_interval
from merge3_plugin.estimate.interval import (
    PRIOR_DEGREES,
    degrees_of_freedom,
    error_unit,
    moderated,
    score_interval,
    variance_unit,
)
from merge3_plugin.testing import simulate_responses


@pytest.mark.parametrize("accuracy", [0.0, 0.03, 0.5, 0.9, 1.0])
def test_a_random_sample_has_wilsons_interval(accuracy):
    """Ratio 1 and the normal quantile are the design-based interval, finite-population correction and all."""
    found = score_interval(accuracy, variance_unit(40, 300), Z)
    assert found == pytest.approx(wilson_interval(accuracy, 40, 300))
    assert found[0] <= accuracy <= found[1] and found[1] - found[0] > 0.02


def test_the_ends_are_so_many_standard_deviations_away():
    low, high = score_interval(0.2, 0.02, 2.5)
    for end in (low, high):
        assert abs(end - 0.2) == pytest.approx(2.5 * np.sqrt(0.02 * end * (1 - end)))
    assert high - 0.2 > 0.2 - low


def test_all_items_leave_nothing_open():
    assert variance_unit(300, 300) == 0 and score_interval(0.37, 0.0, 5.0) == (0.37, 0.37)


def test_a_few_models_are_moderated_and_many_speak_for_themselves():
    none, three, many = (moderated(0.4, n) for n in (0, 3, 300))
    assert none.ratio == 1 and none.degrees == PRIOR_DEGREES
    assert three.ratio == pytest.approx((PRIOR_DEGREES + 3 * 0.4) / (PRIOR_DEGREES + 3))
    assert many.ratio == pytest.approx(0.4, rel=0.03) and many.quantile == pytest.approx(Z, rel=0.01)
    assert none.quantile > three.quantile > many.quantile


def test_draws_of_one_model_are_not_independent_models():
    """Where the error is each model's own, further draws add nothing; where it is the draws', they count."""
    assert degrees_of_freedom(1.0, 40, 4000) < 45
    assert degrees_of_freedom(0.0, 40, 320) > 300
    assert degrees_of_freedom(0.0, 3, 2400) < 60, "three models cannot show that nothing is their own"


def test_further_items_do_not_remove_a_floor():
    at_anchors = error_unit(20, 20, 1000, 0.7)
    assert at_anchors == pytest.approx(variance_unit(20, 1000))
    assert error_unit(100, 20, 1000, 0.0) == pytest.approx(variance_unit(100, 1000))
    assert 0.7 * at_anchors * (900 / 980) ** 2 < error_unit(100, 20, 1000, 0.7) < at_anchors
    assert error_unit(10, 20, 1000, 0.7) == pytest.approx(variance_unit(10, 1000))
    assert error_unit(1000, 20, 1000, 1.0) == 0


class TestOfACalibration:
    world = simulate_responses(13, 300, rng=np.random.default_rng(0))
    calibration = calibrate(world.models(world.model_ids[:12]), 30, seed=0)

    @property
    def answers(self):
        return dict(zip(self.world.item_ids, self.world.values[12], strict=True))

    def test_rests_on_the_cross_validated_ratio(self):
        scores = {item: self.answers[item] for item in self.calibration.anchors.item_ids}
        found = estimate(self.calibration, scores, estimator="core")
        record = self.calibration.provenance[CROSS_VALIDATION]
        learned = moderated_ratio(self.calibration, "core")
        assert learned == moderated(record["ratios"]["core"], record["degrees"]["core"])
        expected = score_interval(found.accuracy, learned.ratio * variance_unit(30, 300), learned.quantile)
        assert found.interval == pytest.approx(expected)
        assert found.standard_error == pytest.approx((found.interval[1] - found.interval[0]) / (2 * Z))

    def test_is_asymmetric_near_the_ends_and_never_of_no_width(self):
        for value in (0.0, 1.0):
            found = estimate(self.calibration, dict.fromkeys(self.calibration.anchors.item_ids, value))
            low, high = found.interval
            assert 0 <= low <= found.accuracy <= high <= 1 and high - low > 0.02 and found.standard_error > 0
            assert (high - found.accuracy > found.accuracy - low) == (value == 0.0)

    def test_narrows_with_further_items(self):
        scores = {item: self.answers[item] for item in self.calibration.anchors.item_ids}
        widths = []
        for further in (0, 60, 200, 300):
            known = scores | dict(list(self.answers.items())[:further])
            low, high = estimate(self.calibration, known, estimator="gd").interval
            widths.append(high - low)
        assert widths == sorted(widths, reverse=True) and widths[-1] == 0

    def test_differences_have_a_ratio_of_their_own(self):
        of_pairs = self.calibration.provenance[CROSS_VALIDATION]["differences"]
        found = moderated_difference(self.calibration, "gd")
        assert found == moderated(of_pairs["ratios"]["gd"], of_pairs["models"])
        assert moderated_difference(self.calibration, "no-such", "gd") == found
        assert moderated_difference(self.calibration, "no-such") == moderated(1.0, 0)


def test_without_cross_validation_drawn_anchors_have_the_design_based_interval():
    world = simulate_responses(3, 200, rng=np.random.default_rng(1))
    calibration = calibrate(world.models(["m0", "m1"]), 20, seed=0)
    scores = {item: world.values[2, world.item_ids.index(item)] for item in calibration.anchors.item_ids}
    found = estimate(calibration, scores)
    assert CROSS_VALIDATION not in calibration.provenance and calibration.anchors.inclusion is not None
    assert found.interval == pytest.approx(wilson_interval(found.accuracy, 20, 200))
    by_model = estimate(calibration, scores, estimator="p-irt").interval
    assert by_model[1] - by_model[0] > 1.2 * (found.interval[1] - found.interval[0]), "nobody knows its error"
