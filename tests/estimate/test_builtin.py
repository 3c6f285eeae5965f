from pathlib import Path

import pytest

from merge3_plugin.estimate.builtin import ESTIMATORS
from merge3_plugin.extract.anchors import METHODS

PAGE = Path(__file__).parents[2] / "docs" / "estimators.md"


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda estimator: estimator.name)
def test_every_estimator_has_its_paragraph(estimator):
    assert f"**{estimator.name}**" in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("method", METHODS)
def test_every_design_has_its_row(method):
    rows = [line.split("|")[1] for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    assert any(method in row.replace(" ", "").split(",") for row in rows)
