"""Parameters by tensor: mergekit's resolver, asked once a slice where its answer is the same for every tensor."""

from __future__ import annotations

from typing import Any

import pytest
from mergekit import merge_methods
from mergekit.config import ConfigReader, MergeConfiguration
from mergekit.parameter_resolver import resolve_parameters

from merge3_plugin.merging.settings import Settings

NAMES = ("model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "model.layers.0.self_attn.q_proj.weight")
BY_NAME = [{"filter": "mlp", "value": 0.9}, {"filter": "attn", "value": [0.1, 0.5, 0.2]}, {"value": 0.5}]


def recipe(method: str, own: dict[str, Any], of_slice: dict[str, Any], shared: dict[str, Any]) -> MergeConfiguration:
    sources: list[dict[str, Any]] = [{"model": name, "layer_range": [0, 2]} for name in ("one", "two", "base")]
    sources[0]["parameters"] = own
    slices = [{"sources": sources, "parameters": of_slice}]
    raw = {"merge_method": method, "slices": slices, "base_model": "base", "parameters": shared}
    return MergeConfiguration.model_validate(raw)


@pytest.mark.parametrize(
    ("own", "of_slice", "shared"),
    [
        ({"weight": 0.3}, {}, {"weight": 1, "density": "1e-1", "normalize": 0}),
        ({"weight": BY_NAME}, {"weight": 0.25}, {"density": [0.2, 0.9], "lambda": [1, 2, 0]}),
        ({"weight": BY_NAME[:2]}, {"weight": [0, 1]}, {"density": BY_NAME, "normalize": [True, False]}),
        ({"weight": [], "density": {"filter": "up", "value": 0.7}}, {"weight": {"value": 2}}, {"int8_mask": "true"}),
        ({"weight": {"filter": "*", "value": [1, 3]}}, {"weight": 0.5, "lambda": BY_NAME}, {"rescale": BY_NAME[:0]}),
    ],
)
def test_values_are_those_of_mergekits_resolver(
    own: dict[str, Any], of_slice: dict[str, Any], shared: dict[str, Any]
) -> None:
    config = recipe("della", own, of_slice, shared | {"epsilon": 0.05})
    assert config.slices
    method, definition = merge_methods.get("della"), config.slices[0]
    settings = Settings(config, definition, method)
    reader = ConfigReader(config=config, slice_out=definition, t=0)
    for t in (0, 0.3, 1):
        for name in NAMES:
            inputs = [f"{name}.{place}" for place in range(3)]
            expected_shared, by_model = resolve_parameters(
                method.spec,
                tensor_name=name,
                inputs=dict(zip(settings.models, inputs, strict=True)),
                sources=reader.with_t(t).parameter_sources,
                base_model=config.base_model,
                t=t,
            )
            got_shared, got_own = settings.values(name, inputs, t)
            assert got_shared == expected_shared
            assert got_own == [by_model[model] for model in settings.models]


def test_a_missing_value_is_an_error_for_the_tensor_that_lacks_it() -> None:
    config = recipe("ties", {"weight": [{"filter": "mlp", "value": 1}]}, {}, {})
    assert config.slices
    settings = Settings(config, config.slices[0], merge_methods.get("ties"))
    with pytest.raises(RuntimeError, match=r"weight for one\.model\.embed"):
        settings.values(NAMES[0], NAMES[:1], 0)
    assert settings.values(NAMES[1], NAMES[1:2], 0)[1][0]["weight"] == 1
