"""The merger on a GPU against mergekit on it; skipped where there is none."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors.torch import load_file

from merge3_plugin.merging import residence
from merge3_plugin.merging.devices import use_device
from merge3_plugin.merging.merger import Merger
from merge3_plugin.testing import make_tiny_family

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")

SEED = 7
THINNED = {"weight": [0.5, 0.3, 0.7], "density": [0.6, 0.4, 0.5]}
METHODS: dict[str, dict[str, Any]] = {
    "linear": {"weight": [0.5, 0.3, 0.4]},
    "slerp": {"t": 0.3},
    "nuslerp": {"weight": [0.6, 0.2]},
    "task_arithmetic": {"weight": [0.5, -0.3, 0.4]},
    "ties": THINNED,
    "dare_ties": THINNED,
    "breadcrumbs": {**THINNED, "gamma": [0.1, 0.2, 0.05]},
    "della": {**THINNED, "epsilon": [0.1, 0.2, 0.05]},
    "model_stock": {},
}
N_MODELS = {"slerp": 1, "nuslerp": 2}


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[Path]]:
    return request.param, make_tiny_family(tmp_path_factory.mktemp("gpu"), dtype=request.param)


def recipe_of(method: str, dtype: str, base: Path, models: list[Path]) -> dict[str, Any]:
    given = METHODS[method]
    listed = {name: value for name, value in given.items() if isinstance(value, list)}
    models = models[: N_MODELS.get(method, len(models))]
    sources = [
        {"model": str(model), "parameters": {name: of[place] for name, of in listed.items()}}
        for place, model in enumerate(models)
    ]
    shared = {name: value for name, value in given.items() if name not in listed}
    with_base = {} if method in ("linear", "nuslerp") else {"base_model": str(base)}
    return {"merge_method": method, "models": sources, "parameters": shared, "dtype": dtype, **with_base}


@pytest.mark.parametrize("method", METHODS)
def test_merges_are_mergekits_on_this_device(
    method: str, family: tuple[str, list[Path]], tmp_path: Path, stable_sort: None
) -> None:
    dtype, (base, *models) = family
    recipe = recipe_of(method, dtype, base, models)
    merger = Merger([str(model) for model in models], str(base), random_seed=SEED, device="cuda")
    merger.merge(recipe)
    options = MergeOptions(random_seed=SEED, quiet=True, write_model_card=False, device="cuda")
    run_merge(MergeConfiguration.model_validate(recipe), str(tmp_path), options)
    got = merger.model.state_dict()
    for name, expected in load_file(tmp_path / "model.safetensors").items():
        assert got[name].device.type == "cuda"
        assert close(got[name].cpu(), expected, method), name


def close(got: torch.Tensor, expected: torch.Tensor, method: str) -> bool:
    """To the last bit; where a sum of a whole tensor comes in, which has no order on a GPU, to that of the largest."""
    if method in ("linear", "task_arithmetic", "ties"):
        return torch.equal(got, expected)
    scale = expected.abs().max().item() * (1e-6 if got.dtype == torch.float32 else torch.finfo(got.dtype).eps)
    return bool((got.float() - expected.float()).abs().max() <= scale)


def test_merging_again_takes_no_more_memory(family: tuple[str, list[Path]]) -> None:
    dtype, (base, *models) = family
    merger = Merger([str(model) for model in models], str(base), random_seed=SEED, device="cuda")
    recipes: list[Mapping[str, Any]] = [recipe_of(method, dtype, base, models) for method in ("ties", "linear")]
    for recipe in recipes:
        merger.merge(recipe)
    used = torch.cuda.memory_allocated()
    for recipe in recipes * 3:
        merger.merge(recipe)
    assert torch.cuda.memory_allocated() == used


def test_two_live_models_of_one_gpu_merge_in_streams_of_their_own(family: tuple[str, list[Path]]) -> None:
    dtype, (base, *models) = family
    recipes = [recipe_of(method, dtype, base, models) for method in ("dare_ties", "linear", "ties")]
    merger = Merger([str(model) for model in models], str(base), random_seed=SEED, device="cuda")
    expected = []
    for recipe in recipes:
        merger.merge(recipe)
        expected.append({name: tensor.clone() for name, tensor in merger.model.state_dict().items()})
    torch.cuda.synchronize()

    def merge_all(other: Merger) -> None:
        use_device(other.device, own_stream=True)
        for place in (0, 1, 2) * 4:
            other.merge(recipes[place])
            found = other.model.state_dict()
            method = recipes[place]["merge_method"]
            assert all(close(found[name].cpu(), tensor.cpu(), method) for name, tensor in expected[place].items())

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(merge_all, [merger, *merger.beside(["cuda:0"])]))


@pytest.mark.parametrize("method", ["linear", "ties", "model_stock"])
def test_parents_that_do_not_fit_are_streamed(
    method: str, family: tuple[str, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    dtype, (base, *models) = family
    recipe = recipe_of(method, dtype, base, models)
    weights = []
    for free in (1.0, 0.0):
        monkeypatch.setattr(residence, "_free_on", lambda device, free=free: free)
        merger = Merger([str(model) for model in models], str(base), random_seed=SEED, device="cuda")
        for _ in range(2):
            merger.merge(recipe)
        weights.append({name: tensor.clone() for name, tensor in merger.model.state_dict().items()})
        found = merger._execution._residence
        assert bool(found._kept) == (free > 0) and bool(found._locked) == (free == 0)
        assert all(tensor.is_pinned() for tensor in found._locked.values())
    kept, streamed = weights
    assert all(torch.equal(streamed[name], tensor) for name, tensor in kept.items())
