"""Whole runs over stacks of another depth than the parents'."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from merge3_plugin.evolve.search import Scored
from merge3_plugin.evolve.setting import Watcher
from merge3_plugin.evolve.spaces.stacks import layers_of
from merge3_plugin.testing import make_tiny_family
from tests.evolve.world import canonical, evolve_here, make_world
from tests.merging.test_merger import assert_same

LAYERS = 5


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_tiny_family(tmp_path_factory.mktemp("stacks"), 3, layers=LAYERS)


SPACES: dict[str, dict[str, Any]] = {
    "dis": {"kind": "dis", "repeats": 2, "scales": [0.5, 2.0]},
    "prune": {"kind": "prune", "remove": 2},
}


class Dying(Watcher):
    """Ends a run at its fifth candidate, without a chance to tidy up."""

    seen = 0

    def scored(self, entry: Scored) -> None:
        self.seen += 1
        if self.seen == 5:
            raise KeyboardInterrupt


@pytest.mark.parametrize("kind", SPACES)
def test_a_run_finishes_goes_on_and_is_what_mergekit_makes_of_its_recipe(
    kind: str, family: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mergekit.scripts.run_yaml import main as mergekit_yaml

    config = make_world(tmp_path, family)
    merged = {"models": [str(model) for model in family[1:]], "base_model": str(family[0])}
    setting = {"genome": merged, "merge3__space": SPACES[kind], "merge3__search__optimizer": "random"}
    setting["merge3__search__max_fevals"] = 8
    out, whole = tmp_path / "out", tmp_path / "whole"
    with pytest.raises(KeyboardInterrupt):
        evolve_here(config, out, Dying(), **setting)
    summary = evolve_here(config, out, **setting)
    assert summary["state"] == "finished"
    evolve_here(config, whole, **setting)
    assert canonical(out) == canonical(whole)

    text = (out / "best_config.yaml").read_text()
    command, recipe_file, folder, *flags = shlex.split(text.splitlines()[0].removeprefix("# "))
    assert (command, folder) == ("mergekit-yaml", "final_model")
    monkeypatch.chdir(out)
    made = CliRunner().invoke(mergekit_yaml, [recipe_file, "again", *flags], catch_exceptions=False)
    assert made.exit_code == 0
    ours, theirs = (load_file(out / name / "model.safetensors") for name in ("final_model", "again"))
    assert set(ours) == set(theirs)
    assert_same(ours, theirs)
    depth = len(layers_of(yaml.safe_load(text)["slices"]))
    assert (depth == LAYERS - 2) if kind == "prune" else (depth >= LAYERS)
    assert AutoModelForCausalLM.from_pretrained(out / "final_model").config.num_hidden_layers == depth
