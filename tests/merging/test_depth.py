"""Merges of another depth than their parents': mergekit's weights, a config that fits them, and a cache that works."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from huggingface_hub.errors import StrictDataclassClassValidationError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from merge3_plugin.errors import RunError
from merge3_plugin.merging import MergeFailed
from merge3_plugin.merging.merger import Merger
from merge3_plugin.testing import make_tiny_family, make_tiny_tokenizer
from tests.merging.test_merger import assert_same, live, on_disk

LAYERS, WINDOW = 4, 3
IDS = torch.arange(4, 16)[None] * 5 % 97
FULL, SLIDING = "full_attention", "sliding_attention"


def stack(*slices: tuple[Path, int, int], method: str = "passthrough", base: Path, **rest: Any) -> dict[str, Any]:
    """The recipe of these ranges of these models' layers."""
    sources = [{"sources": [{"model": str(model), "layer_range": [first, end]}]} for model, first, end in slices]
    return {"merge_method": method, "slices": sources, "base_model": str(base), "dtype": "float32", **rest}


def family_of(folder: Path, config: Any, n_models: int = 2) -> list[Path]:
    """Random models of this config, their biases and norms too."""
    tokenizer = make_tiny_tokenizer()
    folders = [folder / f"model_{seed}" for seed in range(n_models)]
    with torch.random.fork_rng(devices=[]):
        for seed, model in enumerate(folders):
            torch.manual_seed(seed)
            made = AutoModelForCausalLM.from_config(config)
            with torch.no_grad():
                for parameter in made.parameters():
                    if parameter.ndim == 1:
                        parameter.add_(torch.randn_like(parameter), alpha=0.1)
            made.save_pretrained(model)
            tokenizer.save_pretrained(model)
    return folders


def sizes(**more: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(make_tiny_tokenizer()),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "initializer_range": 0.3,
        "pad_token_id": 1,
        **more,
    }


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def assert_cache_agrees(model: PreTrainedModel) -> None:
    """Greedy tokens are the same whether keys and values are kept or computed again for each token."""
    texts = [
        model.generate(IDS, max_new_tokens=12, do_sample=False, eos_token_id=None, use_cache=use_cache)
        for use_cache in (True, False)
    ]
    assert torch.equal(*texts)


def layer_numbers(model: PreTrainedModel) -> list[int]:
    return [layer.self_attn.layer_idx for layer in model.model.layers]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_tiny_family(tmp_path_factory.mktemp("deep"), 2, layers=LAYERS)


@pytest.fixture(scope="module")
def merger(models: list[Path]) -> Merger:
    base, *others = map(str, models)
    return Merger(others, base)


def deeper(models: Sequence[Path]) -> dict[str, Any]:
    base, one, two = models
    return stack((base, 0, 1), (one, 1, 3), (one, 1, 2), (two, 1, 3), (two, 2, 3), (base, 3, 4), base=base)


def shallower(models: Sequence[Path]) -> dict[str, Any]:
    base, one, _ = models
    return stack((base, 0, 1), (one, 3, 4), base=base)


def test_repeats_deepen_and_the_saved_model_is_a_normal_one(merger: Merger, models: list[Path], tmp_path: Path) -> None:
    recipe = deeper(models)
    merger.merge(recipe)
    expected = on_disk(recipe, tmp_path / "mergekit")
    assert_same(live(merger), expected)
    assert merger.model.config.num_hidden_layers == 8 and layer_numbers(merger.model) == list(range(8))
    assert all(layer.self_attn.config is merger.model.config for layer in merger.model.model.layers)
    assert_cache_agrees(merger.model)
    merger.save(tmp_path / "saved")
    assert_same(load_file(tmp_path / "saved" / "model.safetensors"), expected)
    for folder in ("saved", "mergekit"):
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / folder)
        assert torch.equal(logits(loaded), logits(merger.model))
    assert_cache_agrees(loaded)


def test_one_model_object_goes_through_all_depths(merger: Merger, models: list[Path], tmp_path: Path) -> None:
    """The scorer holds the model, so it has to stay; copies of layers stay too, for the next deep candidate."""
    merger.load_parent(str(models[0]))
    model, config = merger.model, merger.config.to_dict()
    expected = {}
    for number, recipe in enumerate((deeper(models), shallower(models))):
        expected[number] = on_disk(recipe, tmp_path / str(number))
    deep_layers = None
    for number in (0, 1, 0):
        merger.merge((deeper, shallower)[number](models))
        assert merger.model is model
        assert_same(live(merger), expected[number])
        assert set(live(merger)) == set(expected[number])
        if number == 0:
            layers = list(map(id, model.model.layers))
            assert deep_layers in (None, layers)
            deep_layers = layers
        merger.load_parent(str(models[2]))
        assert_same(live(merger), load_file(models[2] / "model.safetensors"))
        assert merger.config.to_dict() == config and layer_numbers(model) == list(range(LAYERS))


