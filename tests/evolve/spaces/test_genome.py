"""The search space: genes, recipes and their inverse, known points, and what a genome may not ask."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from merge3_plugin.config import GenomeConfig
from merge3_plugin.errors import ConfigError
from merge3_plugin.evolve.spaces.genome import GenomeSpace
from merge3_plugin.evolve.spaces.variables import draw, start
from merge3_plugin.merging.merger import Merger


def names(space):
    return tuple(variable.name for variable in space.variables)


# Every method of mergekit that can be searched: how many models, and whether it takes a base.
METHODS: dict[str, tuple[int, bool]] = {
    "linear": (3, False),
    "task_arithmetic": (3, True),
    "ties": (3, True),
    "dare_ties": (3, True),
    "slerp": (3, False),
    "dare_linear": (3, True),
    "breadcrumbs": (3, True),
    "breadcrumbs_ties": (3, True),
    "della": (3, True),
    "della_linear": (3, True),
    "multislerp": (3, True),
    "nuslerp": (2, True),
    "nearswap": (1, True),
    "ram": (3, True),
    "ramplus_tl": (3, True),
    "sce": (3, True),
}
NOT_SEARCHED = {"passthrough": "one model", "model_stock": "no parameter", "karcher": "no parameter"}
# Settings of the genome that change which genes there are.
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "groups": {"layer_granularity": 1},
    "filters": {"filters": ["self_attn", "mlp"]},
    "smooth": {"layer_granularity": 1, "smooth": True, "filters": ["mlp"]},
    "signed": {"allow_negative_weights": True, "normalize": False},
}
CASES = [(method, "plain") for method in METHODS] + [
    (method, variant)
    for method in ("ties", "della", "slerp", "sce")
    for variant in VARIANTS
    if variant != "plain" and (method, variant) not in {("sce", "signed"), ("slerp", "filters"), ("slerp", "smooth")}
]


def genome(method: str, tiny_models: list[Path], **settings: Any) -> GenomeConfig:
    n_models, based = METHODS.get(method, (3, False))
    base, *models = map(str, tiny_models)
    settings = {"models": models[:n_models], "base_model": base if based else None, **settings}
    return GenomeConfig(merge_method=method, **settings)


def space(method: str, tiny_models: list[Path], variant: str = "plain", **arguments: Any) -> GenomeSpace:
    return GenomeSpace(genome(method, tiny_models, **VARIANTS[variant]), 2, dtype="float32", **arguments)


@pytest.fixture(scope="module")
def merger(tiny_models: list[Path]) -> Merger:
    base, *models = map(str, tiny_models)
    return Merger(models, base)


def merged(merger: Merger, recipe: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    merger.merge(recipe)
    return {name: tensor.clone() for name, tensor in merger.model.state_dict().items()}


def differs(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return any(not torch.equal(one[name], other[name]) for name in one)


def test_the_table_knows_every_method_of_mergekit() -> None:
    from mergekit.merge_methods import registered_methods

    assert {m.spec.name for m in registered_methods()} >= {*METHODS, *NOT_SEARCHED, "arcee_fusion"}
    # Those that other tests have registered are not mergekit's: their functions lie elsewhere.
    own = {
        m.spec.name for m in registered_methods() if getattr(m, "implementation", m).__module__.startswith("mergekit")
    }
    assert own - {*METHODS, *NOT_SEARCHED, "arcee_fusion"} == set()


@pytest.mark.parametrize(("method", "variant"), CASES)
def test_every_gene_changes_the_weights(method: str, variant: str, tiny_models: list[Path], merger: Merger) -> None:
    searched = space(method, tiny_models, variant)
    # A point where nothing is at the end of its range, and no two weights are equal.
    point = draw(searched.variables, np.random.default_rng(0)) * 0.2 + 0.3
    reference = merged(merger, searched.decode(point))
    step = 0.6 if method == "slerp" else 0.1  # slerp's lowest gene acts once it is among the top two
    for position, name in enumerate(names(searched)):
        moved = point.copy()
        moved[position] += step
        assert differs(reference, merged(merger, searched.decode(moved))), name


@pytest.mark.parametrize("method", METHODS)
def test_recipes_of_the_space_merge_as_in_mergekit(
    method: str, tiny_models: list[Path], merger: Merger, tmp_path: Path
) -> None:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    # linear has no use for a base, and slerp takes it from the two it merges; both may be given one all the same
    given = {"linear": {"base_model": str(tiny_models[0])}, "slerp": {"base_model": str(tiny_models[1])}}
    searched = GenomeSpace(
        genome(method, tiny_models, layer_granularity=1, **given.get(method, {})), 2, dtype="float32"
    )
    recipe = searched.decode(draw(searched.variables, np.random.default_rng(4)))
    run_merge(
        MergeConfiguration.model_validate(recipe),
        str(tmp_path),
        MergeOptions(random_seed=merger.random_seed, quiet=True, write_model_card=False),
    )
    expected = load_file(tmp_path / "model.safetensors")
    assert not differs(expected, merged(merger, recipe))
    assert differs(expected, load_file(tiny_models[1] / "model.safetensors"))


@pytest.mark.parametrize(("method", "variant"), CASES)
def test_encode_is_the_exact_inverse(method: str, variant: str, tiny_models: list[Path]) -> None:
    searched = space(method, tiny_models, variant)
    rng = np.random.default_rng(1)
    assert len(set(names(searched))) == len(searched.variables)
    for scale in (0.0, 0.3, 3.0):
        for _ in range(20):
            recipe = searched.decode(draw(searched.variables, rng) + scale * rng.normal(size=len(searched.variables)))
            assert searched.decode(searched.encode(recipe)) == recipe
    for vector in (start(searched.variables), *searched.known_points().values()):
        recipe = searched.decode(vector)
        assert searched.decode(searched.encode(recipe)) == recipe


def test_encode_refuses_a_recipe_of_another_space(tiny_models: list[Path]) -> None:
    foreign = space("ties", tiny_models).decode(start(space("ties", tiny_models).variables))
    for method, variant in (("dare_ties", "plain"), ("ties", "groups"), ("ties", "smooth"), ("slerp", "plain")):
        with pytest.raises(ConfigError, match="of this search space"):
            space(method, tiny_models, variant).encode(foreign)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("method", "variant"), [*CASES, ("linear", "smooth"), ("linear", "signed"), ("task_arithmetic", "groups")]
)
def test_known_parents_are_the_parents_bit_for_bit(
    method: str, variant: str, dtype: str, tiny_models: list[Path], merger: Merger, request: pytest.FixtureRequest
) -> None:
    if dtype == "bfloat16":
        merger = request.getfixturevalue("bfloat16_merger")
    searched = GenomeSpace(genome(method, tiny_models, **VARIANTS[variant]), 2, dtype=dtype)
    known = searched.known_points()
    weightless = method in ("slerp", "nearswap", "sce", "ram", "ramplus_tl")
    assert np.array_equal(known.pop("start" if weightless else "uniform"), start(searched.variables))
    base, *models = map(str, tiny_models)
    expected = {"linear": models, "slerp": models}.get(method, [base])
    if method in ("multislerp", "nuslerp", "ram", "ramplus_tl"):
        expected = []
    kin = method in ("task_arithmetic", "ties", "dare_ties", "dare_linear", "della", "della_linear")
    alone = models if kin or method.startswith("breadcrumbs") else []
    assert set(known) == {f"parent:{name}" for name in expected} | {f"alone:{name}" for name in alone}
    of_base = load_file(Path(base) / "model.safetensors")
    for label, vector in known.items():
        kind, _, model = label.partition(":")
        got = merged(merger, searched.decode(vector))
        for name, tensor in load_file(Path(model) / "model.safetensors").items():
            own = tensor.to(got[name].dtype)
            if kind == "alone":
                away = (own - of_base[name].to(own.dtype)).abs().float().sum()
                assert (got[name] - own).abs().float().sum() <= 1e-3 * away, (label, name)
                continue
            bits = torch.int32 if dtype == "float32" else torch.int16
            assert torch.equal(got[name].view(bits), own.view(bits)), (label, name)


def test_a_model_alone_is_a_known_point_where_the_genes_can_have_it_and_it_is_none_anyway(
    tiny_models: list[Path],
) -> None:
    def alone(method: str = "ties", **arguments: Any) -> list[str]:
        known = space(method, tiny_models, **arguments).known_points()
        return [label.rpartition("/")[2] for label in known if label.startswith("alone:")]

    assert alone() == ["model_1", "model_2", "model_3"]
    assert alone(parameters={"density": 1.0}) == alone(bounds={"density": (0.5, 1)}) == alone()
    assert not alone(parameters={"density": 0.5}) and not alone(bounds={"density": (0, 0.9)})
    assert not alone(bounds={"weight": (0, 0.9)}) and not alone(bounds={"weight": (0.1, 2)})
    base, first, *_ = map(str, tiny_models)
    single = GenomeSpace(genome("task_arithmetic", tiny_models, models=[first]), 2, dtype="float32")
    assert set(single.known_points()) == {f"parent:{base}", "uniform"}, "of one model the uniform merge is it alone"


@pytest.fixture(scope="module")
def bfloat16_merger(tiny_models: list[Path]) -> Merger:
    base, *models = map(str, tiny_models)
    return Merger(models, base, dtype="bfloat16")


def test_the_uniform_merge_is_the_mean(tiny_models: list[Path], merger: Merger) -> None:
    searched = space("linear", tiny_models)
    got = merged(merger, searched.decode(searched.known_points()["uniform"]))
    parents = [load_file(folder / "model.safetensors") for folder in tiny_models[1:]]
    for name, tensor in got.items():
        torch.testing.assert_close(tensor, sum(parent[name] for parent in parents) / 3)


# -- mergekit-evolve's meaning, written out ---------------------------------------------------------------------------


def test_upstreams_order_bounds_and_recipe_with_groups_and_filters(tiny_models: list[Path]) -> None:
    base, first, second, _ = map(str, tiny_models)
    searched = GenomeSpace(
        genome("ties", tiny_models, models=[first, second], layer_granularity=1, filters=["mlp"]), 2, dtype="bfloat16"
    )
    assert names(searched)[:4] == (
        "model_1.weight[mlp] layers 0-0",
        "model_1.density[mlp] layers 0-0",
        "model_1.weight layers 0-0",
        "model_1.density layers 0-0",
    )
    assert start(searched.variables).tolist() == [0.5, 1.0] * 8
    vector = np.arange(16) / 8.0
    vector[0], vector[1] = -0.25, -0.75  # absolute values
    recipe = searched.decode(vector)

    def source(model: str, layer: int, numbers: list[float]) -> dict[str, Any]:
        weights, densities = numbers[::2], numbers[1::2]
        return {
            "model": model,
            "layer_range": [layer, layer + 1],
            "parameters": {
                "weight": [{"filter": f, "value": v} for f, v in zip(("mlp", None), weights, strict=True)],
                "density": [{"filter": f, "value": v} for f, v in zip(("mlp", None), densities, strict=True)],
            },
        }

    assert recipe == {
        "merge_method": "ties",
        "slices": [
            {
                "sources": [
                    source(first, 0, [0.25, 0.75, 0.25, 0.375]),
                    source(second, 0, [0.5, 0.625, 0.75, 0.875]),
                    {"model": base, "layer_range": [0, 1]},
                ]
            },
            {
                "sources": [
                    source(first, 1, [1.0, 1.0, 1.25, 1.0]),
                    source(second, 1, [1.5, 1.0, 1.75, 1.0]),
                    {"model": base, "layer_range": [1, 2]},
                ]
            },
        ],
        "parameters": {"normalize": True, "int8_mask": True},
        "dtype": "bfloat16",
        "base_model": base,
    }


def test_upstreams_smooth_is_a_gradient_over_the_layers(tiny_models: list[Path]) -> None:
    searched = GenomeSpace(
        genome("linear", tiny_models, layer_granularity=1, smooth=True, allow_negative_weights=True, normalize=False),
        2,
        dtype="float32",
    )
    recipe = searched.decode([0.1, 0.2, 0.3, -0.4, 0.5, 0.6])
    assert [source["parameters"]["weight"] for source in recipe["slices"][0]["sources"]] == [
        [0.1, -0.4],
        [0.2, 0.5],
        [0.3, 0.6],
    ]
    assert [source["layer_range"] for source in recipe["slices"][0]["sources"]] == [[0, 2]] * 3
    assert recipe["parameters"] == {"normalize": False}


def test_upstreams_slerp_merges_the_top_two_by_softmax(tiny_models: list[Path]) -> None:
    _, first, second, third = map(str, tiny_models)
    searched = space("slerp", tiny_models, "groups")
    recipe = searched.decode([0.1, 0.9, 0.4, 0.3, -0.2, 0.3])
    assert [slice_["base_model"] for slice_ in recipe["slices"]] == [second, first]
    assert [[source["model"] for source in slice_["sources"]] for slice_ in recipe["slices"]] == [
        [second, third],
        [first, third],
    ]
    exponents = np.exp([0.9, 0.4])
    assert recipe["slices"][0]["parameters"]["t"] == pytest.approx(exponents[1] / exponents.sum(), abs=1e-15)
    assert recipe["slices"][1]["parameters"]["t"] == 0.5
    # A parent, even its zero weights: nothing at all of the other.
    parent = searched.decode(searched.known_points()[f"parent:{second}"])
    assert [slice_["parameters"]["t"] for slice_ in parent["slices"]] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("method", "normalize", "expected"),
    [
        ("linear", None, True),
        ("ties", None, True),
        ("dare_ties", None, True),
        ("task_arithmetic", None, False),
        ("task_arithmetic", True, True),
        ("della", None, True),
        ("dare_linear", None, False),
        ("slerp", True, None),
    ],
)
def test_normalize(method: str, normalize: bool | None, expected: bool | None, tiny_models: list[Path]) -> None:
    searched = GenomeSpace(genome(method, tiny_models, normalize=normalize), 2, dtype="float32")
    assert searched.decode(start(searched.variables)).get("parameters", {}).get("normalize") is expected


# -- which genes there are --------------------------------------------------------------------------------------------


def parameters_of(searched: GenomeSpace) -> set[str]:
    return {name.rpartition(".")[2] for name in names(searched)}


def test_lambda_is_a_gene_only_where_weights_are_normalised(tiny_models: list[Path]) -> None:
    for method, normalize, there in [
        ("della", None, True),
        ("della", False, False),
        ("dare_linear", None, False),
        ("dare_linear", True, True),
        ("ties", True, False),
    ]:
        searched = GenomeSpace(genome(method, tiny_models, normalize=normalize), 2, dtype="float32")
        assert ("lambda" in parameters_of(searched)) is there, (method, normalize)


def test_density_is_a_gene_only_where_the_method_sparsifies(tiny_models: list[Path]) -> None:
    assert "density" not in parameters_of(space("task_arithmetic", tiny_models))
    assert "density" in parameters_of(space("dare_linear", tiny_models))


def test_the_base_has_no_weight_where_it_needs_none(tiny_models: list[Path]) -> None:
    base, first, second, _ = map(str, tiny_models)
    listed = GenomeSpace(genome("ties", tiny_models, models=[base, first, second]), 2, dtype="float32")
    assert {name.split(".")[0] for name in names(listed)} == {"model_1", "model_2"}
    ignored = GenomeSpace(genome("linear", tiny_models, base_model=base), 2, dtype="float32")
    assert len(names(ignored)) == 3


def test_the_config_fixes_and_bounds_parameters(tiny_models: list[Path], merger: Merger) -> None:
    searched = space(
        "della", tiny_models, bounds={"lambda": (0.5, 0.75)}, parameters={"density": 0.5, "rescale": False}
    )
    assert parameters_of(searched) == {"weight", "epsilon", "lambda"}
    recipes = [searched.decode(draw(searched.variables, np.random.default_rng(i)) * 5) for i in range(20)]
    for recipe in recipes:
        (slice_,) = recipe["slices"]
        assert recipe["parameters"] == {"normalize": True, "density": 0.5, "rescale": False}
        assert 0.5 <= slice_["parameters"]["lambda"] <= 0.75
        merger.merge(recipe)  # epsilon leaves room beside the fixed density
    tolerance = space("karcher", tiny_models, bounds={"tol": (1e-6, 1e-2)})
    assert names(tolerance) == ("tol",)
    assert tolerance.decode(start(tolerance.variables))["slices"][0]["parameters"] == {"tol": 1e-5}


@pytest.mark.parametrize("variant", ["plain", "smooth"])
def test_dellas_epsilon_always_leaves_room_beside_the_density(
    variant: str, tiny_models: list[Path], merger: Merger
) -> None:
    searched = space("della", tiny_models, variant)
    rng = np.random.default_rng(3)
    for spread in np.linspace(0, 2, 20):
        merger.merge(searched.decode(draw(searched.variables, rng) + spread * rng.normal(size=len(searched.variables))))


def test_random_points_lie_inside_the_bounds_and_follow_the_generator(tiny_models: list[Path]) -> None:
    searched = space("della", tiny_models)
    one, other = (draw(searched.variables, np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(one, other)
    drawn = np.array([draw(searched.variables, np.random.default_rng(i)) for i in range(200)])
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    assert (drawn.std(axis=0) > 0.2).all()


def plugin_method(scope: str) -> Any:
    from mergekit.merge_methods import PerInput, TensorGroup, merge_method

    def shared(group: TensorGroup, strength: float, share: float = 0.5, tol: float = 1e-6) -> torch.Tensor:
        return sum(entry.tensor for entry in group.entries) * strength * share

    def each(group: TensorGroup, strength: PerInput[float]) -> torch.Tensor:
        return sum(entry.tensor * strength[entry.id] for entry in group.entries)

    shared.__annotations__ |= {"group": TensorGroup, "return": torch.Tensor, "strength": float, "share": float}
    shared.__annotations__ |= {"tol": float}
    each.__annotations__ |= {"group": TensorGroup, "return": torch.Tensor, "strength": PerInput[float]}
    return merge_method(shared if scope == "shared" else each, name="strong")


def test_a_plugins_parameters_need_bounds(tiny_models: list[Path]) -> None:
    from merge3_plugin.plugins import MethodEntry

    def build(scope: str, offered: dict[str, tuple[float, float]], **arguments: Any) -> GenomeSpace:
        entry = MethodEntry(plugin_method(scope), offered, "a plug-in")
        return GenomeSpace(genome("strong", tiny_models), 2, dtype="float32", methods={"strong": entry}, **arguments)

    assert names(build("shared", {"strength": (0, 3), "share": (0, 1)})) == ("strength", "share")
    assert names(build("shared", {}, bounds={"strength": (1, 2)}, parameters={"share": 0.25})) == ("strength",)
    assert names(build("each", {"strength": (0, 1)})) == tuple(f"model_{i}.strength" for i in (1, 2, 3))
    with pytest.raises(ConfigError, match="no bounds are known for 'share' of strong"):
        build("shared", {"strength": (0, 3)})
    with pytest.raises(ConfigError, match="no bounds are known for 'strength' of strong"):
        build("each", {})


# -- what a genome may not ask ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("tise", {}, "did you mean 'ties'"),
        ("passthrough", {}, "takes one model"),
        ("karcher", {}, "no parameter to search"),
        ("model_stock", {"base_model": 0}, "no parameter to search"),
        ("arcee_fusion", {"models": [1], "base_model": 0}, "no parameter to search"),
        ("ties", {"base_model": None}, "genome.base_model: ties needs"),
        ("ties", {"models": [0]}, "at least two models"),
        ("linear", {"models": [1]}, "at least two models"),
        ("linear", {"models": [1, 1]}, "each model once"),
        ("nuslerp", {"models": [1, 2, 3]}, "exactly 2 non-base inputs; got 3"),
        ("nearswap", {"models": [1, 2]}, "exactly 2 inputs; got 3"),
        ("ties", {"layer_granularity": 3}, "a divisor of 2"),
        ("ties", {"filters": ["mlp", "mlp"]}, "each once"),
        ("slerp", {"base_model": 0}, "list the base there"),
        ("slerp", {"smooth": True}, "neither smooth nor filters"),
        ("multislerp", {"normalize": False}, "normalize_weights"),
        ("nuslerp", {"base_model": None, "tokenizer_source": "union"}, "needs genome.base_model"),
        ("slerp", {"base_model": 1, "models": [1, 2, 3], "tokenizer_source": "union"}, "union would change"),
    ],
)
def test_refusals(method: str, settings: dict[str, Any], message: str, tiny_models: list[Path]) -> None:
    names = [str(folder) for folder in tiny_models]
    settings = dict(settings)
    if "models" in settings:
        settings["models"] = [names[i] for i in settings["models"]]
    if settings.get("base_model") is not None:
        settings["base_model"] = names[settings["base_model"]]
    with pytest.raises(ConfigError, match=message) as error:
        GenomeSpace(genome(method, tiny_models, **settings), 2, dtype="float32")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bounds": {"lamda": (0, 1)}}, "did you mean 'lambda'"),
        ({"bounds": {"rescale": (0, 1)}}, "no float"),
        ({"bounds": {"lambda": (1, 0)}}, "finite low < high"),
        ({"bounds": {"density": (0.1, 1)}, "parameters": {"density": 1}}, "fixed in merge3.parameters"),
        ({"parameters": {"densty": 1}}, "did you mean 'density'"),
        ({"parameters": {"rescale": "perhaps"}}, "expected bool for 'rescale'"),
    ],
)
def test_refused_bounds_and_parameters(arguments: dict[str, Any], message: str, tiny_models: list[Path]) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        space("della", tiny_models, **arguments)
    assert "\n" not in str(error.value)


def test_decode_wants_finite_numbers(tiny_models: list[Path]) -> None:
    searched = space("linear", tiny_models)
    for bad in ([1.0, 2.0], [1.0, np.nan, 0.0]):
        with pytest.raises(ValueError, match="3 finite numbers"):
            searched.decode(bad)
