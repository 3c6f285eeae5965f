"""The merger against the real mergekit: the same recipe, the same weights."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from merge3_plugin.errors import ConfigError, Merge3Error, ModelError, RunError
from merge3_plugin.merging import MergeFailed
from merge3_plugin.merging.merger import Merger
from merge3_plugin.testing import TINY_ALPHABET, make_tiny_family, make_tiny_llama, make_tiny_tokenizer

SEED = 7


def on_disk(recipe: Mapping[str, Any], folder: Path, **options: Any) -> dict[str, torch.Tensor]:
    """What mergekit-yaml writes for ``recipe``."""
    settings = MergeOptions(random_seed=SEED, quiet=True, write_model_card=False, **options)
    run_merge(MergeConfiguration.model_validate(recipe), str(folder), settings)
    return load_file(folder / "model.safetensors")


def live(merger: Merger) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in merger.model.state_dict().items()}


def assert_same(got: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    assert set(got) >= set(expected)
    for name, tensor in expected.items():
        assert got[name].dtype == tensor.dtype, name
        assert torch.equal(got[name], tensor), name


def models_recipe(
    method: str, models: list[Path], base: Path | None = None, dtype: str = "float32", **parameters: Any
) -> dict[str, Any]:
    """``parameters`` that are lists go to the models one by one, the others to the whole recipe."""
    listed = {name: value for name, value in parameters.items() if isinstance(value, list)}
    recipe: dict[str, Any] = {
        "merge_method": method,
        "models": [
            {"model": str(model), "parameters": {name: values[i] for name, values in listed.items()}}
            for i, model in enumerate(models)
        ],
        "parameters": {name: value for name, value in parameters.items() if name not in listed},
        "dtype": dtype,
    }
    return recipe | ({"base_model": str(base)} if base else {})


@pytest.fixture(scope="module")
def merger(tiny_models: list[Path]) -> Merger:
    base, *models = map(str, tiny_models)
    return Merger(models, base, random_seed=SEED)


TASK_ARITHMETIC = {"weight": [0.5, 0.3, 0.7], "density": [0.6, 0.4, 0.5]}
RECIPES = {
    "linear": {"weight": [0.5, 0.3, 0.4]},
    "task_arithmetic": {"weight": [0.5, -0.3, 0.4]},
    "ties": {**TASK_ARITHMETIC, "int8_mask": True},
    "dare_ties": {**TASK_ARITHMETIC, "normalize": True},
    "dare_linear": TASK_ARITHMETIC,
    "breadcrumbs": {**TASK_ARITHMETIC, "gamma": [0.1, 0.2, 0.05]},
    "breadcrumbs_ties": {**TASK_ARITHMETIC, "gamma": [0.1, 0.2, 0.05]},
    "della": {**TASK_ARITHMETIC, "epsilon": [0.1, 0.2, 0.05], "lambda": 1.1},
    "della_linear": {**TASK_ARITHMETIC, "epsilon": [0.1, 0.2, 0.05]},
    "multislerp": {"weight": [0.5, 0.3, 0.4]},
    "model_stock": {},
    "ram": {"epsilon": 0.01},
    "ramplus_tl": {"r": 0.4, "alpha": 0.5, "epsilon": 0.01},
    "sce": {"select_topk": 0.4},
    "karcher": {},
}
BASELESS = ("linear", "multislerp", "karcher")


@pytest.mark.parametrize("method", RECIPES)
def test_every_method_gives_the_weights_of_mergekit(
    method: str, merger: Merger, tiny_models: list[Path], tmp_path: Path
) -> None:
    base, *models = tiny_models
    recipe = models_recipe(method, models, None if method in BASELESS else base, **RECIPES[method])
    merger.merge(recipe)
    assert_same(live(merger), on_disk(recipe, tmp_path))


@pytest.mark.parametrize(
    ("method", "n_models", "parameters"),
    [
        ("slerp", 1, {"t": 0.3}),
        ("nearswap", 1, {"t": 0.01}),
        ("arcee_fusion", 1, {}),
        ("nuslerp", 2, {"weight": [0.6, 0.2]}),
        ("passthrough", 1, {"scale": [0.9]}),
    ],
)
def test_methods_of_two_models(
    method: str, n_models: int, parameters: dict[str, Any], merger: Merger, tiny_models: list[Path], tmp_path: Path
) -> None:
    base, *models = tiny_models
    recipe = models_recipe(method, models[:n_models], None if method == "passthrough" else base, **parameters)
    merger.merge(recipe)
    assert_same(live(merger), on_disk(recipe, tmp_path))


def test_layer_groups_filters_and_gradients(merger: Merger, tiny_models: list[Path], tmp_path: Path) -> None:
    base, first, second, third = map(str, tiny_models)

    def source(model: str, layer: int, weight: Any) -> dict[str, Any]:
        return {"model": model, "layer_range": [layer, layer + 1], "parameters": {"weight": weight, "density": 0.5}}

    by_name = [{"filter": "mlp", "value": 0.9}, {"filter": "norm", "value": 0.2}, {"value": 0.5}]
    slices = {
        "merge_method": "dare_ties",
        "base_model": base,
        "slices": [
            {
                "sources": [
                    source(first, layer, by_name if layer else 0.7),
                    source(second, layer, [0.1, 0.8]),
                    {"model": base, "layer_range": [layer, layer + 1]},
                ],
                "parameters": {"lambda": 0.5 + layer},
            }
            for layer in (0, 1)
        ],
        "parameters": {"normalize": False},
        "dtype": "float32",
    }
    gradients = models_recipe("della", [tiny_models[1], tiny_models[3]], tiny_models[0], **TASK_ARITHMETIC)
    gradients["models"][0]["parameters"] = {"weight": [0.1, 0.9], "density": [{"filter": "mlp", "value": 0.6}]}
    for number, recipe in enumerate((slices, gradients)):
        merger.merge(recipe)
        assert_same(live(merger), on_disk(recipe, tmp_path / str(number)))
    assert third


def test_slices_of_other_layers(merger: Merger, tiny_models: list[Path], tmp_path: Path) -> None:
    base, first, _, _ = map(str, tiny_models)

    def slice_(ranges: list[list[int]]) -> dict[str, Any]:
        models = ((first, ranges[0]), (base, ranges[1]))
        sources: list[dict[str, Any]] = [{"model": model, "layer_range": span} for model, span in models]
        sources[0]["parameters"] = {"weight": 0.8, "density": 0.5}
        return {"sources": sources}

    recipe = {
        "merge_method": "dare_ties",
        "base_model": base,
        "slices": [slice_([[1, 2], [0, 1]]), slice_([[0, 1], [1, 2]])],
        "dtype": "float32",
    }
    merger.merge(recipe)
    assert_same(live(merger), on_disk(recipe, tmp_path))
    for ranges, message in (([[1, 3], [0, 2]], "within 2 layers"), ([[0, 0], [1, 1]], "slices without a layer")):
        recipe["slices"] = [slice_(ranges)]
        with pytest.raises(ConfigError, match=message):
            merger.merge(recipe)


def test_random_methods_follow_mergekits_order_beyond_ten_layers(tmp_path: Path) -> None:
    base, *models = make_tiny_family(tmp_path / "models", 2, seed=3, hidden=8, layers=11)
    merger = Merger(list(map(str, models)), str(base), random_seed=SEED)
    recipe = models_recipe("dare_ties", models, base, weight=[0.5, 0.4], density=[0.5, 0.6])
    merger.merge(recipe)
    assert_same(live(merger), on_disk(recipe, tmp_path / "merged"))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "ties", "dare_ties", "della"])
def test_half_precision(method: str, dtype: str, tiny_models: list[Path], tmp_path: Path) -> None:
    base, *models = tiny_models
    merger = Merger(list(map(str, models)), str(base), dtype=dtype, random_seed=SEED)
    recipe = models_recipe(method, models, None if method == "linear" else base, dtype, **RECIPES[method])
    merger.merge(recipe)
    assert merger.dtype_name == dtype
    assert_same(live(merger), on_disk(recipe, tmp_path))


@pytest.mark.parametrize("family", ["Qwen2", "Mixtral", "OPT"])
def test_other_architectures(family: str, tmp_path: Path) -> None:
    """Tied embeddings, experts, and one whose tensors mergekit has to infer."""
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    if family == "OPT":
        sizes |= {"ffn_dim": 32, "word_embed_proj_dim": 16, "max_position_embeddings": 64}
    else:
        sizes |= {"intermediate_size": 32, "num_key_value_heads": 2, "tie_word_embeddings": family == "Qwen2"}
    tokenizer = make_tiny_tokenizer()
    config = getattr(transformers, f"{family}Config")(vocab_size=len(tokenizer), **sizes)
    folders = [tmp_path / name for name in ("base", "one", "two")]
    with torch.random.fork_rng(devices=[]):
        for seed, folder in enumerate(folders):
            torch.manual_seed(seed)
            AutoModelForCausalLM.from_config(config).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    base, *models = folders
    merger = Merger(list(map(str, models)), str(base), random_seed=SEED)
    recipe = models_recipe("dare_ties", models, base, weight=[0.5, 0.4], density=[0.5, 0.6])
    merger.merge(recipe)
    merger.save(tmp_path / "saved")
    expected = on_disk(recipe, tmp_path / "merged")
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    assert set(saved) == set(expected)
    assert_same(saved, expected)
    ids = tokenizer("1+2=", return_tensors="pt").input_ids
    with torch.no_grad():
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
        assert torch.equal(merger.model(ids).logits, loaded(ids).logits)


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"device": "tpu7"}, "device: "), ({"random_seed": 2**32}, "seed: "), ({"dtype": "int8"}, "dtype")],
)
def test_settings_that_cannot_be(setting: dict[str, Any], message: str, tiny_models: list[Path]) -> None:
    with pytest.raises(Merge3Error, match=message) as error:
        Merger([str(tiny_models[1])], str(tiny_models[0]), **setting)
    assert "\n" not in str(error.value)


def test_dtype_auto_is_the_parents_own(tmp_path: Path) -> None:
    base, model = make_tiny_family(tmp_path, 1, dtype="bfloat16")
    merger = Merger([str(model)], str(base))
    assert merger.dtype_name == "bfloat16"
    assert merger.model.dtype == torch.bfloat16


def test_tied_embeddings_stay_tied(tmp_path: Path) -> None:
    base, *models = make_tiny_family(tmp_path / "models", 2, tie_embeddings=True)
    merger = Merger(list(map(str, models)), str(base), random_seed=SEED)
    recipe = models_recipe("dare_ties", models, base, weight=[0.5, 0.4], density=[0.5, 0.6])
    merger.merge(recipe)
    expected = on_disk(recipe, tmp_path / "merged")
    assert "lm_head.weight" not in expected
    assert_same(live(merger), expected)
    assert merger.model.lm_head.weight is merger.model.model.embed_tokens.weight
    merger.save(tmp_path / "saved")
    assert_same(load_file(tmp_path / "saved" / "model.safetensors"), expected)


def test_a_parent_with_an_output_layer_of_its_own_gives_the_merge_one(tmp_path: Path) -> None:
    base, *models = make_tiny_family(tmp_path / "models", 2, tie_embeddings=True)
    tensors = load_file(models[0] / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] * 1.5
    save_file(tensors, models[0] / "model.safetensors", metadata={"format": "pt"})
    merger = Merger(list(map(str, models)), str(base), random_seed=SEED)
    recipe = models_recipe("dare_ties", models, base, weight=[0.5, 0.4], density=[0.5, 0.6])
    merger.merge(recipe)
    expected = on_disk(recipe, tmp_path / "merged")
    assert not torch.equal(expected["lm_head.weight"], expected["model.embed_tokens.weight"])
    assert_same(live(merger), expected)


def test_the_callers_generators_and_the_parents_files_stay_as_they_were(
    merger: Merger, tiny_models: list[Path]
) -> None:
    base, *models = tiny_models
    files = [(folder / "model.safetensors").read_bytes() for folder in tiny_models]
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()
    recipe = models_recipe("dare_ties", models, base, **TASK_ARITHMETIC)
    merger.merge(recipe)
    first = live(merger)
    torch.rand(3)
    changed = torch.get_rng_state()
    merger.merge(recipe)
    assert_same(live(merger), first)  # every candidate draws from the run's seed
    assert torch.equal(changed, torch.get_rng_state())
    assert not torch.equal(changed, torch_state)
    assert str(numpy_state) == str(np.random.get_state())
    assert python_state == random.getstate()
    assert files == [(folder / "model.safetensors").read_bytes() for folder in tiny_models]


def test_load_parent(merger: Merger, tiny_models: list[Path]) -> None:
    for folder in tiny_models:
        merger.load_parent(str(folder))
        assert_same(live(merger), load_file(folder / "model.safetensors"))
    with pytest.raises(ModelError, match="did you mean"):
        merger.load_parent(str(tiny_models[1]) + "x")


def test_a_saved_model_is_a_normal_folder(merger: Merger, tiny_models: list[Path], tmp_path: Path) -> None:
    base, *models = tiny_models
    recipe = models_recipe("ties", models, base, **TASK_ARITHMETIC)
    merger.merge(recipe)
    merger.save(tmp_path / "deep" / "model")
    folder = tmp_path / "deep" / "model"
    assert_same(load_file(folder / "model.safetensors"), on_disk(recipe, tmp_path / "disk"))
    assert {file.name for file in folder.iterdir()} >= {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("質問: 1+2\n答え:", return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.equal(model(ids).logits, merger.model(ids).logits)


def test_saving_without_room_writes_nothing(merger: Merger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="got a file"):
        merger.save(tmp_path / "file")
    full = type(shutil.disk_usage(tmp_path))(10**9, 10**9 - 1000, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(RunError, match="free to save"):
        merger.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_weights_that_are_not_finite_fail_the_candidate_only(merger: Merger, tiny_models: list[Path]) -> None:
    models = tiny_models[1:]
    with pytest.raises(MergeFailed, match="finite weights"):
        merger.merge(models_recipe("linear", models, weight=[0.0, 0.0, 0.0]))
    with pytest.raises(MergeFailed, match="Epsilon"):
        merger.merge(
            models_recipe("della", models, tiny_models[0], weight=[1, 1, 1], density=[0.1] * 3, epsilon=[0.5] * 3)
        )
    merger.merge(models_recipe("linear", models, weight=[1.0, 0.0, 0.0]))
    assert_same(live(merger), load_file(models[0] / "model.safetensors"))


@pytest.mark.parametrize("method", ["linear", "ties", "dare_linear"])
def test_a_parent_that_is_not_finite_spoils_the_candidate(method: str, tiny_models: list[Path], tmp_path: Path) -> None:
    """Though no weight of it may be left when deltas are thinned out."""
    base, first, second, _ = tiny_models
    broken = tmp_path / "broken"
    shutil.copytree(second, broken)
    tensors = load_file(broken / "model.safetensors")
    tensors["model.norm.weight"][3] = float("inf")
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    merger = Merger([str(first), str(broken)], str(base), random_seed=SEED)
    recipe = models_recipe(method, [first, broken], base, weight=[0.5, 0.5], density=[0.5, 0.01])
    recipe["models"].append({"model": str(base), "parameters": {"weight": 0.1}})
    with pytest.raises(MergeFailed, match=r"finite weights, got NaN or infinity in model\.norm\.weight"):
        merger.merge(recipe)


def test_a_recipe_in_another_dtype_than_the_parents(merger: Merger, tiny_models: list[Path], tmp_path: Path) -> None:
    """Is merged as mergekit merges it, then converted to what the live model holds."""
    base, *models = tiny_models
    recipe = models_recipe("task_arithmetic", models, base, "bfloat16", weight=[0.5, -0.3, 0.4])
    merger.merge(recipe)
    expected = {name: tensor.float() for name, tensor in on_disk(recipe, tmp_path).items()}
    assert_same(live(merger), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"merge_method": "tise"}, "Unimplemented merge method tise"),
        ({"base_model": None}, "requires a base"),
        ({"models": [{"model": "elsewhere"}]}, "'elsewhere', which is not among the parents"),
        ({"models": None}, "recipe: "),
    ],
)
def test_recipes_that_are_not_valid_here(
    change: dict[str, Any], message: str, merger: Merger, tiny_models: list[Path]
) -> None:
    base, *models = tiny_models
    recipe = models_recipe("ties", models, base, **TASK_ARITHMETIC) | change
    with pytest.raises(ConfigError, match=message) as error:
        merger.merge({key: value for key, value in recipe.items() if value is not None})
    assert "\n" not in str(error.value)


# -- vocabularies -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_vocabularies(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base, a model that knows one word more, and one whose characters have other ids."""
    folder = tmp_path_factory.mktemp("two_vocabularies")
    larger = make_tiny_tokenizer(extra_tokens=["<tool>"])
    shuffled = make_tiny_tokenizer(TINY_ALPHABET[::-1])
    base = make_tiny_llama(folder / "base", 1)
    return [
        base,
        make_tiny_llama(folder / "larger", 2, tokenizer=larger),
        make_tiny_llama(folder / "shuffled", 3, tokenizer=shuffled),
    ]


