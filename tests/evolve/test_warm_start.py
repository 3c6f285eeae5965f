"""Recipes of files and the best of other runs, scored first: which they are, and what becomes of them in a run."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import yaml

from merge3_plugin.config import parse_config
from merge3_plugin.domain import Estimate
from merge3_plugin.errors import ConfigError
from merge3_plugin.evolve.spaces import make_space
from merge3_plugin.evolve.store import COMPLETE, FAILED, Evaluation, RunStore
from merge3_plugin.evolve.warm_start import BEST, warm_vectors
from merge3_plugin.merging.outline import read_outline
from tests.commands import refused
from tests.evolve.world import evolve_here, make_world


def config_of(*models, **changes):
    base, *others = models
    genome = {"models": others, "base_model": base, "merge_method": "task_arithmetic", "layer_granularity": 1}
    return {"genome": genome | changes, "tasks": ["tiny_sum"]}


def other_run(folder, config, vectors, fitness):
    """The record of a run that scored these vectors; of None as fitness, in vain."""
    folder.mkdir()
    store = RunStore(folder)
    store.pin("config", config)
    space = make_space(parse_config(config), 2, dtype="float32")
    for number, (vector, value) in enumerate(zip(vectors, fitness, strict=True)):
        estimate = Estimate(value or 0.0, 0.1, (0.0, 1.0), "mean", 2, 10)
        state = FAILED if value is None else COMPLETE
        recipe = space.decode(vector)
        store.add(
            Evaluation(f"c{number}", "search", state, estimates={"tiny_sum": estimate}, fitness=value, recipe=recipe)
        )
    store.close()


def warm(config, folder):
    return parse_config(config, flags={"merge3.search.warm_start": str(folder)})


def test_the_best_that_the_space_has_come_first_under_the_names_of_this_run(tmp_path):
    rng = np.random.default_rng(0)
    theirs, own = config_of("/old/base", "/old/m_1"), config_of("/new/base", "/new/m_1")
    vectors = rng.random((8, 2))
    fitness = [0.3, None, 0.9, 0.5, 0.4, 0.1, 0.7, 0.2]
    other_run(tmp_path / "other", theirs, vectors, fitness)
    config = warm(own, tmp_path / "other")
    space = make_space(config, 2, dtype="float32")
    found = warm_vectors(config, space, None)
    assert np.array_equal(list(found.values()), vectors[[2, 6, 3, 4, 0]]) and len(found) == BEST
    assert list(found) == [f"{tmp_path / 'other'}: best {place}" for place in (1, 2, 3, 4, 5)]
    confirmed = [("c5", 0.6, {"tiny_sum": {}}), ("c7", 0.8, {"tiny_sum": {}}), ("c3", 0.0, {})]
    models = [{"candidate": id, "held_out_overall": overall, "held_out": of} for id, overall, of in confirmed]
    (tmp_path / "other" / "summary.json").write_text(json.dumps({"models": models}))
    assert np.array_equal(list(warm_vectors(config, space, None).values()), vectors[[7, 5, 2, 6, 3]])


def test_what_is_scored_first_anyway_or_is_of_another_space_is_left_out(tmp_path, caplog):
    caplog.set_level("INFO", "merge3_plugin")
    own = config_of("/m/base", "/m/m_1")
    space = make_space(parse_config(own), 2, dtype="float32")
    known = list(space.known_points().values())
    other_run(tmp_path / "other", own, [*known, [0.3, 0.4]], [*(0.9 for _ in known), 0.1])
    store = RunStore(tmp_path / "other")
    store.add(Evaluation("x", "search", COMPLETE, fitness=0.8, recipe={"merge_method": "linear", "slices": []}))
    store.close()
    found = warm_vectors(warm(own, tmp_path / "other"), space, None)
    assert [vector.tolist() for vector in found.values()] == [[0.3, 0.4]]
    assert "are scored first; 1 that this space does not have left out" in caplog.text


@pytest.mark.parametrize(
    ("changes", "dimension"),
    [({"merge_method": "ties"}, 4), ({"layer_granularity": 2}, 1), ({"models": ["/m/another"]}, 2)],
)
def test_recipes_none_of_which_fits_are_an_error(tmp_path, changes, dimension):
    other_run(tmp_path / "other", config_of("/m/base", "/m/m_1", **changes), [np.full(dimension, 0.4)], [0.5])
    config = warm(config_of("/m/base", "/m/m_1"), tmp_path / "other")
    with pytest.raises(ConfigError, match="expected merges of this space in .*, got 1 of others, the last of which"):
        warm_vectors(config, make_space(config, 2, dtype="float32"), None)


def test_a_coarser_run_starts_a_finer_one(tiny_models, tmp_path):
    base, first, *_ = map(str, tiny_models)
    other_run(tmp_path / "other", config_of(base, first, layer_granularity=2), [[0.4], [0.7]], [0.5, 0.6])
    config = warm(config_of(base, first), tmp_path / "other")
    found = warm_vectors(config, make_space(config, 2, dtype="float32"), read_outline([first], base).family)
    assert [vector.tolist() for vector in found.values()] == [[0.7, 0.7], [0.4, 0.4]]


FILES = {
    "known.yml": "{model: model_1, parameters: {weight: 0.4}}, {model: model_3, parameters: {weight: 0.25}}",
    "uniform.yml": ", ".join(f"{{model: model_{i}, parameters: {{weight: {1 / 3}}}}}" for i in (1, 2, 3)),
    "foreign.yml": "{model: model_4, parameters: {weight: 0.4}}",
}


def recipes(folder):
    """Files of recipes by task arithmetic, in which models have the ends of their paths for names."""
    for name, models in FILES.items():
        text = f"merge_method: task_arithmetic\nbase_model: base\nmodels: [{models}]\n"
        (folder / name).write_text(text)
    return [folder / name for name in FILES]


def test_files_of_recipes_are_scored_first_or_refused_with_a_line(tiny_models, tmp_path, command):
    known, uniform, foreign = recipes(tmp_path)
    config = make_world(tmp_path, tiny_models)
    raw = yaml.safe_load(config.read_text())

    def plan(*files):
        raw["merge3"]["search"]["warm_start"] = list(map(str, files))
        config.write_text(yaml.safe_dump(raw))
        return command("plan", config, "--task-search-path", config.parent / "tasks")

    status, text, _ = plan(known, uniform)
    assert status == 0 and f"model_3 alone, uniform, {known}\n" in text, "the uniform merge is there already"
    evolve_here(config, tmp_path / "out", merge3__search__max_fevals=10)
    store = RunStore.open(tmp_path / "out")
    asked = [body for name, body in store.events() if name.startswith("ask ")]
    assert asked[5]["vector"] == [0.4, 0.0, 0.25] * 2 and asked[5]["trial"] is None and asked[6]["trial"] == 0
    told = dict(store.events())["tell 5"]
    assert told["values"] is not None and store.recipe(told["candidate"])["slices"][1]["sources"][1]["parameters"] == {
        "weight": 0.0
    }
    refusal = refused(plan(foreign))
    assert (
        f"merge3.search.warm_start: {foreign}: expected a merge that this space has, got model 'model_4', " in refusal
    )
    assert "expected the file of a recipe, or the folder of a run" in refused(plan(tmp_path / "nothing.yml"))


@pytest.fixture(scope="module")
def world(tiny_models, tmp_path_factory):
    """A config that starts from another run's record, and that folder."""
    folder = tmp_path_factory.mktemp("world")
    config = make_world(folder, tiny_models)
    raw = yaml.safe_load(config.read_text())
    vectors = np.random.default_rng(1).random((3, 6))
    other_run(folder / "other", {key: raw[key] for key in ("genome", "tasks")}, vectors, [0.2, 0.4, 0.3])
    raw["merge3"]["search"] |= {"warm_start": str(folder / "other"), "max_fevals": 13}
    config.write_text(yaml.safe_dump(raw))
    return config, folder / "other", vectors[[1, 2, 0]]