def test_what_stands_around_the_layers_may_come_from_a_slice_without_any(
    merger: Merger, models: list[Path], tmp_path: Path
) -> None:
    base, one, two = models
    recipe = stack((base, 0, 0), (one, 1, 2), (two, 0, 4), (base, 4, 4), base=base)
    merger.merge(recipe)
    assert_same(live(merger), on_disk(recipe, tmp_path))
    of_base = load_file(base / "model.safetensors")
    for name in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"):
        assert torch.equal(live(merger)[name], of_base[name])


ARCHITECTURES: Mapping[str, dict[str, Any]] = {
    "Qwen2": {"use_sliding_window": True, "sliding_window": WINDOW, "layer_types": [FULL, SLIDING, FULL, SLIDING]},
    "Qwen3": {
        "use_sliding_window": True,
        "sliding_window": WINDOW,
        "layer_types": [FULL, SLIDING] * 2,
        "head_dim": 8,
    },
    "Gemma2": {"sliding_window": WINDOW, "head_dim": 8, "layer_types": [SLIDING, FULL] * 2},
    "Mistral": {"sliding_window": WINDOW},
}


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_what_configs_say_of_single_layers_goes_with_them(family: str, tmp_path: Path) -> None:
    own = ARCHITECTURES[family]
    base, one = family_of(tmp_path, getattr(transformers, f"{family}Config")(**sizes(**own)))
    merger = Merger([str(one)], str(base))
    recipe = stack((base, 0, 1), (one, 1, 2), (one, 1, 2), (base, 1, 3), (one, 3, 4), base=base)
    sources = [0, 1, 1, 1, 2, 3]
    merger.merge(recipe)
    types = own.get("layer_types")
    if types:
        assert merger.config.layer_types == [types[source] for source in sources]
    # mergekit leaves layer_types as they were, which transformers then refuses to write: after the weights.
    with suppress(StrictDataclassClassValidationError):
        on_disk(recipe, tmp_path / "mergekit")
    expected = load_file(tmp_path / "mergekit" / "model.safetensors")
    merger.save(tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    assert set(saved) == set(expected)
    assert_same(saved, expected)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(logits(loaded), logits(merger.model))
    for model in (loaded, merger.model):
        assert_cache_agrees(model)


def test_windows_decide_what_a_repeated_layer_sees(tmp_path: Path) -> None:
    """The same layers under other types give other logits: the types are no mere entry of the config."""
    base, one = family_of(tmp_path, transformers.Qwen2Config(**sizes(**ARCHITECTURES["Qwen2"])))
    merger = Merger([str(one)], str(base))
    merger.merge(stack((base, 0, 2), (base, 1, 4), base=base))
    right = logits(merger.model)
    merger.config.layer_types = [FULL] * 5
    assert not torch.allclose(logits(merger.model), right)


def test_a_config_that_cannot_describe_the_stack_fails_the_candidate_only(tmp_path: Path) -> None:
    """GPT-Neo's config says in pairs which layers are local, and its layers number themselves in their own way."""
    own = {key: value for key, value in sizes().items() if key in ("vocab_size", "hidden_size", "pad_token_id")}
    config = transformers.GPTNeoConfig(
        **own, num_layers=4, num_heads=2, attention_types=[[["global", "local"], 2]], max_position_embeddings=64
    )
    base, one = family_of(tmp_path, config)
    merger = Merger([str(one)], str(base))
    with pytest.raises(MergeFailed, match="layers: GPTNeoConfig cannot say of layer 1"):
        merger.merge(stack((base, 0, 1), (one, 2, 4), base=base))
    merger.merge(stack((base, 0, 1), (one, 1, 4), base=base))
    merger.load_parent(str(one))
    assert torch.equal(logits(merger.model), logits(AutoModelForCausalLM.from_pretrained(one)))


def test_room_is_asked_for_the_deepest(merger: Merger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    merger.load_parent(merger.parents[0])
    layer = sum(tensor.nbytes for name, tensor in live(merger).items() if ".layers.0." in name)
    whole = sum(tensor.nbytes for tensor in live(merger).values())
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, int(1.03 * (whole + 99 * layer)) + 2**24))
    merger.check_space(tmp_path, 99)
    with pytest.raises(RunError, match="free to save"):
        merger.check_space(tmp_path, 110)
