"""One linear combination of many models: its codings, the points it knows, and what CMA-ES makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from merge3_plugin.config import parse_config
from merge3_plugin.domain import FloatArray
from merge3_plugin.errors import ConfigError
from merge3_plugin.evolve.optimizers import Result, Settings, make_optimizer
from merge3_plugin.evolve.spaces.variables import draw, start
from merge3_plugin.evolve.spaces.weights import WeightsSpace
from merge3_plugin.merging.merger import Merger
from merge3_plugin.testing import make_tiny_family

CODINGS: dict[str, dict[str, Any]] = {
    "softmax": {},
    "normalised": {"transform": "normalised"},
    "negative": {"transform": "normalised", "allow_negative": True},
}
coding = pytest.mark.parametrize("chosen", CODINGS.values(), ids=list(CODINGS))


def space(models: int | list[Path], genome: dict[str, Any] | None = None, **chosen: Any) -> WeightsSpace:
    names = [f"run/checkpoint-{100 * i}" for i in range(1, models + 1)] if isinstance(models, int) else models
    config = {"genome": {"models": [str(name) for name in names], **(genome or {})}, "tasks": ["x"]}
    return WeightsSpace(
        parse_config({**config, "merge3": {"space": {"kind": "weights", **chosen}}}), 2, dtype="float32"
    )


def weights(recipe: dict[str, Any]) -> list[float]:
    return [source["parameters"]["weight"] for source in recipe["slices"][0]["sources"]]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Sixteen checkpoints of a training run, in bfloat16."""
    _, *models = make_tiny_family(tmp_path_factory.mktemp("run"), 16, hidden=8, dtype="bfloat16")
    return models


@coding
@given(data=st.data())
def test_weights_sum_to_one_and_encode_is_the_exact_inverse(chosen: dict[str, Any], data: st.DataObject) -> None:
    searched = space(data.draw(st.integers(2, 20)), **chosen)
    number = st.one_of(st.floats(-2, 3), st.floats(allow_nan=False, allow_infinity=False), st.just(0.0))
    vector = data.draw(st.lists(number, min_size=len(searched.variables), max_size=len(searched.variables)))
    recipe = searched.decode(vector)
    assert abs(sum(weights(recipe)) - 1) < 1e-6
    assert chosen.get("allow_negative") or min(weights(recipe)) >= 0
    assert searched.decode(searched.encode(recipe)) == recipe


@coding
@pytest.mark.parametrize("models", [2, 3, 16])
def test_a_search_starts_at_the_uniform_merge_and_no_model_is_special(chosen: dict[str, Any], models: int) -> None:
    searched = space(models, **chosen)
    known = searched.known_points()
    assert set(known) == {"uniform", *(f"parent:run/checkpoint-{100 * i}" for i in range(1, models + 1))}
    assert np.array_equal(known["uniform"], start(searched.variables))
    assert weights(searched.decode(known["uniform"])) == pytest.approx([1 / models] * models, abs=1e-8)
    vector = draw(searched.variables, np.random.default_rng(0))
    there, mirrored = weights(searched.decode(vector)), weights(searched.decode(vector[::-1]))
    assert there == pytest.approx(mirrored[::-1], abs=1e-8)
    assert np.std(there) > 0.1 / models


@coding
def test_one_checkpoint_alone_is_that_checkpoint_bit_for_bit(chosen: dict[str, Any], checkpoints: list[Path]) -> None:
    searched = space(checkpoints, **chosen)
    merger = Merger([str(path) for path in checkpoints])
    for path in checkpoints[::5]:
        recipe = searched.decode(searched.known_points()[f"parent:{path}"])
        assert sorted(weights(recipe)) == [0.0] * 15 + [1.0]
        merger.merge(recipe)
        for name, tensor in load_file(path / "model.safetensors").items():
            assert torch.equal(merger.model.state_dict()[name].view(torch.int16), tensor.view(torch.int16)), name


def test_a_recipe_merges_as_in_mergekit_and_is_the_weighted_mean(checkpoints: list[Path], tmp_path: Path) -> None:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    config = {"genome": {"models": list(map(str, checkpoints))}, "tasks": ["x"], "merge3": {"space": "weights"}}
    searched = WeightsSpace(parse_config(config), 2, dtype="bfloat16")
    recipe = searched.decode(draw(searched.variables, np.random.default_rng(1)))
    merger = Merger([str(path) for path in checkpoints])
    merger.merge(recipe)
    run_merge(
        MergeConfiguration.model_validate(recipe), str(tmp_path), MergeOptions(quiet=True, write_model_card=False)
    )
    parents = [load_file(path / "model.safetensors") for path in checkpoints]
    for name, tensor in load_file(tmp_path / "model.safetensors").items():
        assert torch.equal(merger.model.state_dict()[name], tensor), name
        mean = sum(w * p[name].double() for w, p in zip(weights(recipe), parents, strict=True))
        # One rounding to bfloat16 (8 bits), not one for each of sixteen.
        torch.testing.assert_close(tensor.double(), mean, rtol=2**-8, atol=1e-6)


def test_cma_es_finds_known_weights() -> None:
    """The optimum of a quadratic in sixteen weights, to 1e-3 within 3,000 noise-free evaluations."""
    searched = space(16)
    best = np.random.default_rng(3).dirichlet(np.full(16, 2.0))

    def loss(vector: FloatArray) -> float:
        return float(np.sum((np.array(weights(searched.decode(vector))) - best) ** 2))

    first = start(searched.variables)
    optimizer = make_optimizer("cma-es", searched.variables, first, Settings(3000), np.random.default_rng(0))
    for _ in range(3000):
        if optimizer.stop():
            break
        for trial in optimizer.ask(1):
            optimizer.tell([Result(trial.number, trial.vector, (-loss(trial.vector),))])
    mean = optimizer.mean()
    assert mean is not None
    assert np.abs(np.array(weights(searched.decode(mean))) - best).max() < 1e-3


@pytest.mark.parametrize(
    ("models", "chosen", "genome", "message"),
    [
        (1, {}, {}, "at least two models"),
        (3, {"allow_negative": True}, {}, "softmax is never negative; write transform: normalised"),
        (3, {}, {"merge_method": "ties"}, "merge_method: the space weights has no use for it, got 'ties'"),
        (3, {}, {"layer_granularity": 1}, "layer_granularity: the space weights has no use for it"),
    ],
)
def test_refusals(models: int, chosen: dict[str, Any], genome: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        space(models, genome, **chosen)
    assert "\n" not in str(error.value)


def test_a_recipe_of_other_models_is_refused() -> None:
    with pytest.raises(ConfigError, match="of this search space"):
        space(3).encode(space(4).decode(start(space(4).variables)))
