"""What the README shows works as it stands there, and nothing that a config can say is left out of it and the docs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from merge3_plugin.cli_evolve import evolve
from merge3_plugin.config import Merge3Config, SearchConfig, parse_config
from merge3_plugin.evolve.optimizers import builtin
from merge3_plugin.evolve.optimizers.cma_es import CmaOptions
from merge3_plugin.evolve.optimizers.lq_cma_es import LqOptions
from merge3_plugin.evolve.optimizers.optuna_search import Options, TpeOptions
from merge3_plugin.evolve.optimizers.pymoo_search import DifferentialOptions, GeneticOptions, ReferenceOptions
from merge3_plugin.plugins import plugin_host

ROOT = Path(__file__).parents[1]
STRATEGIES = [name for name, entry in plugin_host().optimizers().items() if entry.plugin == builtin.__name__]
OPTIONS = {
    "cma-es": CmaOptions,
    "lq-cma-es": LqOptions,
    "ga": GeneticOptions,
    "nsga2": GeneticOptions,
    "nsga3": ReferenceOptions,
    "de": DifferentialOptions,
    "tpe": TpeOptions,
    "gp": Options,
}


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
    defaults = SearchConfig().model_dump()
    assert raw["merge3"]["search"] == defaults | {"sigma0": pytest.approx(defaults["sigma0"], abs=1e-4)}


def test_the_help_and_the_docs_name_every_strategy():
    (flag,) = [option for option in evolve.params if option.name == "optimizer"]
    table = (ROOT / "docs/search.md").read_text(encoding="utf-8").split("## Strategies")[1].split("##")[0]
    about = SearchConfig.model_fields["optimizer"].description
    assert set(STRATEGIES) >= set(OPTIONS)
    for text in (flag.help, about, table):
        assert set(STRATEGIES) <= set(re.findall(r"[\w-]+", text))


def test_the_docs_name_every_option_of_a_strategy_with_its_default():
    text = (ROOT / "docs/search.md").read_text(encoding="utf-8").split("| option | of |")[1].split("\n\n")[0]
    shown = {}
    for row in text.splitlines()[2:]:
        option, names, defaults, _ = (cell.strip() for cell in row.strip("|").split("|"))
        names, defaults = names.split(", "), [yaml.safe_load(value.strip("`")) for value in defaults.split(", ")]
        for place, name in enumerate(names):
            shown[name.strip("`"), option.strip("`")] = defaults[min(place, len(defaults) - 1)]
    assert shown == {
        (name, option): field.default
        for name, options in OPTIONS.items()
        for option, field in options.model_fields.items()
    }


def test_the_api_example_prints_an_estimate_near_the_truth():
    text = next(block for block in blocks("python") if "merge3_plugin.api" in block)
    assert len(text.strip().splitlines()) <= 12
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, cwd=ROOT, check=True)
    estimate, low, high, truth = map(float, re.findall(r"\d+\.\d+", done.stdout))
    assert low <= estimate <= high and abs(estimate - truth) < 0.1
