"""The measurements of several live models run, and say what they claim to."""

import argparse
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import late_results
import live_models


def test_candidates_a_minute_are_of_each_number_of_live_models(tmp_path):
    options = argparse.Namespace(live_models=[1, 2], candidates=3, items=4, repeats=1, device="cpu")
    row = live_models.compare("XS", "dare_ties", 1, options, tmp_path)
    middle, low, high = row["ratio"][2]
    assert middle == low == high == pytest.approx(row["per_minute"][2] / row["per_minute"][1])
    assert "1.00 (1.00-1.00)   2: " in live_models._line(row)


def test_a_strategy_that_hears_at_once_finds_more_than_one_that_hears_at_the_end():
    options = argparse.Namespace(genes=3, candidates=60, noise=0.0)
    best = [late_results.search("cma-es", on_the_way, 0, options)[0] for on_the_way in (1, 60)]
    assert best[1] < best[0] < 0
