"""What the README shows works as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

import yaml

from merge3_plugin.config import Merge3Config, parse_config

ROOT = Path(__file__).parents[1]


def blocks(language):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def test_the_config_by_example_is_valid_and_names_every_key_with_its_default():
    (text,) = blocks("yaml")
    raw = yaml.safe_load(text)
    shown = parse_config(raw).merge3
    examples = {"data", "language", "bounds", "parameters"}
    assert set(raw["merge3"]) >= set(Merge3Config.model_fields) - {"id_field", "split"}
    for key in set(raw["merge3"]) - examples - {"held_out", "search"}:
        assert getattr(shown, key) == getattr(Merge3Config(), key), key


def test_the_api_example_prints_an_estimate_near_the_truth():
    text = next(block for block in blocks("python") if "merge3_plugin.api" in block)
    assert len(text.strip().splitlines()) <= 12
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, cwd=ROOT, check=True)
    estimate, low, high, truth = map(float, re.findall(r"\d+\.\d+", done.stdout))
    assert low <= estimate <= high and abs(estimate - truth) < 0.1