def test_a_run_scores_them_first_tells_its_strategy_and_keeps_them_in_its_record(world, tmp_path, command):
    config, other, vectors = world
    plan = command("plan", config, "--task-search-path", config.parent / "tasks")[1]
    known = "base, model_1 alone, model_2 alone, model_3 alone, uniform"
    assert f"Scored first: {known}, {', '.join(f'{other}: best {i}' for i in (1, 2, 3))}\n" in plan
    summary = evolve_here(config, tmp_path / "out")
    store = RunStore.open(tmp_path / "out")
    steps = store.events()
    asked = [body for name, body in steps if name.startswith("ask ")]
    assert [body["vector"] for body in asked[5:8]] == vectors.tolist()
    assert [body["trial"] for body in asked[:9]] == [None] * 8 + [0]
    assert summary["cost"]["candidates"] == 13 and summary["search"]["merges"] == 8, "they may be the best"
    shutil.move(other, other.with_name("gone"))
    try:
        again = evolve_here(config, tmp_path / "out")
        refusal = refused(command("plan", config, "--task-search-path", config.parent / "tasks"))
    finally:
        shutil.move(other.with_name("gone"), other)
    assert again == summary and RunStore.open(tmp_path / "out").events() == steps
    assert (
        "merge3.search.warm_start: expected the file of a recipe, or the folder of a run, with its run.sqlite, got"
        in refusal
    )
