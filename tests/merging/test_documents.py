"""Recipes of several documents against the real mergekit-multi."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from merge3_plugin.errors import ConfigError
from merge3_plugin.evolve.recipe import candidate_id, to_yaml
from merge3_plugin.merging.execution import Execution
from merge3_plugin.merging.fused import Passes
from merge3_plugin.merging.merger import Merger
from merge3_plugin.testing import TINY_ALPHABET, make_tiny_family, make_tiny_llama, make_tiny_tokenizer
from tests.mergekit_command import assert_same_weights, by_command

Recipe = dict[str, Any]


def slices(models: list[Path], n_layers: int, base_of_slice: Path | None = None, **parameters: Any) -> list[Recipe]:
    """A slice for each layer; lists of parameters go to the models one by one, the others to the slice."""
    own = {name: value for name, value in parameters.items() if isinstance(value, tuple)}
    shared = {name: value for name, value in parameters.items() if name not in own}
    made = []
    for layer in range(n_layers):
        sources = [
            {"model": str(model), "layer_range": [layer, layer + 1]}
            | ({"parameters": {name: values[i] for name, values in own.items()}} if own else {})
            for i, model in enumerate(models)
        ]
        made.append({"sources": sources, "parameters": shared} | _base(base_of_slice))
    return made


def _base(model: Path | None) -> Recipe:
    return {"base_model": str(model)} if model else {}


def four_methods(models: list[Path], dtype: str = "float32", chosen: str = "slts", **settings: Any) -> Recipe:
    """A merge by each method of layer-wise fusion, and a layer from each that ``chosen`` names by its letter."""
    base, first, second, third = models
    n_layers = len(chosen)
    by_name = [{"filter": "self_attn", "value": 0.2}, {"filter": "mlp", "value": 0.9}, {"value": 0.6}]
    everyone = [first, second, third, base]
    merges = {
        "by-linear": {"merge_method": "linear", "slices": slices(everyone[:3], n_layers, weight=(0.2, by_name, 0.7))},
        "by-task": {
            "merge_method": "task_arithmetic",
            "slices": slices(everyone, n_layers, **{"lambda": by_name}),
            "parameters": {"weight": 1.0, "normalize": False},
        },
        "by-ties": {
            "merge_method": "ties",
            "slices": slices(everyone, n_layers, density=by_name, **{"lambda": 0.8}),
            "parameters": {"weight": 1.0, "normalize": True},
        },
        "by-slerp": {"merge_method": "slerp", "slices": slices([third, first], n_layers, third, t=by_name)},
    }
    names = {"l": "by-linear", "t": "by-task", "i": "by-ties", "s": "by-slerp"}
    return {
        "merges": {name: merge | _base(base) | {"dtype": dtype} | settings for name, merge in merges.items()},
        "select": {
            "merge_method": "passthrough",
            "slices": [
                {"sources": [{"model": names[letter], "layer_range": [layer, layer + 1]}]}
                for layer, letter in enumerate(chosen)
            ],
            "base_model": "by-linear",
        },
    }


@pytest.mark.parametrize(
    ("dtype", "tied", "chosen"), [("float32", False, "litsl"), ("bfloat16", False, "stil"), ("float32", True, "ts")]
)
def test_weights_are_those_of_the_command_in_the_file(
    dtype: str, tied: bool, chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = len(chosen)
    base, *models = make_tiny_family(
        tmp_path / "models", 3, seed=5, hidden=16, layers=layers, dtype=dtype, tie_embeddings=tied
    )
    merger = Merger(list(map(str, models)), str(base), random_seed=3)
    recipe = four_methods([base, *models], dtype, chosen)
    merger.merge(recipe)
    merger.save(tmp_path / "ours")
    text = to_yaml(recipe, random_seed=3, flags=merger.flags)
    assert text.startswith("# mergekit-multi best_config.yaml --out-path final_model ")
    assert_same_weights(tmp_path / "ours", by_command(text, tmp_path, monkeypatch))
    # A folder with a merge's name, and merges of an earlier recipe, change nothing.
    (tmp_path / "by-linear").mkdir()
    other = four_methods([base, *models], dtype, chosen[::-1])
    merger.merge(other)
    merger.save(tmp_path / "other")
    assert_same_weights(tmp_path / "other", by_command(to_yaml(other, random_seed=3), tmp_path, monkeypatch))


def test_vocabularies_are_joined_in_each_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    larger, shuffled = make_tiny_tokenizer(extra_tokens=["<tool>"]), make_tiny_tokenizer(TINY_ALPHABET[::-1])
    tokenizers = {"base": None, "larger": larger, "shuffled": shuffled, "other": larger}
    models = [
        make_tiny_llama(tmp_path / name, seed, **({"tokenizer": tokenizer} if tokenizer else {}))
        for seed, (name, tokenizer) in enumerate(tokenizers.items())
    ]
    source = str(models[1])
    merger = Merger(list(map(str, models[1:])), str(models[0]), tokenizer_source=source)
    for chosen in ("sl", "ts"):
        recipe = four_methods(models, chosen=chosen, tokenizer_source=source)
        merger.merge(recipe)
        merger.save(tmp_path / f"ours {chosen}")
        final = by_command(to_yaml(recipe, random_seed=0), tmp_path, monkeypatch)
        assert_same_weights(tmp_path / f"ours {chosen}", final)
        assert AutoTokenizer.from_pretrained(final).get_vocab() == merger.tokenizer.get_vocab()


def test_each_tensor_is_merged_once_by_the_document_that_is_selected(
    tiny_models: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    merger = Merger([str(path) for path in tiny_models[1:]], str(tiny_models[0]))
    merged: list[tuple[str, str]] = []
    inner = Execution.write

    def counting(self: Execution, job: Any, out: torch.Tensor, passes: Passes) -> Any:
        merged.append((job.output.name, job.settings.config.merge_method))
        return inner(self, job, out, passes)

    monkeypatch.setattr(Execution, "write", counting)
    merger.merge(four_methods(tiny_models, chosen="is"))
    assert Counter(name for name, _ in merged) == Counter(merger.model.state_dict().keys())
    for name, method in merged:
        first = "embed_tokens" in name or "layers.0." in name
        assert method == ("ties" if first else "slerp"), name


def test_identity_follows_the_merges_and_the_selection_not_where_the_parents_lie() -> None:
    here, there = ([Path(folder) / name for name in ("base", "a", "b", "c")] for folder in ("here", "there"))

    def identity(parents: list[Path], chosen: str = "sl", **settings: Any) -> str:
        return candidate_id(four_methods(parents, chosen=chosen, **settings), list(map(str, parents)))

    assert identity(here) == identity(there)
    assert len({identity(here), identity(here, "ls"), identity(here, dtype="bfloat16")}) == 3


def _without(recipe: Recipe, *path: Any) -> None:
    *parents, last = path
    for key in parents:
        recipe = recipe[key]
    del recipe[last]


def _with(recipe: Recipe, value: Any, *path: Any) -> None:
    *parents, last = path
    for key in parents:
        recipe = recipe[key]
    recipe[last] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("select",), None, "recipe: expected one that mergekit accepts"),
        (("select", "merge_method"), "linear", "select other than a passthrough"),
        (("select", "dtype"), "bfloat16", "select other than a passthrough"),
        (("select", "parameters"), {"scale": 2.0}, "select other than a passthrough"),
        (("select", "slices", 0, "sources", 0, "parameters"), {"scale": 2.0}, "select of 'by-slerp'"),
        (("select", "slices", 1, "sources", 0, "model"), "by-magic", "select of 'by-magic', where each .* by-linear"),
        (("select", "slices", 1, "sources", 0, "layer_range"), [0, 1], r"select with layers \[0, 0\]"),
        (("merges", "by-ties", "slices", 1), None, r"by-ties with layers \[0\]"),
        (("merges", "by-ties", "merge_method"), "dare_ties", "by-ties with dare_ties, which draws at random"),
        (("merges", "by-slerp", "slices", 0, "sources", 0), None, "recipe: "),
    ],
)
def test_documents_that_cannot_be_are_one_line(
    path: tuple[Any, ...], value: Any, message: str, tiny_models: list[Path]
) -> None:
    recipe = four_methods(tiny_models, chosen="sl")
    _without(recipe, *path) if value is None else _with(recipe, value, *path)
    merger = Merger([str(model) for model in tiny_models[1:]], str(tiny_models[0]))
    with pytest.raises(ConfigError, match=message) as error:
        merger.merge(recipe)
    assert "\n" not in str(error.value)
