"""Depth-wise integration: stacks and their inverse, limits, and residual scales that fold into weights."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from mergekit.architecture import arch_info_for_config
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from merge3_plugin.config import parse_config
from merge3_plugin.errors import ConfigError
from merge3_plugin.evolve.setup import Flags, rehearse
from merge3_plugin.evolve.spaces import make_space
from merge3_plugin.evolve.spaces.dis import DisSpace
from merge3_plugin.evolve.spaces.variables import Kind, draw, start
from merge3_plugin.merging.merger import Merger
from merge3_plugin.merging.residual import why_not_scaled
from merge3_plugin.testing import make_tiny_family
from tests.merging.test_depth import assert_cache_agrees, family_of, logits, sizes


def config(models: list[str], base: str | None = "base", genome: dict[str, Any] | None = None, **space: Any) -> Any:
    merged = {"models": models, "base_model": base, **(genome or {})}
    return parse_config({"genome": merged, "tasks": ["x"], "merge3": {"space": {"kind": "dis", **space}}})


def make(models: list[str], n_layers: int, base: str | None = "base", **space: Any) -> DisSpace:
    found = make_space(config(models, base, **space), n_layers, dtype="float32")
    assert isinstance(found, DisSpace)
    return found


def stack(recipe: dict[str, Any]) -> list[tuple[str, int]]:
    """Each layer of a recipe: whose, and which."""
    sources = [source for slice_ in recipe["slices"] for source in slice_["sources"]]
    return [(source["model"], index) for source in sources for index in range(*source["layer_range"])]


def vector(space: DisSpace, **changes: float) -> np.ndarray:
    """The start with some coordinates changed; ``layer_1_a_copies`` is "layer 1 a copies"."""
    x = start(space.variables)
    place = {variable.name.replace(" ", "_"): i for i, variable in enumerate(space.variables)}
    for name, value in changes.items():
        x[place[name]] = value
    return x


@st.composite
def spaces(pick: st.DrawFn) -> DisSpace:
    n_layers = pick(st.integers(2, 7))
    frozen = pick(st.tuples(st.integers(0, 2), st.integers(0, 2)).filter(lambda f: sum(f) < n_layers))
    models = pick(st.sampled_from([["a"], ["a", "b"], ["a", "base", "b"]]))
    repeats = pick(st.integers(1, 3))
    limits = {
        "repeats": repeats,
        "scales": pick(st.sampled_from([None, (0.5, 1.5), (0.25, 0.4), (1.2, 2.0)])),
        "max_layers": pick(st.none() | st.integers(n_layers + repeats - 1, 3 * n_layers)),
    }
    return make(models, n_layers, frozen_first=frozen[0], frozen_last=frozen[1], **limits)


@settings(max_examples=150, deadline=None)
@given(spaces(), st.integers(0, 2**32 - 1))
def test_recipes_are_stacks_within_the_limits_and_have_their_vector(space: DisSpace, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = draw(space.variables, rng) + rng.choice([0, 0.3], len(space.variables))
    recipe = space.decode(x)
    layers = stack(recipe)
    assert space.decode(space.encode(recipe)) == recipe
    n_layers, repeats = space._n_layers, space._space.repeats
    assert [index for _, index in layers] == sorted(index for _, index in layers)  # positions are in order
    assert {index for _, index in layers} == set(range(n_layers))  # and none is left out
    assert n_layers <= len(layers) <= space.depth
    assert max(Counter(layers).values()) <= repeats
    frozen = [*range(space._space.frozen_first), *range(n_layers - space._space.frozen_last, n_layers)]
    assert all([model for model, at in layers if at == index] == ["base"] for index in frozen)
    # Embeddings and the final norm, which mergekit takes from the ends, are the base's.
    assert recipe["slices"][0]["sources"][0]["model"] == recipe["slices"][-1]["sources"][0]["model"] == "base"


def test_places_sort_the_blocks_of_a_position_and_copies_count_them() -> None:
    space = make(["a", "b"], 3, repeats=2, scales=None)
    x = vector(
        space,
        layer_1_a_copies=2,
        layer_1_b_copies=1,
        layer_1_a_place_1=0.9,
        layer_1_a_place_2=0.1,
        layer_1_b_place_1=0.5,
    )
    assert stack(space.decode(x)) == [("base", 0), ("a", 1), ("b", 1), ("a", 1), ("base", 2)]
    x[space.variables.index(next(v for v in space.variables if v.name == "layer 1 b copies"))] = 0
    assert stack(space.decode(x)) == [("base", 0), ("a", 1), ("a", 1), ("base", 2)]


@pytest.mark.parametrize("repeats", [1, 3])
def test_an_order_costs_a_coordinate_a_copy(repeats: int) -> None:
    """40 layers of 3 models, as in the paper: 200 variables there with orders as choices, and none for repeats."""
    space = make(["a", "b", "c"], 40, repeats=repeats, frozen_first=0, frozen_last=0)
    assert len(space.variables) == 40 * (3 + 3 * repeats) + 39
    copies = [variable for variable in space.variables if variable.kind is Kind.INTEGER]
    assert len(copies) == 120 and all((v.low, v.high) == (0, repeats) for v in copies)


def test_too_deep_a_stack_keeps_whole_positions_from_the_first_on() -> None:
    space = make(["a", "b"], 5, repeats=2, scales=None, max_layers=9)
    layers = stack(space.decode(np.array([variable.high for variable in space.variables])))
    assert [sum(at == index for _, at in layers) for index in range(5)] == [1, 4, 2, 1, 1]
    assert [layer for layer in layers if layer[1] == 2] == [("a", 2), ("a", 2)]


def test_a_search_starts_at_the_base_bit_for_bit(tmp_path: Path) -> None:
    base, *models = map(str, make_tiny_family(tmp_path, 2, layers=3))
    space = make(models, 3, base)
    points = space.known_points()
    assert list(points) == [f"parent:{base}"] and (points[f"parent:{base}"] == start(space.variables)).all()
    merger = Merger(models, base)
    merger.merge(space.decode(start(space.variables)))
    state, expected = merger.model.state_dict(), load_file(Path(base) / "model.safetensors")
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
    # Where the scales leave out 1, no point is the base.
    assert list(make(models, 3, base, scales=(1.2, 1.5)).known_points()) == ["start"]


# -- residual scales --------------------------------------------------------------------------------------------------

FOLDING: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Qwen3": {"head_dim": 8},
    "Granite": {"attention_bias": True, "mlp_bias": True, "residual_multiplier": 1.0, "logits_scaling": 1.0},
    "Qwen3Moe": {"head_dim": 8, "moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2},
}


def scaled_forward(model: Any, after: dict[int, float]) -> torch.Tensor:
    """Logits with the residual stream multiplied after some layers."""
    hooks = [
        model.model.layers[layer].register_forward_hook(lambda _, __, output, s=scale: output * s)
        for layer, scale in after.items()
    ]
    try:
        return logits(model)
    finally:
        for hook in hooks:
            hook.remove()


def unscaled(recipe: dict[str, Any]) -> dict[str, Any]:
    slices = [
        {"sources": [{key: source[key] for key in ("model", "layer_range")} for source in slice_["sources"]]}
        for slice_ in recipe["slices"]
    ]
    return recipe | {"slices": slices}


@pytest.mark.parametrize("family", FOLDING)
def test_scales_fold_into_the_weights(family: str, tmp_path: Path) -> None:
    """Against a forward that multiplies the stream itself: equal up to the epsilon of the norms, and exported so."""
    own = getattr(transformers, f"{family}Config")(**sizes(num_hidden_layers=6, **FOLDING[family]))
    base, one, two = map(str, family_of(tmp_path, own, 3))
    space = make([one, two], 6, base, scales=(0.25, 2.0), max_layers=12)
    merger = Merger([one, two], base)
    for seed in range(3):
        x = draw(space.variables, np.random.default_rng(seed))
        recipe = space.decode(x)
        positions = [at for _, at in stack(recipe)]
        scales = {
            int(v.name.split()[1]): round(c, 4) for v, c in zip(space.variables, x, strict=True) if "scale" in v.name
        }
        assert len(scales) == 4 and max(abs(s - 1) for s in scales.values()) > 0.3
        last = {at: layer for layer, at in enumerate(positions)}
        merger.merge(unscaled(recipe))
        expected = scaled_forward(merger.model, {last[at]: scale for at, scale in scales.items()})
        assert (expected - logits(merger.model)).abs().max() > 1e-2  # the scales do something
        merger.merge(recipe)
        folded = logits(merger.model)
        assert (folded - expected).abs().max() <= 3e-4
        assert torch.equal(folded.argmax(-1), expected.argmax(-1))
    merger.save(tmp_path / "saved")
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(logits(saved), folded)
    assert_cache_agrees(saved)


def test_what_differs_is_the_epsilon_of_the_norms(tmp_path: Path) -> None:
    own = {eps: transformers.LlamaConfig(**sizes(num_hidden_layers=6, rms_norm_eps=eps)) for eps in (1e-3, 0.0)}
    errors = {}
    for eps, kind in own.items():
        base, one = map(str, family_of(tmp_path / str(eps), kind))
        space = make([one], 6, base)
        x = vector(space, **{f"layer_{at}_scale": 0.5 for at in range(1, 5)})
        merger = Merger([one], base)
        merger.load_parent(base)
        expected = scaled_forward(merger.model, dict.fromkeys(range(1, 5), 0.5))
        merger.merge(space.decode(x))
        errors[eps] = float((logits(merger.model) - expected).abs().max())
    assert errors[0.0] < 2e-5 < 1e-3 < errors[1e-3]


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("Gemma2", "final_logit_softcapping 30"),
        ("Gemma3Text", "post_feedforward_layernorm"),
        ("Granite", "residual_multiplier 0.2"),
        ("Cohere", "logit_scale 0.0625"),
        ("Olmo2", "post_feedforward_layernorm"),
        ("Glm4", "post_mlp_layernorm"),
        ("Falcon", "no input_layernorm"),
        ("Mistral", None),
        ("Phi3", None),
    ],
)
def test_architectures_where_scales_do_not_fold_are_told_apart(family: str, reason: str | None) -> None:
    extra = {"residual_multiplier": 0.2} if family == "Granite" else {}
    known = getattr(transformers, f"{family}Config")(**extra)
    known.architectures = [family.replace("Text", "") + "ForCausalLM"]
    info = arch_info_for_config(known)
    found = why_not_scaled(known, [weight.name for weight in info.all_weights(known)])
    assert (reason is None) == (found is None) and (reason or "") in (found or "")
    assert "no list of its tensors" in why_not_scaled(known, None)


def test_a_run_refuses_scales_that_do_not_fold_when_it_is_rehearsed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kind = transformers.Gemma2Config(**sizes(head_dim=8))
    base, one = map(str, family_of(tmp_path, kind))
    with pytest.raises(ConfigError, match=r"scales: .*final_logit_softcapping 30; write scales: null") as error:
        rehearse(config([one], base), Flags())
    assert "\n" not in str(error.value)
    assert "mergekit-yaml" not in caplog.text
    assert len(rehearse(config([one], base, scales=None), Flags()).space.variables) == 2
    assert "mergekit-yaml leaves layer_types as long as the parents'" in caplog.text


@pytest.mark.parametrize(
    ("models", "space", "message"),
    [
        (["a"], {"scales": (0.2, 1.0)}, "within 0.25 to 2, got"),
        (["a"], {"scales": (0.5, 2.5)}, "within 0.25 to 2, got"),
        (["a"], {"scales": (1.5, 0.5)}, "low < high"),
        (["a"], {"max_layers": 5}, "max_layers: expected at least 6"),
        (["a"], {"max_layers": 8, "repeats": 4}, "repeats: expected at most 3"),
        (["a"], {"frozen_first": 3, "frozen_last": 3}, "3 first and 3 last of 6 that are frozen"),
        (["a", "a"], {}, "each model once"),
        (["base"], {}, "a model beside the base"),
        (["a"], {"repeats": 0}, "repeats"),
    ],
)
def test_limits_that_cannot_be_met(models: list[str], space: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        make(models, 6, **space)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("genome", "message"),
    [
        ({"merge_method": "ties"}, "genome.merge_method: the space dis has no use for it"),
        ({"layer_granularity": 2}, "genome.layer_granularity: the space dis"),
        ({"tokenizer_source": "union"}, "union would change with the candidate"),
    ],
)
def test_settings_of_other_spaces(genome: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_space(config(["a"], genome=genome), 6, dtype="float32")


def test_one_model_may_be_stacked_upon_itself() -> None:
    space = make(["base"], 4, repeats=2, scales=None)
    assert space.depth == 6
    assert stack(space.decode(vector(space, layer_1_base_copies=2)))[:4] == [
        ("base", 0),
        ("base", 1),
        ("base", 1),
        ("base", 2),
    ]


def test_recipes_and_vectors_of_another_space() -> None:
    space, other = make(["a"], 4), make(["a", "c"], 4, repeats=2)
    recipe = other.decode(vector(other, layer_1_a_copies=2))
    for wrong in (recipe, {"slices": []}, {"merge_method": "linear"}):
        with pytest.raises(ConfigError, match="another"):
            space.encode(wrong)
    for bad in (np.zeros(3), np.full(len(space.variables), np.nan)):
        with pytest.raises(ValueError, match="finite numbers"):
            space.decode(bad)
