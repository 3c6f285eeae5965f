"""Several methods in one space, and parameters that change smoothly over the depth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from merge3_plugin.config import parse_config
from merge3_plugin.errors import ConfigError
from merge3_plugin.evolve.spaces import Space, make_space
from merge3_plugin.evolve.spaces.variables import Kind, active, draw, start
from merge3_plugin.merging.merger import Merger
from merge3_plugin.testing import make_tiny_family

METHODS = ["linear", "ties", "dare_ties", "slerp", "multislerp"]


def space(models: list[Path], chosen: dict[str, Any], n_layers: int = 2, **settings: Any) -> Space:
    base, *others = map(str, models)
    genome = {"models": others, "base_model": base, **settings.pop("genome", {})}
    config = {"genome": genome, "tasks": ["x"], "merge3": {"space": chosen, **settings}}
    return make_space(parse_config(config), n_layers, dtype="float32")


@pytest.fixture(scope="module")
def deep_models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base and two fine-tunes of five layers."""
    return make_tiny_family(tmp_path_factory.mktemp("deep"), 2, layers=5, hidden=16)


# -- the method as a gene ---------------------------------------------------------------------------------------------


def test_each_methods_genes_matter_only_where_it_is_chosen(tiny_models: list[Path]) -> None:
    searched = space(tiny_models, {"methods": METHODS}, genome={"layer_granularity": 1})
    choice, *genes = searched.variables
    assert (choice.name, choice.kind, choice.choices) == ("merge_method", Kind.CATEGORICAL, tuple(METHODS))
    assert len({variable.name for variable in searched.variables}) == len(searched.variables)
    rng = np.random.default_rng(0)
    for number, method in enumerate(METHODS):
        vector = draw(searched.variables, rng)
        vector[0] = number
        recipe = searched.decode(vector)
        assert recipe["merge_method"] == method
        matters = active(searched.variables, vector)[1:]
        assert [v.name.split(":")[0] == method for v in genes] == matters
        moved = vector + np.array([0.0, *(~np.array(matters) * 0.3)])
        assert searched.decode(moved) == recipe


def test_every_recipe_is_its_own_methods_and_has_an_exact_inverse(tiny_models: list[Path]) -> None:
    searched = space(tiny_models, {"methods": METHODS})
    rng = np.random.default_rng(1)
    seen = set()
    for _ in range(60):
        recipe = searched.decode(draw(searched.variables, rng) + 0.2 * rng.normal(size=len(searched.variables)))
        assert searched.decode(searched.encode(recipe)) == recipe
        alone = space(tiny_models, {}, genome={"merge_method": recipe["merge_method"]} | _baseless(recipe))
        assert alone.decode(alone.encode(recipe)) == recipe
        seen.add(recipe["merge_method"])
    assert seen == set(METHODS)
    foreign = space(tiny_models, {}, genome={"merge_method": "della"})
    with pytest.raises(ConfigError, match="one of linear, ties, .* of this search space, got 'della'"):
        searched.encode(foreign.decode(start(foreign.variables)))


def _baseless(recipe: dict[str, Any]) -> dict[str, Any]:
    return {"base_model": None} if recipe["merge_method"] == "slerp" else {}


def test_known_points_are_the_parents_of_all_methods_and_the_mean(tiny_models: list[Path]) -> None:
    base, *models = map(str, tiny_models)
    without = space(tiny_models, {"methods": ["ties", "della"]}).known_points()
    assert set(without) == {f"parent:{base}", "uniform", *(f"alone:{name}" for name in models)}
    searched = space(tiny_models, {"methods": ["ties", "linear"]})
    known = searched.known_points()
    assert set(known) == {"uniform", *(f"parent:{name}" for name in (base, *models))}
    assert searched.decode(known["uniform"])["merge_method"] == "linear"
    assert searched.decode(start(searched.variables))["merge_method"] == "ties"
    merger = Merger(models, base)
    for name in (base, *models):
        merger.merge(searched.decode(known[f"parent:{name}"]))
        for key, tensor in load_file(Path(name) / "model.safetensors").items():
            assert torch.equal(merger.model.state_dict()[key], tensor)