def test_vocabularies_that_differ_need_a_tokenizer_source(two_vocabularies: list[Path]) -> None:
    base, larger, shuffled = map(str, two_vocabularies)
    for other in (larger, shuffled):
        with pytest.raises(ModelError, match=r"vocabulary.*tokenizer_source") as error:
            Merger([other], base)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("source", ["union", "base", "larger"])
def test_reembedding_is_mergekits(source: str, two_vocabularies: list[Path], tmp_path: Path) -> None:
    base, larger, shuffled = two_vocabularies
    source = str(larger) if source == "larger" else source
    merger = Merger([str(larger), str(shuffled)], str(base), tokenizer_source=source, random_seed=SEED)
    recipe = models_recipe("dare_ties", [larger, shuffled], base, weight=[0.5, 0.4], density=[0.5, 0.6])
    recipe["tokenizer_source"] = source
    merger.merge(recipe)
    assert_same(live(merger), on_disk(recipe, tmp_path / "merged"))
    merger.save(tmp_path / "saved")
    tokens = AutoTokenizer.from_pretrained(tmp_path / "merged").get_vocab()
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").get_vocab() == tokens == merger.tokenizer.get_vocab()
    assert merger.config.vocab_size == len(tokens)


def test_reembedding_depends_on_who_takes_part(two_vocabularies: list[Path], tmp_path: Path) -> None:
    base, larger, shuffled = two_vocabularies
    merger = Merger([str(larger), str(shuffled)], str(base), tokenizer_source=str(larger), random_seed=SEED)
    for number, (one, other) in enumerate(((base, larger), (base, shuffled), (shuffled, larger))):
        recipe = models_recipe("slerp", [other], one, t=0.3) | {"tokenizer_source": str(larger)}
        merger.load_parent(str(one))
        merger.merge(recipe)
        assert_same(live(merger), on_disk(recipe, tmp_path / str(number)))


