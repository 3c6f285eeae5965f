"""Parents by the headers of their files: as they are once they are loaded, and what is wrong with them."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest

from merge3_plugin.errors import ModelError
from merge3_plugin.merging.merger import Merger
from merge3_plugin.merging.outline import read_outline
from merge3_plugin.merging.sketch import Size, Sketch
from merge3_plugin.testing import TINY_ALPHABET, TINY_CHAT_TEMPLATE, make_tiny_llama, make_tiny_tokenizer


def sketch(models: list[Path], dtype: str = "auto", tokenizer_source: str | None = None) -> Sketch:
    names = [str(model) for model in models]
    return read_outline(names, names[0], dtype=dtype, tokenizer_source=tokenizer_source).sketch


@pytest.mark.parametrize("dtypes", [("float32", "float32"), ("bfloat16", "bfloat16"), ("bfloat16", "float32")])
@pytest.mark.parametrize("tied", [(False, False), (True, True), (True, False), (False, True)])
@pytest.mark.parametrize("dtype", ["auto", "float16"])
def test_a_sketch_is_what_is_loaded_then(
    tmp_path: Path, dtypes: tuple[str, str], tied: tuple[bool, bool], dtype: str
) -> None:
    models = [
        make_tiny_llama(tmp_path / f"m{i}", i, dtype=of, tie_embeddings=ties)
        for i, (of, ties) in enumerate(zip(dtypes, tied, strict=True))
    ]
    found, merger = sketch(models, dtype), Merger([str(m) for m in models], str(models[0]), dtype=dtype, device="cpu")
    assert found.live == merger._live.size() and found.live + 3 * found.layer == merger._live.size(3)
    assert found.tensor == max(tensor.nbytes for tensor in merger.tensors.values())
    assert found.parameters == sum(parameter.numel() for parameter in merger.model.parameters())
    assert found.dtype_name == merger.dtype_name and found.chat_templates == merger.chat_templates
    assert found.own_head == tuple(str(m) for m, ties in zip(models, tied, strict=True) if not ties)
    for of, size in zip(dtypes, found.sizes.values(), strict=True):
        assert (size.mapped > 0) == (of == merger.dtype_name) and (size.copied > 0) == (of != merger.dtype_name)
        assert max(size.mapped, size.copied) == found.live
        assert size.files == found.parameters * (2 if of == "bfloat16" else 4)


def test_large_models_are_sketched_from_their_headers(tmp_path: Path) -> None:
    model = make_tiny_llama(tmp_path / "big", 0)
    config = json.loads((model / "config.json").read_text())
    config["vocab_size"] = 3 * 10**7
    (model / "config.json").write_text(json.dumps(config))
    file = model / "model.safetensors"
    (length,) = struct.unpack("<Q", file.read_bytes()[:8])
    header = {k: v for k, v in json.loads(file.read_bytes()[8 : 8 + length]).items() if k != "__metadata__"}
    end = 0
    for name, entry in header.items():
        entry["shape"] = [3 * 10**7, 32] if "embed" in name or "lm_head" in name else entry["shape"]
        size = 4 * entry["shape"][0] * (entry["shape"] + [1])[1]
        entry["data_offsets"] = [end, end + size]
        end += size
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text)
    with file.open("ab") as stream:
        stream.truncate(8 + len(text) + end)  # a hole in the file: nothing is there to be read
    assert sketch([model, model]).live == end > 7 * 10**9


def shortened(path: Path) -> None:
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def lacking(path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(path / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path / "model.safetensors")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (shortened, "expected readable weights, got: "),
        (lacking, "expected tensor model.layers.1.mlp.up_proj.weight as in the other parents, got none"),
        (lambda path: make_tiny_llama(path, 1, hidden=48), "expected model.embed_tokens.weight of shape"),
        (lambda path: make_tiny_llama(path, 1, layers=3), "expected 2 layers as in .*, got 3"),
        (lambda path: make_tiny_llama(path, 1, vocab_size=200), "expected a vocabulary of 123 as in .*, got 200"),
        (
            lambda path: make_tiny_llama(path, 1, tokenizer=make_tiny_tokenizer(TINY_ALPHABET[::-1])),
            "expected the vocabulary of .*base., got another id for token",
        ),
    ],
)
def test_parents_that_do_not_fit_are_found_as_when_they_are_loaded(
    tmp_path: Path, tiny_models: list[Path], spoil, words: str
) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_models[1], other)
    spoil(other)
    with pytest.raises(ModelError, match=f"model .*other.*: {words}"):
        sketch([tiny_models[0], other])
    with pytest.raises(ModelError, match="other"):
        Merger([str(tiny_models[0]), str(other)], str(tiny_models[0]))


def test_a_tokenizer_source_makes_vocabularies_no_matter(tmp_path: Path, tiny_models: list[Path]) -> None:
    other = make_tiny_llama(
        tmp_path / "o", 1, tokenizer=make_tiny_tokenizer(TINY_ALPHABET + "é", chat_template=TINY_CHAT_TEMPLATE)
    )
    found = sketch([tiny_models[0], other], tokenizer_source="union")
    assert list(found.chat_templates.values()) == [None, TINY_CHAT_TEMPLATE]


def test_a_model_on_the_hub_is_known_by_its_config_until_it_is_downloaded(
    tmp_path: Path, tiny_models: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = tmp_path / "cached"
    cached.mkdir()
    shutil.copy(tiny_models[0] / "config.json", cached)
    asked: list[list[str]] = []

    def download(name: str, *, allow_patterns: list[str], **_: object) -> str:
        asked.append(allow_patterns)
        return str(cached)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    whole = sketch(tiny_models[:2]).live
    mixed = sketch([Path("org/model"), tiny_models[1]])
    assert mixed.away == ("org/model",) and mixed.live == whole and set(mixed.sizes.values()) == {Size(*[whole] * 2, 0)}
    alone = sketch([Path("org/model"), Path("org/other")])
    assert len(alone.away) == 2 and alone.live == whole and alone.tokenizer is None
    assert asked and not any("*.safetensors" in patterns for patterns in asked)
    shutil.copytree(tiny_models[0], cached, dirs_exist_ok=True)
    assert sketch([Path("org/model"), tiny_models[1]]).away == ()