def test_the_genomes_own_method_is_the_first_and_each_takes_its_own_settings(tiny_models: list[Path]) -> None:
    searched = space(
        tiny_models,
        {"methods": ["linear", "della"]},
        genome={"merge_method": "della", "normalize": False},
        bounds={"epsilon": (0.1, 0.2)},
        parameters={"density": 0.5},
    )
    assert searched.variables[0].choices == ("della", "linear")
    assert {v.name.rpartition(".")[2] for v in searched.variables if v.name.startswith("della: ")} == {
        "weight",
        "epsilon",
    }
    vector = start(searched.variables)
    assert searched.decode(vector)["parameters"] == {"normalize": False, "density": 0.5}
    vector[0] = 1
    assert searched.decode(vector)["parameters"] == {"normalize": False}


# -- over the depth ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "knots", "counts"),
    [
        ("linear", 3, (3, 3, 3)),
        ("della", [{"filter": "mlp", "value": 2}, {"value": 3}], (3, 2, 3)),
        ("nuslerp", [{"filter": "mlp", "value": 5}, {"filter": "self_attn", "value": 2}, {"value": 1}], (2, 5, 1)),
    ],
)
def test_knots_and_filters_make_mergekits_gradients(
    method: str, knots: Any, counts: tuple[int, ...], deep_models: list[Path], tmp_path: Path
) -> None:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    genome = {"merge_method": method, "filters": ["self_attn", "mlp"]}
    searched = space(deep_models, {"knots": knots}, 5, genome=genome)
    rng = np.random.default_rng(2)
    recipe = searched.decode(draw(searched.variables, rng))
    (slice_,) = recipe["slices"]
    weights = slice_["sources"][0]["parameters"]["weight"]
    found = [(entry["filter"], np.size(entry["value"])) for entry in weights]
    assert found == list(zip(("self_attn", "mlp", None), counts, strict=True))
    for _ in range(20):
        other = searched.decode(draw(searched.variables, rng) + rng.normal(size=len(searched.variables)))
        assert searched.decode(searched.encode(other)) == other

    base, *models = map(str, deep_models)
    merger = Merger(models, base)
    merger.merge(recipe)
    options = MergeOptions(random_seed=merger.random_seed, quiet=True, write_model_card=False)
    run_merge(MergeConfiguration.model_validate(recipe), str(tmp_path), options)
    for name, tensor in load_file(tmp_path / "model.safetensors").items():
        assert torch.equal(merger.model.state_dict()[name], tensor), name


def test_a_layer_between_two_knots_is_between_their_values(deep_models: list[Path]) -> None:
    searched = space(deep_models, {"knots": 3}, 5, genome={"merge_method": "task_arithmetic"})
    assert [v.name for v in searched.variables] == [
        f"{model}.weight knot {knot}/3" for knot in (1, 2, 3) for model in ("model_1", "model_2")
    ]
    base, first, second = map(str, deep_models)
    merger = Merger([first, second], base)
    merger.merge(searched.decode([0.0, 0.0, 1.0, 0.0, 0.0, 0.0]))  # only model_1, full in the middle
    parents = [load_file(folder / "model.safetensors") for folder in deep_models[:2]]
    for layer, share in enumerate((0.0, 0.5, 1.0, 0.5, 0.0)):
        name = f"model.layers.{layer}.mlp.up_proj.weight"
        torch.testing.assert_close(merger.model.state_dict()[name], torch.lerp(*(p[name] for p in parents), share))


def test_slerps_t_of_two_models_is_a_gene_where_it_has_bounds(tiny_models: list[Path]) -> None:
    _, first, second, _ = map(str, tiny_models)
    genome = {"merge_method": "slerp", "models": [first, second], "base_model": None, "filters": ["self_attn", "mlp"]}
    searched = space(tiny_models, {"knots": 2}, genome=genome, bounds={"t": (0, 1)})
    names = [variable.name for variable in searched.variables]
    assert names == [f"t{filter_} knot {k}/2" for k in (1, 2) for filter_ in ("[self_attn]", "[mlp]", "")]
    known = searched.known_points()
    assert set(known) == {f"parent:{first}", f"parent:{second}", "uniform"}
    merger = Merger([first, second])
    for name in (first, second):
        merger.merge(searched.decode(known[f"parent:{name}"]))
        for key, tensor in load_file(Path(name) / "model.safetensors").items():
            assert torch.equal(merger.model.state_dict()[key], tensor)
    recipe = searched.decode(draw(searched.variables, np.random.default_rng(0)))
    assert recipe["base_model"] == first and searched.decode(searched.encode(recipe)) == recipe


