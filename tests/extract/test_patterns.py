"""Distinct rows against a plain search for them."""

from __future__ import annotations

import numpy as np
import pytest

from merge3_plugin.extract.patterns import distinct_rows


@pytest.mark.parametrize("values", [[0.0, 1.0], [0.0, 1.0, np.nan], [0.0, -0.0, 0.25, 256.0, -1.0]])
def test_distinct_rows_are_all_and_only_once(values):
    rows = np.random.default_rng(0).choice(values, size=(200, 3))
    distinct, row_of, counts = distinct_rows(rows)
    assert np.array_equal(distinct[row_of], rows, equal_nan=True)
    plain = {tuple("nan" if np.isnan(v) else v + 0.0 for v in row) for row in rows}
    assert len(distinct) == len(plain) and (counts == np.bincount(row_of)).all()


def test_the_order_of_the_rows_does_not_matter():
    rows = np.random.default_rng(1).integers(0, 2, (100, 5)).astype(float)
    assert (distinct_rows(rows)[0] == distinct_rows(rows[::-1])[0]).all()
