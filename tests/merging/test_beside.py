"""Several live models over the same parents, each in a thread of its own."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from merge3_plugin.errors import ConfigError
from merge3_plugin.merging.devices import live_models_on
from merge3_plugin.merging.merger import Merger
from tests.merging.test_merger import assert_same, live, models_recipe

THINNED = {"weight": [0.5, 0.3, 0.7], "density": [0.6, 0.4, 0.5]}


def recipes(folders: list[Path]) -> list[dict[str, Any]]:
    """Of kernels and of mergekit's own methods, of which several draw, and of another depth."""
    base, *models = folders
    slices = [{"sources": [{"model": str(models[0]), "layer_range": [layer, layer + 1]}]} for layer in (0, 1, 0)]
    return [
        models_recipe("dare_ties", models, base, **THINNED),
        models_recipe("linear", models, weight=[0.5, 0.3, 0.4]),
        models_recipe("della", models, base, **THINNED, epsilon=[0.1, 0.2, 0.05]),
        models_recipe("model_stock", models, base),
        {"merge_method": "passthrough", "slices": slices, "dtype": "float32"},
        models_recipe("dare_linear", models, base, dtype="bfloat16", **THINNED),
    ]


def test_threads_merge_what_each_would_merge_alone(tiny_models: list[Path]) -> None:
    base, *models = map(str, tiny_models)
    merger = Merger(models, base, random_seed=7, device="cpu")
    expected: list[Mapping[str, torch.Tensor]] = []
    for recipe in recipes(tiny_models):
        merger.merge(recipe)
        expected.append(live(merger))
    others = [merger, *merger.beside(["cpu", "cpu"])]
    assert len({id(other.model) for other in others}) == 3
    before = torch.get_rng_state()

    def merge_all(number: int) -> None:
        for turn in range(2 * len(expected)):
            place = (turn + 2 * number) % len(expected)
            others[number].merge(recipes(tiny_models)[place])
            assert_same(live(others[number]), expected[place])

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(merge_all, range(3)))
    assert torch.equal(before, torch.get_rng_state())
    others[1].load_parent(models[1])
    merger.load_parent(models[2])
    assert not torch.equal(next(iter(live(others[1]).values())), next(iter(live(merger).values())))


def test_devices_of_a_run_are_here_and_of_one_kind() -> None:
    assert live_models_on(["cpu", "cpu"]) == {"cpu": 2}
    with pytest.raises(ConfigError, match=r"device: expected auto, cpu or one that is here, got 'cuda:99'"):
        live_models_on(["cpu", "cuda:99"])
    with pytest.raises(ConfigError, match="expected devices of one kind, got cpu and meta"):
        live_models_on(["cpu", "meta"])
