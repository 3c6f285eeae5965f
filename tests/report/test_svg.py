"""Charts are valid SVG, whose parts stand where their numbers say."""

import math
import xml.etree.ElementTree as ElementTree

import pytest

from merge3_plugin.report.svg import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Chart, ticks

SVG = "{http://www.w3.org/2000/svg}"


def elements(chart, name):
    return [e for e in ElementTree.fromstring(chart.svg()).iter(SVG + name)]


def test_points_and_their_intervals_stand_where_they_should():
    chart = Chart("t", "x", "y", (0.0, 10.0), (0.0, 1.0))
    chart.points([(0.0, 0.0), (10.0, 1.0), (5.0, 0.5)], 0, intervals=[(0.0, 0.2), (0.9, 1.0), (0.25, 0.75)])
    circles = [(float(c.get("cx")), float(c.get("cy"))) for c in elements(chart, "circle")]
    middle = ((LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2)
    assert circles == [(LEFT, HEIGHT - BOTTOM), (WIDTH - RIGHT, TOP), pytest.approx(middle)]
    bars = [line for line in elements(chart, "line") if line.get("stroke-opacity")]
    assert [float(b.get("x1")) for b in bars] == [x for x, _ in circles]
    assert float(bars[2].get("y1")) > circles[2][1] > float(bars[2].get("y2"))


def test_a_logarithmic_axis_puts_equal_ratios_equally_apart():
    chart = Chart("t", "x", "y", (10.0, 1000.0), (0.0, 1.0), log_x=True, x_ticks=(10, 100, 1000))
    chart.line([(10, 0), (100, 0), (1000, 0)], 1, "error", dashed=True)
    (line,) = elements(chart, "polyline")
    xs = [float(point.split(",")[0]) for point in line.get("points").split()]
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1]) and line.get("stroke-dasharray")
    assert {"10", "100", "1000", "error"} <= {text.text for text in elements(chart, "text")}


def test_what_lies_outside_is_drawn_at_the_edge_and_names_are_escaped():
    chart = Chart("<a & b>", "<x>", '"y"', (0.0, 1.0), (0.0, 1.0))
    chart.points([(5.0, -7.0)], 0, "<i>")
    (circle,) = elements(chart, "circle")
    assert (float(circle.get("cx")), float(circle.get("cy"))) == (WIDTH - RIGHT, HEIGHT - BOTTOM)
    assert elements(chart, "title")[0].text == "<a & b>"
    assert {"<x>", '"y"', "<i>"} <= {text.text for text in elements(chart, "text")}


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.0, 100.0), (0.3, 7.2), (-5.0, 5.0), (0.0, 0.013), (9, 11)])
def test_ticks_are_round_and_few(low, high):
    found = ticks(low, high)
    assert 3 <= len(found) <= 7 and low - 1e-9 <= found[0] and found[-1] <= high + 1e-9
    step = found[1] - found[0]
    assert step / 10 ** math.floor(math.log10(step) + 1e-9) == pytest.approx(
        round(step / 10 ** math.floor(math.log10(step) + 1e-9))
    )
