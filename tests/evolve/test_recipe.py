"""Recipes: their identity, and the command in their file, run for real."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from merge3_plugin.config import GenomeConfig
from merge3_plugin.evolve.recipe import candidate_id, renamed, to_yaml
from merge3_plugin.evolve.spaces.genome import GenomeSpace
from merge3_plugin.evolve.spaces.variables import draw
from merge3_plugin.merging.merger import Merger

SEED = 11


def space(method: str, tiny_models: list[Path]) -> GenomeSpace:
    base, *models = map(str, tiny_models)
    return GenomeSpace(
        GenomeConfig(models=models, merge_method=method, base_model=base, layer_granularity=1), 2, dtype="float32"
    )


def test_the_command_in_the_file_gives_the_final_model(tiny_models: list[Path], tmp_path: Path) -> None:
    """A random method: what it draws follows from the seed in the command."""
    searched = space("della", tiny_models)
    recipe = searched.decode(draw(searched.variables, np.random.default_rng(0)))
    base, *models = map(str, tiny_models)
    merger = Merger(models, base, random_seed=SEED)
    merger.merge(recipe)
    merger.save(tmp_path / "ours")
    text = to_yaml(recipe, random_seed=merger.random_seed, flags=merger.flags)
    (tmp_path / "best_config.yaml").write_text(text)
    command = shlex.split(text.splitlines()[0].removeprefix("# "))
    assert command == ["mergekit-yaml", "best_config.yaml", "final_model", "--random-seed", str(SEED), *merger.flags]
    command[0] = str(Path(sys.executable).with_name("mergekit-yaml"))
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    expected = load_file(tmp_path / "final_model" / "model.safetensors")
    got = load_file(tmp_path / "ours" / "model.safetensors")
    assert set(got) == set(expected)
    assert all(torch.equal(got[name], tensor) for name, tensor in expected.items())


def test_yaml_keeps_every_digit_and_makes_local_models_absolute(
    tiny_models: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_models[0].parent)
    relative = [Path(folder.name) for folder in tiny_models]
    recipe = space("ties", relative).decode(draw(space("ties", relative).variables, np.random.default_rng(1)) * 1e-7)
    written = yaml.safe_load(to_yaml(recipe, random_seed=0))
    assert written == space("ties", tiny_models).decode(space("ties", relative).encode(recipe))
    base = {"base_model": "base", "tokenizer_source": "base"}
    assert renamed(base, {"base": "m"}) == {"base_model": "m", "tokenizer_source": "base"}
    hub = {"merge_method": "linear", "models": [{"model": "org/model"}], "tokenizer_source": "union"}
    assert yaml.safe_load(to_yaml(hub, random_seed=0)) == hub


def test_identity_follows_the_recipe_not_where_the_parents_lie(tiny_models: list[Path]) -> None:
    moved = [Path("/elsewhere") / folder.name for folder in tiny_models]
    here, there = space("ties", tiny_models), space("ties", moved)
    vector = draw(here.variables, np.random.default_rng(2))
    one, other = here.decode(vector), there.decode(vector)
    assert candidate_id(one) != candidate_id(other)
    assert candidate_id(one, list(map(str, tiny_models))) == candidate_id(other, list(map(str, moved)))
    reordered = {key: one[key] for key in reversed(one)}
    assert candidate_id(reordered) == candidate_id(one)
    nudged = here.decode(np.nextafter(vector, 2.0))
    assert candidate_id(nudged) != candidate_id(one)
    assert len(candidate_id(one)) == 16
