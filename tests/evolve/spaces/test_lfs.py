"""Layer-wise fusion: its size, its coding, what each method computes, and a whole run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from merge3_plugin.config import parse_config
from merge3_plugin.errors import ConfigError
from merge3_plugin.evolve.spaces.lfs import LfsSpace
from merge3_plugin.evolve.spaces.variables import active, draw, start
from merge3_plugin.evolve.store import RunStore
from merge3_plugin.merging.merger import Merger
from tests.evolve.world import evolve_here, make_world
from tests.mergekit_command import assert_same_weights, by_command

METHODS = ["linear", "task_arithmetic", "ties", "slerp"]


def space(models: list[Path], n_layers: int = 2, base: bool = True, **settings: Any) -> LfsSpace:
    first, *others = map(str, models)
    genome = {"models": others} | ({"base_model": first} if base else {})
    chosen = {"kind": "lfs", "granularity": 1} | settings
    config = parse_config({"genome": genome, "tasks": ["x"], "merge3": {"space": chosen}})
    return LfsSpace(config, n_layers, dtype="float32")


FOUR = [Path(name) for name in ("base", "a", "b", "c")]


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ({}, 4 * (1 + 3 * (2 * 3 + 3))),  # the shipped configurations' 112
        ({"granularity": 40}, 28),
        ({"filters": []}, 4 * (1 + 9)),
        ({"methods": ["ties", "slerp"]}, 4 * (1 + 3 * 5)),
        ({"methods": ["task_arithmetic"]}, 4 * 3),  # one method is no gene
    ],
)
def test_size_is_that_of_the_paper(given: dict[str, Any], size: int) -> None:
    variables = space(FOUR, 40, **{"granularity": 10} | given).variables
    assert len(variables) == len({variable.name for variable in variables}) == size


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), edge=st.sampled_from([0.0, 0.0, 0.3, 1.0]), methods=st.permutations(METHODS))
def test_recipes_and_vectors_are_exact_inverses(seed: int, edge: float, methods: list[str]) -> None:
    """``edge`` of the coordinates lie at their limits, where weights are all 0 and logits all alike."""
    rng = np.random.default_rng(seed)
    searched = space(FOUR, 6, granularity=2, methods=methods[: rng.integers(1, 5)])
    vector = draw(searched.variables, rng)
    limits = np.array([v.high if rng.random() < 0.5 else v.low for v in searched.variables])
    vector = np.where(rng.random(len(vector)) < edge, limits, vector)
    recipe = searched.decode(vector)
    found = searched.encode(recipe)
    assert searched.decode(found) == recipe
    matters = np.array(active(searched.variables, vector))
    assert (found[~matters] == start(searched.variables)[~matters]).all()
    elsewhere = np.where(matters, vector, draw(searched.variables, rng))
    assert searched.decode(elsewhere) == recipe, "coordinates that do not matter"


def test_a_run_writes_a_config_that_makes_its_final_model(
    tiny_models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_world(
        tmp_path,
        tiny_models,
        space={"kind": "lfs", "granularity": 1, "methods": ["task_arithmetic", "ties", "slerp"]},
        search={"max_fevals": 10, "optimizer": "random"},
    )
    config = yaml.safe_load(path.read_text())
    config["genome"] = {key: config["genome"][key] for key in ("models", "base_model")}
    path.write_text(yaml.safe_dump(config))
    out = tmp_path / "out"
    assert evolve_here(path, out)["state"] == "finished"
    store = RunStore.open(out)
    recipes = [store.find(candidate, "search").recipe for candidate, _ in store.scored("search")]
    store.close()
    assert len(recipes) == 10
    assert {len(recipe.get("merges", [1])) for recipe in recipes} == {1, 2}, "of one method, and of two"
    (tmp_path / "again").mkdir()
    again = by_command((out / "best_config.yaml").read_text(), tmp_path / "again", monkeypatch)
    assert_same_weights(out / "final_model", again)


def vector_of(searched: LfsSpace, methods: list[str], rng: np.random.Generator) -> dict[str, float]:
    """Coordinates by name, drawn, with these methods in the groups of one layer."""
    coordinates = {v.name: float(x) for v, x in zip(searched.variables, draw(searched.variables, rng), strict=True)}
    return coordinates | {f"method layer {i}": float(METHODS.index(method)) for i, method in enumerate(methods)}


def expected(method: str, own: dict[str, float], base: np.ndarray, models: list[np.ndarray]) -> np.ndarray:
    """The merge of one tensor, from the formulas; ``own`` are the parameters that hold there."""
    names = [f"model_{i}" for i in (1, 2, 3)]
    differences = np.stack(models) - base
    if method == "linear":
        return np.average(models, axis=0, weights=[own[f"{name}.linear.weight"] for name in names])
    if method == "task_arithmetic":
        return base + own["task_arithmetic.scale"] * differences.sum(axis=0)
    if method == "ties":
        for difference in differences:
            kept = max(1, int((1 - own["ties.mask_rate"]) * difference.size))
            small = np.argsort(-np.abs(difference), axis=None)[kept:]
            difference.flat[small] = 0
        agrees = np.where(differences.sum(axis=0) >= 0, differences > 0, differences < 0)
        mean = (differences * agrees).sum(axis=0) / np.maximum(agrees.sum(axis=0), 1)
        return base + own["ties.scale"] * mean
    first, second = own["first"], own["second"]
    x, y = models[int(first)], models[int(second)]
    logits = np.exp([own[f"{names[int(i)]}.slerp.logit"] for i in (first, second)])
    share, cosine = logits[1] / logits.sum(), np.sum(x * y) / np.linalg.norm(x) / np.linalg.norm(y)
    if cosine > 0.9995:  # where mergekit goes straight
        return (1 - share) * x + share * y
    angle = np.arccos(cosine)
    return (np.sin((1 - share) * angle) * x + np.sin(share * angle) * y) / np.sin(angle)


@pytest.mark.parametrize("methods", [["linear", "ties"], ["slerp", "task_arithmetic"], ["ties", "slerp"]])
def test_each_tensor_is_merged_by_its_groups_method_and_its_sets_parameters(
    methods: list[str], tiny_models: list[Path]
) -> None:
    searched = space(tiny_models)
    named = vector_of(searched, methods, np.random.default_rng(3))

    def logits(model: int, group: int) -> float:
        own = (f"model_{model}.slerp.logit", f"layer {group}")
        return sum(value for name, value in named.items() if name.startswith(own[0]) and name.endswith(own[1]))

    merger = Merger([str(path) for path in tiny_models[1:]], str(tiny_models[0]))
    merger.merge(searched.decode([named[v.name] for v in searched.variables]))
    tensors = [
        {name: tensor.numpy().astype(np.float64) for name, tensor in load_file(path / "model.safetensors").items()}
        for path in tiny_models
    ]
    for name, tensor in merger.model.state_dict().items():
        group = 0 if "embed_tokens" in name or "layers.0." in name else 1
        own = next((f"[{part}]" for part in ("self_attn", "mlp") if part in name), "")
        place = f"{own} layer {group}"
        parameters = {
            key.removesuffix(place): value
            for key, value in named.items()
            if key.endswith(place) and (own or "[" not in key)
        }
        parameters["second"], parameters["first"] = np.argsort([logits(model, group) for model in (1, 2, 3)])[1:]
        base, *models = (parent[name] for parent in tensors)
        wanted = expected(methods[group], parameters, base, models)
        np.testing.assert_allclose(tensor.numpy(), wanted, rtol=2e-5, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parents_and_the_uniform_merge_are_points_bit_for_bit(dtype: str, tiny_models: list[Path]) -> None:
    searched = space(tiny_models)
    base, *models = map(str, tiny_models)
    merger = Merger(models, base, dtype=dtype)
    known = searched.known_points()
    assert set(known) == {f"parent:{name}" for name in (base, *models)} | {"uniform"}
    for name in (base, *models):
        merger.load_parent(name)
        parent = {key: tensor.clone() for key, tensor in merger.model.state_dict().items()}
        merger.merge(searched.decode(known[f"parent:{name}"]) | {"dtype": dtype})
        assert all(torch.equal(parent[key], tensor) for key, tensor in merger.model.state_dict().items())
    for point in known.values():
        assert (searched.encode(searched.decode(point)) == point).all()
    uniform = searched.decode(known["uniform"])
    assert uniform["merge_method"] == "linear"
    weights = [source["parameters"]["weight"] for slice_ in uniform["slices"] for source in slice_["sources"]]
    assert all(weight == weights[0] for weight in weights)


def test_without_linear_the_base_and_the_start_are_known() -> None:
    assert set(space(FOUR, methods=["slerp", "ties"]).known_points()) == {"parent:base", "start"}
    assert set(space(FOUR, methods=["slerp"], base=False).known_points()) == {"start"}


@pytest.mark.parametrize("tiny", [0.0, 1e-9])
def test_weights_that_are_all_nothing_are_all_alike(tiny: float) -> None:
    searched = space(FOUR, methods=["linear"])
    recipe = searched.decode(np.full(len(searched.variables), tiny))
    assert recipe == searched.decode(np.ones(len(searched.variables)))


def test_vectors_outside_the_limits_count_as_the_nearest() -> None:
    searched = space(FOUR)
    low, high = (np.array([getattr(v, end) for v in searched.variables]) for end in ("low", "high"))
    assert searched.decode(low - 5) == searched.decode(low) and searched.decode(high + 5) == searched.decode(high)
    with pytest.raises(ValueError, match="expected 56 finite numbers"):
        searched.decode(low[1:])


def test_recipes_of_another_space_are_refused() -> None:
    recipe = space(FOUR).decode(draw(space(FOUR).variables, np.random.default_rng(0)))
    for other in (space(FOUR, 4), space(FOUR, filters=["mlp"]), space([*FOUR, Path("d")]), space(FOUR[1:])):
        with pytest.raises(ConfigError, match="recipe: "):
            other.encode(recipe)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"granularity": 3}, "granularity: expected a divisor of 4 .layers., got 3"),
        ({"filters": ["mlp", "mlp"]}, "filters: expected each once, got mlp, mlp"),
        ({"methods": ["ties", "ties"]}, "methods: expected each once"),
        ({"methods": []}, "methods: expected at least one method, got none"),
        ({"base": False}, "genome.base_model: task_arithmetic needs .* leave task_arithmetic and ties out"),
        ({"models": FOUR[:2]}, "genome.models: expected two models or more to merge by linear, got a"),
        ({"models": [FOUR[0], FOUR[0]], "methods": ["ties"]}, "expected two models or more to merge by ties, got base"),
        ({"models": [*FOUR, FOUR[1]]}, "genome.models: expected each model once"),
    ],
)
def test_mistakes_are_one_line(change: dict[str, Any], message: str) -> None:
    models = change.pop("models", FOUR)
    with pytest.raises(ConfigError, match=message) as error:
        space(models, 4, **change)
    assert "\n" not in str(error.value)


def test_settings_of_the_genomes_space_and_a_changing_vocabulary_are_refused() -> None:
    for setting in ({"merge_method": "ties"}, {"filters": ["mlp"]}, {"tokenizer_source": "union"}):
        genome = {"models": ["a", "b"], "base_model": "base"} | setting
        config = parse_config(
            {"genome": genome, "tasks": ["x"], "merge3": {"space": {"kind": "lfs", "granularity": 1}}}
        )
        with pytest.raises(ConfigError, match=f"genome.{next(iter(setting))}: "):
            LfsSpace(config, 2, dtype="float32")
