"""The measurement of generated answers runs, and compares the same texts."""

import argparse
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import generation
from random_models import SIZES, write_models


def test_all_ways_write_what_lm_eval_does(tmp_path):
    (folder,) = write_models(tmp_path, SIZES["XS"], 0)
    options = argparse.Namespace(new=12, repeats=2, device="cpu")
    row = generation.measure(folder, "XS", "float32", [3, 9], 4, options)
    assert re.fullmatch(r"XS float32, 4 rows of 3-9 \+ 12 .* 4   4", row)
    assert len(re.findall(r"\d\.\d\d \(\d+\.\d\d-\d+\.\d\d\)", row)) == 2
