"""Parameters that are searched in steps: which values they have, to the last bit, whoever asks for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from merge3_plugin.config import parse_config
from merge3_plugin.errors import ConfigError
from merge3_plugin.evolve.export import _genes
from merge3_plugin.evolve.spaces import Space, make_space
from merge3_plugin.evolve.spaces.variables import Kind, described, draw, read_variable, start
from merge3_plugin.plugins import plugin_host
from tests.evolve.optimizers.worlds import drive, made

TENTHS = {"min": 0, "max": 1, "step": 0.1}
# What a person writes, and what 0..10 over 10 is: 3 * 0.1 would be another number.
VALUES = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]


def space(models: list[Path], method: str, bounds: dict[str, Any], **settings: Any) -> Space:
    base, *others = map(str, models)
    genome = {"models": others[:2], "base_model": base, "merge_method": method, **settings.pop("genome", {})}
    if method == "slerp":
        del genome["base_model"]
    config = {"genome": genome, "tasks": ["x"], "merge3": {"bounds": bounds, **settings}}
    return make_space(parse_config(config), 2, dtype="float32")


def test_every_whole_number_is_a_value_as_it_is_written(tiny_models: list[Path]) -> None:
    searched = space(tiny_models, "slerp", {"t": TENTHS})
    (gene,) = searched.variables
    assert (gene.kind, gene.low, gene.high, gene.start) == (Kind.INTEGER, 0, 10, 5)
    found = [searched.decode([k])["slices"][0]["parameters"]["t"] for k in range(11)]
    assert found == VALUES == [k / 10 for k in range(11)]
    for beside, value in ((-3.0, 0.0), (2.5, 0.3), (3.49, 0.3), (1e9, 1.0)):
        assert searched.decode([beside])["slices"][0]["parameters"]["t"] == value
    for k in range(11):
        recipe = searched.decode([k])
        assert searched.encode(recipe).tolist() == [k]
    recipe["slices"][0]["parameters"]["t"] = 0.35
    with pytest.raises(ConfigError, match="of this search space"):
        searched.encode(recipe)
    assert {label.split("/")[-1]: vector.tolist() for label, vector in searched.known_points().items()} == {
        "model_1": [0.0],
        "model_2": [10.0],
        "uniform": [5.0],
    }


def test_steps_count_from_the_least_value_and_a_search_starts_at_the_nearest(tiny_models: list[Path]) -> None:
    searched = space(tiny_models, "task_arithmetic", {"weight": {"min": 0.05, "max": 0.65, "step": 0.2}})
    assert start(searched.variables).tolist() == [2.0, 2.0], "0.45 is nearer to a half than 0.65"
    weights = [
        [source["parameters"]["weight"] for source in searched.decode([k, 0])["slices"][0]["sources"][:1]]
        for k in range(4)
    ]
    assert weights == [[0.05], [0.25], [0.45], [0.65]]
    assert set(searched.known_points()) == {"uniform"}, "no weight is 0, so the base is not there"


@pytest.mark.parametrize("parameters", [{}, {"density": 0.75}], ids=["density a gene", "density fixed"])
def test_dellas_epsilon_keeps_its_room_and_its_inverse(parameters: dict[str, Any], tiny_models: list[Path]) -> None:
    bounds = {"epsilon": {"min": 0, "max": 0.5, "step": 0.1}}
    searched = space(tiny_models, "della", bounds, parameters=parameters)
    rng = np.random.default_rng(0)
    for _ in range(30):
        recipe = searched.decode(draw(searched.variables, rng))
        assert searched.decode(searched.encode(recipe)) == recipe
    highs = {variable.high for variable in searched.variables if variable.name.endswith("epsilon")}
    assert highs == ({2.0} if parameters else {5.0}), "0.2 is the last step below 0.25"


def test_a_method_among_others_has_its_steps_too(tiny_models: list[Path]) -> None:
    searched = space(tiny_models, "ties", {"density": TENTHS}, space={"methods": ["dare_ties"]})
    densities = [variable for variable in searched.variables if variable.name.endswith("density")]
    assert [(v.kind, v.unit, v.high) for v in densities] == [(Kind.INTEGER, 0.1, 10)] * 4
    recipe = searched.decode(draw(searched.variables, np.random.default_rng(0)))
    assert all(source["parameters"]["density"] in VALUES for source in recipe["slices"][0]["sources"][:2])


@pytest.mark.parametrize("name", sorted(plugin_host().optimizers()))
def test_no_strategy_asks_for_a_value_between_steps(name: str, tiny_models: list[Path]) -> None:
    searched = space(tiny_models, "slerp", {"t": TENTHS}, genome={"layer_granularity": 1, "filters": ["mlp"]})
    target = np.array([3, 8, 0, 5])
    asked = drive(made(name, searched.variables), lambda vector: float(((vector - target) ** 2).sum()), 120)
    values = set()
    for trial in asked:
        recipe = searched.decode(trial.vector)
        assert np.array_equal(searched.encode(recipe), trial.vector)
        values |= {entry["value"] for slice_ in recipe["slices"] for entry in slice_["parameters"]["t"]}
    assert values <= set(VALUES) and len(values) >= 3
    if name in ("cma-es", "ga", "nsga2", "tpe"):
        assert min(((trial.vector - target) ** 2).sum() for trial in asked) <= 2


def test_records_and_tables_have_the_parameters_values(tiny_models: list[Path]) -> None:
    searched = space(tiny_models, "task_arithmetic", {"weight": {"min": 0.1, "max": 1.1, "step": 0.1}})
    kept = [read_variable(json.loads(json.dumps(described(variable)))) for variable in searched.variables]
    assert kept == list(searched.variables)
    assert list(_genes(kept, np.array([2.0, 9.0])).values()) == [0.3, 1]


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"min": 0, "max": 1, "step": 0.3}, "whole number of steps from min to max of 't', got steps of 0.3 from 0 to"),
        ({"min": 1, "max": 0, "step": 0.1}, "finite low < high for 't', got 1.0, 0.0"),
        ({"min": 0, "max": 1, "step": 0}, "merge3.bounds.t.step: Input should be greater than 0, got 0"),
        ({"min": 0, "max": 1, "stpe": 0.1}, "merge3.bounds.t: unknown key 'stpe'; did you mean 'step'"),
        ({"min": 0, "step": 0.1}, "merge3.bounds.t.max: Field required"),
        ([0, 1, 0.1], "merge3.bounds.t: expected .low, high., or {min: low, max: high, step: size}, got"),
    ],
)
def test_refusals(bounds: Any, message: str, tiny_models: list[Path]) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        space(tiny_models, "slerp", {"t": bounds})
    assert "\n" not in str(error.value)


def test_epsilon_without_room_beside_a_fixed_density_is_refused(tiny_models: list[Path]) -> None:
    with pytest.raises(ConfigError, match="room for epsilon beside a density of 0.9, below 0.0999, got 0.2 or more"):
        space(tiny_models, "della", {"epsilon": [0.2, 0.4]}, parameters={"density": 0.9})