def test_mergenetics_slerp_has_eleven_genes(deep_models: list[Path]) -> None:
    genome = {"merge_method": "slerp", "base_model": str(deep_models[1]), "filters": ["self_attn", "mlp"]}
    genome["models"] = [str(model) for model in deep_models[1:]]
    knots = [{"filter": "self_attn", "value": 5}, {"filter": "mlp", "value": 5}, {"value": 1}]
    searched = space(deep_models, {"knots": knots}, 5, genome=genome, bounds={"t": [0, 1]})
    names = [f"t[{filter_}] knot {k}/5" for k in range(1, 6) for filter_ in ("self_attn", "mlp")]
    assert [variable.name for variable in searched.variables] == [*names[:2], "t", *names[2:]]
    assert searched.describe() == [
        "merge method: slerp",
        "interpolated over the depth between several values: 5 for self_attn, 5 for mlp, 1 for all other tensors",
    ]
    (slice_,) = searched.decode(np.arange(11) / 10)["slices"]
    assert slice_["parameters"]["t"] == [
        {"filter": "self_attn", "value": [0.0, 0.3, 0.5, 0.7, 0.9]},
        {"filter": "mlp", "value": [0.1, 0.4, 0.6, 0.8, 1.0]},
        {"filter": None, "value": 0.2},
    ]


@pytest.mark.parametrize(
    ("chosen", "settings", "message"),
    [
        ({"methods": ["ties", "linaer"]}, {}, "'linaer'; did you mean 'linear'"),
        ({"methods": ["ties", "linear"]}, {"bounds": {"densty": (0, 1)}}, "none of ties, linear .* mean 'density'"),
        ({"methods": ["ties", "linear"]}, {"parameters": {"t": 1}}, "none of ties, linear has a parameter 't'"),
        ({"methods": ["slerp", "ties"]}, {"genome": {"filters": ["mlp"]}}, "neither smooth nor filters"),
        ({"methods": ["slerp"], "knots": 2}, {"genome": {"base_model": None}}, "neither smooth nor filters"),
        ({"methods": ["slerp"]}, {"genome": {"base_model": None}, "bounds": {"t": (0, 1)}}, "two models, got 3"),
        ({"methods": ["ties"], "knots": 3}, {}, "at most 2, one a layer, got 3"),
        ({"methods": ["ties"], "knots": 2}, {"genome": {"layer_granularity": 1}}, "neither genome.layer_granularity"),
        ({"methods": ["ties"], "knots": 2}, {"genome": {"smooth": True}}, "nor genome.smooth"),
        ({"knots": 2}, {}, "genome.merge_method: expected a merge method, got none"),
        (
            {"methods": ["ties"], "knots": [{"filter": "mpl", "value": 2}, {"value": 1}]},
            {"genome": {"filters": ["mlp"]}},
            "a filter of genome.filters, got 'mpl'; did you mean 'mlp'",
        ),
        ({"methods": ["ties"], "knots": [{"filter": "mlp", "value": 2}, {"value": 1}]}, {}, "'mlp'; name it there"),
        ({"methods": ["ties"], "knots": {"filter": "mlp", "value": 2}}, {}, "last a number for all other .* got mlp"),
        ({"methods": ["ties"], "knots": [{"value": 2}, {"filter": "mlp", "value": 2}]}, {}, "got all others, mlp"),
        ({"methods": ["ties"], "knots": [{"value": 2}, {"value": 2}]}, {}, "each filter once"),
        ({"methods": ["ties"], "knots": []}, {}, "such as {value: 1}, got none"),
        ({"methods": ["ties"], "knots": 0}, {}, "greater than or equal to 1, got 0"),
        ({"methods": ["ties"], "knots": [{"fliter": "mlp", "value": 2}]}, {}, "unknown key 'fliter'.* 'filter'"),
    ],
)
def test_refusals(chosen: dict[str, Any], settings: dict[str, Any], message: str, tiny_models: list[Path]) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        space(tiny_models, chosen, **settings)
    assert "\n" not in str(error.value)
