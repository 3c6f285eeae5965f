"""Recipes as people write them, found in a space: the same weights, or a line that says what the space has not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from merge3_plugin.config import parse_config
from merge3_plugin.errors import ConfigError
from merge3_plugin.evolve.encoding import encoded
from merge3_plugin.evolve.recipe import read_recipe, to_yaml
from merge3_plugin.evolve.spaces import Space, make_space
from merge3_plugin.evolve.spaces.variables import draw
from merge3_plugin.merging.merger import Merger
from merge3_plugin.merging.outline import Outline, read_outline
from merge3_plugin.testing import make_tiny_family

LAYERS = 5


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folders = make_tiny_family(tmp_path_factory.mktemp("family"), 2, layers=LAYERS, hidden=16)
    return dict(zip(("base", "a", "b"), map(str, folders), strict=True))


@pytest.fixture(scope="module")
def outline(models: dict[str, str]) -> Outline:
    return read_outline([models["a"], models["b"]], models["base"])


@pytest.fixture(scope="module")
def merger(models: dict[str, str]) -> Merger:
    return Merger([models["a"], models["b"]], models["base"])


def space(models: dict[str, str], genome: dict[str, Any] | None = None, **merge3: Any) -> Space:
    named = {"models": [models["a"], models["b"]], "base_model": models["base"], **(genome or {})}
    config = {"genome": named, "tasks": ["x"], "merge3": merge3}
    return make_space(parse_config(config), LAYERS, dtype="float32")


def written(models: dict[str, str], text: str) -> dict[str, Any]:
    """A recipe in YAML, whose models are called a, b and base."""
    recipe = yaml.safe_load(text)
    return dict(yaml.safe_load(yaml.safe_dump(_named(recipe, models))))


def _named(node: Any, models: dict[str, str]) -> Any:
    if isinstance(node, dict):
        return {key: _named(value, models) for key, value in node.items()}
    if isinstance(node, list):
        return [_named(value, models) for value in node]
    return models.get(node, node) if isinstance(node, str) else node


def merged(merger: Merger, recipe: dict[str, Any]) -> dict[str, torch.Tensor]:
    merger.merge(recipe)
    return {name: tensor.clone() for name, tensor in merger.model.state_dict().items()}


LINEAR = """
merge_method: linear
dtype: bfloat16
models:
  - {model: b, parameters: {weight: 0.2}}
  - {model: a, parameters: {weight: 0.3}}
"""
BY_FILTER = """
merge_method: task_arithmetic
base_model: base
models:
  - {model: a, parameters: {weight: [{filter: mlp, value: 0.3}, {value: 0.1}]}}
  - {model: b, parameters: {weight: 0.7}}
"""
GRADIENT = """
merge_method: task_arithmetic
base_model: base
models:
  - model: a
    parameters: {weight: [0.0, 0.5, 1.0]}
  - model: base
parameters: {int8_mask: true}
"""
SLERP = """
merge_method: slerp
base_model: a
slices:
  - sources: [{model: a, layer_range: [0, 5]}, {model: b, layer_range: [0, 5]}]
parameters:
  t: [{filter: self_attn, value: [0, 0.3, 0.5, 0.7, 1]}, {filter: mlp, value: [1, 0.7, 0.5, 0.3, 0]}, {value: 0.5}]
"""
TURNED = """
merge_method: slerp
base_model: b
models: [{model: a}, {model: b}]
parameters: {t: 0.7}
"""
TIES = """
merge_method: ties
base_model: base
models:
  - {model: a, parameters: {density: 0.5, weight: 0.5}}
  - {model: b, parameters: {density: 0.25, weight: 0.75}}
parameters: {normalize: true, lambda: 1.0}
"""
WHOLE_TIES = """
merge_method: ties
base_model: base
models: [{model: a}, {model: b}]
parameters: {density: 0.25, lambda: 0.5, weight: 1}
"""
STACK = """
merge_method: passthrough
base_model: base
slices:
  - sources: [{model: base, layer_range: [0, 1]}]
  - sources: [{model: a, layer_range: [1, 3]}]
  - sources: [{model: b, layer_range: [2, 4]}]
  - sources: [{model: base, layer_range: [4, 5]}]
