"""Pruning: which layers go, and what those that stay are made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from merge3_plugin.config import parse_config
from merge3_plugin.errors import ConfigError
from merge3_plugin.evolve.spaces import make_space
from merge3_plugin.evolve.spaces.prune import PruneSpace
from merge3_plugin.evolve.spaces.stacks import layers_of
from merge3_plugin.evolve.spaces.variables import draw, start
from merge3_plugin.merging.merger import Merger
from merge3_plugin.testing import make_tiny_family
from tests.merging.test_merger import assert_same, live, on_disk

LAYERS = 5


def make(models: list[str], n_layers: int = LAYERS, base: str | None = "base", **space: Any) -> PruneSpace:
    merged = {"models": models, "base_model": base}
    raw = {"genome": merged, "tasks": ["x"], "merge3": {"space": {"kind": "prune", **space}}}
    found = make_space(parse_config(raw), n_layers, dtype="float32")
    assert isinstance(found, PruneSpace)
    return found


def vector(space: PruneSpace, **changes: float) -> np.ndarray:
    """The start with some coordinates changed; ``layer_1_keep`` is "layer 1 keep"."""
    x = start(space.variables)
    place = {variable.name.replace(" ", "_"): i for i, variable in enumerate(space.variables)}
    for name, value in changes.items():
        x[place[name]] = value
    return x


def stays(recipe: dict[str, Any]) -> list[int]:
    return [index for _, index in layers_of(recipe["slices"])]


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_tiny_family(tmp_path_factory.mktemp("prune"), 3, layers=LAYERS)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_so_many_layers_go_and_recipes_have_their_vector(data: st.DataObject) -> None:
    n_layers = data.draw(st.integers(2, 8))
    first, last = data.draw(st.tuples(st.integers(0, 2), st.integers(0, 2)).filter(lambda f: sum(f) < n_layers))
    remove = data.draw(st.integers(1, min(n_layers - first - last, n_layers - 1)))
    models = data.draw(st.sampled_from([["a"], ["a", "b"], ["a", "base", "b"]]))
    space = make(models, n_layers, remove=remove, frozen_first=first, frozen_last=last)
    recipe = space.decode(draw(space.variables, np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))))
    assert space.decode(space.encode(recipe)) == recipe
    layers = stays(recipe)
    assert len(layers) == n_layers - remove and layers == sorted(set(layers))
    assert set(range(first)) | set(range(n_layers - last, n_layers)) <= set(layers)


def test_the_least_worth_keeping_go() -> None:
    space = make(["a"], remove=2)
    assert stays(space.decode(start(space.variables))) == [0, 1, 4]  # the last before the frozen one
    assert stays(space.decode(vector(space, layer_1_keep=0.1, layer_3_keep=0.9))) == [0, 3, 4]
    assert stays(space.decode(vector(space, layer_1_keep=0.5, layer_2_keep=0.5, layer_3_keep=0.5))) == [0, 3, 4]


def test_a_layer_is_the_bases_or_one_models_own_or_made_of_several(family: list[Path], tmp_path: Path) -> None:
    base, *models = map(str, family)
    space = make(models, base=base, remove=1)
    on = {"layer_0_model_1": 1, "layer_1_model_1": 1, "layer_1_model_3": 1, "layer_1_scale": 0.3}
    recipe = space.decode(vector(space, **on, layer_4_model_2=1))
    merger = Merger(models, base)
    merger.merge(recipe)
    assert_same(live(merger), on_disk(recipe, tmp_path))
    assert merger.model.config.num_hidden_layers == LAYERS - 1
    tensors = {folder.name: load_file(folder / "model.safetensors") for folder in family}
    merged, of_base = live(merger), tensors["base"]
    for name, tensor in merged.items():
        if ".layers." not in name:
            assert torch.equal(tensor, of_base[name]), name  # also where the ends are no layers of the base
            continue
        layer, rest = name.removeprefix("model.layers.").split(".", 1)
        if layer == "0":
            assert torch.equal(tensor, tensors["model_1"][name])
        elif layer == "1":
            differences = [tensors[model][name] - of_base[name] for model in ("model_1", "model_3")]
            torch.testing.assert_close(tensor, of_base[name] + 0.3 * sum(differences), rtol=1e-6, atol=1e-7)
        elif layer == "2":
            assert torch.equal(tensor, of_base[name])
        else:  # what was layer 4
            assert torch.equal(tensor, tensors["model_2"][f"model.layers.4.{rest}"])


def test_known_points_are_the_pruned_base_and_all_models_alike(family: list[Path]) -> None:
    base, *models = map(str, family)
    space = make(models, base=base, remove=2)
    points = space.known_points()
    assert list(points) == ["start", "uniform"]
    assert {source["model"] for s in space.decode(points["start"])["slices"] for source in s["sources"]} == {base}
    merged = [s for s in space.decode(points["uniform"])["slices"] if len(s["sources"]) > 1]
    assert [s["parameters"] for s in merged] == [{"weight": 1 / 3}] * 2 and stays({"slices": merged}) == [0, 1, 4]


@pytest.mark.parametrize(
    ("models", "base", "space", "message"),
    [
        (["a"], None, {"remove": 1}, "genome.base_model: the space prune needs"),
        (["base"], "base", {"remove": 1}, "a model beside the base"),
        (["a"], "base", {"remove": 4}, "remove: expected at most 3 of 5 layers, 2 of which are frozen, got 4"),
        (["a"], "base", {"remove": 5, "frozen_first": 0, "frozen_last": 0}, "at most 4 of 5"),
        (["a"], "base", {"remove": 1, "frozen_first": 4}, "4 first and 1 last of 5 that are frozen"),
        (["a"], "base", {"remove": 0}, "remove"),
    ],
)
def test_what_cannot_be(models: list[str], base: str | None, space: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        make(models, base=base, **space)
    assert "\n" not in str(error.value)