def test_a_reembedded_parent_answers_as_before(two_vocabularies: list[Path]) -> None:
    base, larger, shuffled = map(str, two_vocabularies)
    merger = Merger([larger, shuffled], base, tokenizer_source="base")
    merger.load_parent(shuffled)
    text = "最大: 3, 8 ="
    own = AutoTokenizer.from_pretrained(shuffled)
    with torch.no_grad():
        alone = AutoModelForCausalLM.from_pretrained(shuffled)(own(text, return_tensors="pt").input_ids).logits[0]
        ours = merger.model(merger.tokenizer(text, return_tensors="pt").input_ids).logits[0]
    for token in TINY_ALPHABET:
        there, here = own.convert_tokens_to_ids(token), merger.tokenizer.convert_tokens_to_ids(token)
        torch.testing.assert_close(ours[:, here], alone[:, there])


def test_chat_templates_are_known_by_parent(tmp_path: Path) -> None:
    base = make_tiny_llama(tmp_path / "base", 1)
    chat = make_tiny_llama(tmp_path / "chat", 2, tokenizer=make_tiny_tokenizer(chat_template="{{ messages }}"))
    assert Merger([str(chat)], str(base)).chat_templates == {str(base): None, str(chat): "{{ messages }}"}


# -- parents that do not fit ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("breakage", "message"),
    [
        ("missing", "expected a folder, got nothing there"),
        ("file", "got a file"),
        ("config", "expected config.json"),
        ("broken config", "expected readable JSON"),
        ("weights", "got no weights"),
        ("pickle", "got pickled weights"),
        ("damaged", "expected readable weights"),
        ("shard", "expected all its shards, got no model-00001"),
        ("tensor", "model.norm.weight"),
        ("architecture", "expected architecture LlamaForCausalLM"),
        ("layers", "expected 2 layers"),
        ("shape", "of shape"),
        ("plus", "rename the folder"),
    ],
)
def test_parents_that_do_not_fit_say_so_in_one_line(
    breakage: str, message: str, tiny_models: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / ("model" if breakage != "plus" else "model+lora")
    if breakage in ("layers", "shape"):
        make_tiny_llama(folder, 1, **({"layers": 3} if breakage == "layers" else {"hidden": 16}))
    elif breakage != "missing":
        shutil.copytree(tiny_models[1], folder)
    config, weights = folder / "config.json", folder / "model.safetensors"
    if breakage == "file":
        shutil.rmtree(folder)
        folder.write_text("not a folder")
    elif breakage == "config":
        config.unlink()
    elif breakage == "broken config":
        config.write_text("{")
    elif breakage in ("weights", "pickle"):
        weights.unlink()
        if breakage == "pickle":
            (folder / "pytorch_model.bin").write_bytes(b"\x80")
    elif breakage == "damaged":
        weights.write_bytes(weights.read_bytes()[:5000])
    elif breakage == "shard":
        names = dict.fromkeys(load_file(weights), "model-00001-of-00001.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    elif breakage == "tensor":
        tensors = {name: tensor for name, tensor in load_file(weights).items() if name != "model.norm.weight"}
        save_file(tensors, weights, metadata={"format": "pt"})
    elif breakage == "architecture":
        config.write_text(config.read_text().replace("LlamaForCausalLM", "MistralForCausalLM"))
    with pytest.raises(ModelError, match=message) as error:
        Merger([str(tiny_models[2]), str(folder)], str(tiny_models[0]))
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


def test_a_name_that_is_no_path_is_sought_on_the_hub(tiny_models: list[Path]) -> None:
    with pytest.raises(ModelError, match="or a model on the hub"):
        Merger(["merge3-tests/no-such-model"], str(tiny_models[0]))


def test_a_weight_that_mergekit_would_lose_is_an_error(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        attention_bias=True,
    )
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        LlamaForCausalLM(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    with pytest.raises(ModelError, match=r"q_proj\.bias, which would be lost"):
        Merger(list(map(str, folders)))