"""
PRUNED = """
merge_method: task_arithmetic
base_model: base
slices:
  - sources: [{model: base, layer_range: [0, 2]}]
  - sources: [{model: base, layer_range: [2, 3]}, {model: a, layer_range: [2, 3]}, {model: b, layer_range: [2, 3]}]
    parameters: {weight: 0.5}
  - sources: [{model: base, layer_range: [4, 5]}]
"""
KNOTS = [{"filter": "self_attn", "value": 5}, {"filter": "mlp", "value": 5}, {"value": 1}]
TWO = {"merge_method": "slerp", "base_model": None}
TENTHS = {"min": 0, "max": 1, "step": 0.1}

SAME: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (LINEAR, {"merge_method": "linear"}, {}),
    (LINEAR, {"merge_method": "linear", "layer_granularity": 1, "filters": ["mlp"]}, {}),
    (LINEAR, {}, {"space": "weights"}),
    (LINEAR, {}, {"space": {"kind": "weights", "transform": "normalised"}}),
    (LINEAR, {}, {"space": {"kind": "weights", "transform": "normalised", "allow_negative": True}}),
    (LINEAR, {}, {"space": {"kind": "lfs", "granularity": 5}}),
    (LINEAR, {}, {"space": {"methods": ["ties", "linear"]}}),
    (BY_FILTER, {"merge_method": "task_arithmetic", "layer_granularity": 1, "filters": ["mlp"]}, {}),
    (BY_FILTER, {"merge_method": "task_arithmetic", "filters": ["mlp"]}, {"bounds": {"weight": TENTHS}}),
    (BY_FILTER, {"merge_method": "task_arithmetic", "filters": ["mlp"]}, {"space": {"knots": 2}}),
    (GRADIENT, {"merge_method": "task_arithmetic"}, {"space": {"knots": 5}}),
    (GRADIENT, {"merge_method": "task_arithmetic"}, {"space": {"knots": 4}}),
    (GRADIENT, {"merge_method": "task_arithmetic"}, {"space": {"knots": 2}}),
    (SLERP, TWO | {"filters": ["self_attn", "mlp"]}, {"space": {"knots": KNOTS}, "bounds": {"t": TENTHS}}),
    (TURNED, TWO, {"bounds": {"t": [0, 1]}}),
    (TURNED, TWO | {"layer_granularity": 1}, {}),
    (TURNED, {}, {"space": {"kind": "lfs", "granularity": 5, "filters": []}}),
    (TIES, {"merge_method": "ties", "layer_granularity": 5}, {}),
    (WHOLE_TIES, {}, {"space": {"kind": "lfs", "granularity": 1}}),
    (STACK, {}, {"space": {"kind": "dis"}}),
    (PRUNED, {}, {"space": {"kind": "prune", "remove": 1}}),
]


@pytest.mark.parametrize(("text", "genome", "merge3"), SAME)
def test_what_a_space_has_is_found_however_it_is_written(
    text: str,
    genome: dict[str, Any],
    merge3: dict[str, Any],
    models: dict[str, str],
    outline: Outline,
    merger: Merger,
) -> None:
    searched, recipe = space(models, genome, **merge3), written(models, text)
    ours = searched.decode(encoded(recipe, searched, outline.family))
    assert ours["merge_method"] == recipe["merge_method"]
    got, expected = merged(merger, ours), merged(merger, {**recipe, "dtype": "float32"})
    assert got.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], rtol=2e-6, atol=2e-7)


def test_values_come_out_as_they_are_written(models: dict[str, str], outline: Outline) -> None:
    searched = space(models, {"merge_method": "task_arithmetic"}, space={"knots": 4})
    recipe = searched.decode(encoded(written(models, GRADIENT), searched, outline.family))
    third = recipe["slices"][0]["sources"][0]["parameters"]["weight"]
    assert third == [0.0, 0.333333333333, 0.666666666667, 1.0], "solved for: no layer stands at the inner knots"
    searched = space(models, {"merge_method": "task_arithmetic"}, space={"knots": 3})
    recipe = searched.decode(encoded(written(models, GRADIENT), searched, outline.family))
    assert recipe["slices"][0]["sources"][0]["parameters"]["weight"] == [0.0, 0.5, 1.0]


TASK_ARITHMETIC = {"merge_method": "task_arithmetic"}
REFUSED: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    (LINEAR, TASK_ARITHMETIC, {}, "by linear, where the nearest of this space is by task_arithmetic"),
    (BY_FILTER, TASK_ARITHMETIC, {}, r"mlp.* with weight 0.3 of .*model_1, where the nearest of this space has 0.1"),
    (TIES, {"merge_method": "ties"}, {"bounds": {"density": [0.3, 1]}}, "with density 0.25 .* of this space has 0.3"),
    (TIES, {"merge_method": "ties"}, {"bounds": {"weight": TENTHS}}, "with weight 0.75 .* space has 0.8"),
    (TIES, {"merge_method": "ties", "normalize": False}, {}, "with normalize True, where the nearest .* has False"),
    (TIES, {}, {"space": {"kind": "lfs", "granularity": 1}}, "of this space has 1"),
    (
        GRADIENT,
        TASK_ARITHMETIC | {"layer_granularity": 1},
        {},
        "lm_head.* with weight 0 of .*model_1, where the nearest of this space has 1",
    ),
    (GRADIENT, {}, {"space": "weights"}, "by task_arithmetic, where the nearest of this space is by linear"),
    (SLERP, TWO, {}, "with t "),
    (
        STACK,
        {},
        {"space": {"kind": "dis", "frozen_last": 2}},
        "layers.4.* of .*layers.3.* of .*model_2, where .* of nothing",
    ),
    (STACK, {}, {"space": {"kind": "prune", "remove": 1}}, "6 layers, where the nearest of this space has 4"),
    (LINEAR.replace("b,", "c,"), {"merge_method": "linear"}, {}, "model 'c', which is not among the parents"),
    (
        LINEAR + "tokenizer_source: union",
        {"merge_method": "linear"},
        {},
        "tokenizer_source union, where genome has none",
    ),
    (LINEAR.replace("linear", "linaer"), {"merge_method": "linear"}, {}, "linaer"),
    ("merge_method: linear", {"merge_method": "linear"}, {}, "Exactly one of 'models', 'slices', or 'modules'"),
]


@pytest.mark.parametrize(("text", "genome", "merge3", "words"), REFUSED)
def test_what_it_does_not_have_is_refused_with_what_that_is(
    text: str, genome: dict[str, Any], merge3: dict[str, Any], words: str, models: dict[str, str], outline: Outline
) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        encoded(written(models, text), space(models, genome, **merge3), outline.family)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["genome", "weights", "lfs", "dis", "prune"])
def test_a_file_that_a_run_wrote_is_the_same_recipe_to_the_last_bit(
    kind: str, models: dict[str, str], outline: Outline, tmp_path: Path
) -> None:
    own = {"lfs": {"granularity": 1}, "prune": {"remove": 1}}.get(kind, {})
    searched = space(models, {"merge_method": "ties"} if kind == "genome" else {}, space={"kind": kind, **own})
    rng, path = np.random.default_rng(0), tmp_path / "best_config.yaml"
    for _ in range(10):
        recipe = searched.decode(draw(searched.variables, rng))
        path.write_text(to_yaml(recipe, random_seed=0))
        for family in (outline.family, None):
            assert searched.decode(encoded(read_recipe(path), searched, family)) == recipe


def test_without_the_tensors_names_only_the_spaces_own_form_is_told(models: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="a recipe of another form, of an architecture"):
        encoded(written(models, LINEAR), space(models, {"merge_method": "linear"}), None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1, 2]", "a mapping with merge_method, got none"),
        ("", "got none"),
        ("a: [", "expected a recipe in YAML, got: while parsing"),
        ("name: x\nmerge_method: linear\n---\nmerge_method: linear\n---\nmerge_method: linear", "a name each and last"),
    ],
)
def test_files_that_are_no_recipe(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yml").write_text(text)
    with pytest.raises(ConfigError, match=words) as error:
        read_recipe(tmp_path / "recipe.yml")
    assert "\n" not in str(error.value)
