"""The report on a calibration says what was measured, in HTML and in Markdown."""

import re

import numpy as np
import pytest

from merge3_plugin.calibrate import study
from merge3_plugin.calibrate.assessment import assess
from merge3_plugin.calibrate.forecast import forecast
from merge3_plugin.domain import ResponseMatrix
from merge3_plugin.errors import ConfigError
from merge3_plugin.extract.checks import odd_models
from merge3_plugin.extract.odd_items import odd_items
from merge3_plugin.report.calibration_report import check_report_path, write_report
from merge3_plugin.testing import simulate_responses
from tests.report.test_page import Elements


@pytest.fixture(scope="module")
def world():
    """Eight models, one with a nasty name, and three items that all answer alike."""
    made = simulate_responses(8, 150, rng=np.random.default_rng(0))
    values = np.array(made.values)
    values[:, 0], values[:, 1], values[:, 2] = 1.0, 1.0, 0.0
    return ResponseMatrix(values, ["<b>org|x</b>", *made.model_ids[1:]], made.item_ids)


@pytest.fixture(scope="module")
def parts(world):
    made = study(world, seed=0)
    calibration = made.calibration(30)
    method = calibration.anchors.method
    return calibration, assess(made, 30, method), forecast(made, 30, method), odd_items(world), ["m3: is odd"]


def test_markdown_holds_every_part_and_its_numbers(parts, tmp_path):
    calibration, assessment, outlook, items, _ = parts
    write_report(tmp_path / "r.md", *parts)
    text = (tmp_path / "r.md").read_text(encoding="utf-8")
    assert text.startswith("# Calibration of a benchmark") and outlook.verdict in text
    for n in (10, 20, 30, 50, 100):
        size = assessment.at(n)
        low, high = size.error_interval
        row = next(line for line in text.splitlines() if line.startswith(f"| {n} "))
        for figure in (
            f"{100 * size.error:.2f} [{100 * low:.2f}, {100 * high:.2f}]",
            f"{100 * size.random_error:.2f}",
            f"{100 * size.coverage:.0f} %",
            f"{size.tau:.2f}",
        ):
            assert figure in row
    assert "| 200 " not in text, "there are 150 items"
    for estimator, error in calibration.errors.items():
        assert re.search(rf"^\| {estimator} .* {100 * error:.2f} ", text, re.MULTILINE)
    assert f"answered alike by all models: {len(items.all_right) + len(items.all_wrong)} of 150" in text
    assert len(items.all_right) >= 2 and f"({len(items.all_right)} all right" in text
    assert len(calibration.provenance["cross_validation"]["designs"]) > 1 and "design of the anchors was chosen" in text
    assert "- m3: is odd" in text and "8 (now)" in text and "300" in text
    assert "&lt;b&gt;org\\|x&lt;/b&gt;" in text and "<b>" not in text


def test_html_holds_the_same_with_charts_and_needs_nothing_else(parts, tmp_path):
    write_report(tmp_path / "r.html", *parts)
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    found = Elements(page)
    assert found.seen.count("svg") == 3 and found.seen.count("h1") == 1 and "script" not in found.seen
    assert found.seen.count("circle") == len(parts[1].sizes) + 8 + 10, "sizes, models, parts of the answers"
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")


def test_two_models_are_reported_honestly(world, tmp_path):
    made = study(world.models(world.model_ids[:2]), seed=0)
    calibration = made.calibration(30)
    method = calibration.anchors.method
    notes = odd_models(made.responses)
    items = odd_items(made.responses)
    write_report(tmp_path / "r.md", calibration, assess(made, 30, method), forecast(made, 30, method), items, notes)
    text = (tmp_path / "r.md").read_text(encoding="utf-8")
    assert "Not enough data: 2 models" in text and "none can be left out" in text
    assert "Learned from other benchmarks, since there are too few models" in text
    assert "nan" not in text.lower().replace("nano", "")


def test_where_a_report_can_be_written(tmp_path):
    for name in ("r.html", "r.md", "R.HTML"):
        check_report_path(tmp_path / name)
    for path, message in (
        (tmp_path / "r.pdf", "ends in .html or .md"),
        (tmp_path / "r", "ends in .html or .md"),
        (tmp_path / "none" / "r.md", "existing folder"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_report_path(path)
    (tmp_path / "folder.md").mkdir()
    with pytest.raises(ConfigError, match="existing folder"):
        check_report_path(tmp_path / "folder.md")
