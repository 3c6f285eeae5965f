"""Parents' answers of earlier runs: used where they would be the very same, and nowhere else."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from merge3_plugin.config import load_config
from merge3_plugin.evolve import reuse, user_cache
from merge3_plugin.evolve.reuse import Known, Reuse
from merge3_plugin.evolve.serving import vllm_identity
from merge3_plugin.evolve.setup import Flags, load_tasks
from merge3_plugin.evolve.store import RunStore
from merge3_plugin.evolve.user_cache import UserCache
from merge3_plugin.harness.scoring import Scorer, Scores
from merge3_plugin.merging.merger import Merger
from merge3_plugin.testing import make_tiny_tokenizer
from tests.evolve.world import canonical, evolve_here, make_world


@pytest.fixture(scope="module")
def config(tiny_models: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"), tiny_models, reuse=True)


def spent(out: Path) -> Mapping[str, Any]:
    store = RunStore.open(out)
    found = store.spent()["parents"]
    store.close()
    return found


def test_a_second_run_takes_the_parents_answers_and_finds_the_same(
    config: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = evolve_here(config, tmp_path / "alone", merge3__reuse=False)
    assert evolve_here(config, tmp_path / "first")["cost"] == alone["cost"]
    caplog.set_level("INFO")
    again = evolve_here(config, tmp_path / "again")
    assert "the same answers as in an earlier run" in caplog.text
    record = canonical(tmp_path / "alone").replace('"reuse": false', '"reuse": true')
    assert canonical(tmp_path / "first") == canonical(tmp_path / "again") == record
    assert spent(tmp_path / "first")["items"] == 4 * 150 and spent(tmp_path / "first")["reused"] == 0
    assert (spent(tmp_path / "again")["items"], spent(tmp_path / "again")["tokens"]) == (0, 0)
    assert spent(tmp_path / "again")["reused"] == again["cost"]["reused_items"] == 4 * 150
    assert again["cost"]["items"] == alone["cost"]["items"] - 4 * 150
    assert {**again, "cost": None} == {**alone, "cost": None}
    # They are in the record: without the cache the run is the same one, and another seed or space may have them, too.
    shutil.rmtree(Path(os.environ["MERGE3_HOME"]) / "answers")
    assert evolve_here(config, tmp_path / "again", merge3__reuse=False) == again
    evolve_here(config, tmp_path / "anew", merge3__search__max_fevals=9)
    assert spent(tmp_path / "anew")["reused"] == 0
    other = evolve_here(config, tmp_path / "other", merge3__seed=5, genome__merge_method="ties", merge3__anchors=10)
    assert other["cost"]["reused_items"] == 4 * 150


class Asked:
    """The key under which one parent's answers to a task are kept, in a world that may be changed."""

    def __init__(self, folder: Path, models: list[Path]) -> None:
        self.folder = folder
        for model in models:
            shutil.copytree(model, folder / model.name)
        self.config = make_world(folder, [folder / model.name for model in models])
        self.task = folder / "tasks" / "tiny_sum.yaml"

    def key(self, items: slice = slice(None), tokenizer_source: str | None = None, **changes: Any) -> str:
        kept: list[str] = []

        class Keys(UserCache):
            def keep(self, kind: str, key: str, value: Any) -> None:
                kept.extend([key] if kind == reuse.ANSWERS else [])

        changed = {key.replace("__", "."): value for key, value in changes.items()}
        read = load_config(self.config, changed)
        batch_size = read.merge3.eval.batch_size
        benchmarks = load_tasks(read, Flags(task_search_path=(str(self.folder / "tasks"),)))
        names = read.genome.parents()
        merger = Merger(
            names, read.genome.base_model, tokenizer_source=tokenizer_source, dtype=read.merge3.dtype, device="cpu"
        )
        scorer = Scorer(
            benchmarks,
            merger.model,
            merger.tokenizer,
            batch_size=batch_size,
            apply_chat_template=bool(read.apply_chat_template),
            system_instruction=read.merge3.eval.system_instruction,
        )
        known = Reuse(
            Keys(self.folder / "none"),
            merger,
            scorer,
            benchmarks,
            batch_size=batch_size,
            tokenizer_source=tokenizer_source,
            vllm=vllm_identity(read),
        )
        asked = list(benchmarks["tiny_sum"].item_ids)[items]
        known.keep(names[0], {"tiny_sum": asked}, [], Known({"tiny_sum": Scores(dict.fromkeys(asked, 1.0), {})}))
        (key,) = kept
        return key

    def replace(self, old: str, new: str) -> None:
        text = self.task.read_text()
        assert old in text
        self.task.write_text(text.replace(old, new))


@pytest.fixture
def asked(tmp_path: Path, tiny_models: list[Path]) -> Iterator[Asked]:
    from merge3_plugin.harness import loading

    yield Asked(tmp_path, tiny_models)
    loading._scan.cache_clear()


def one_weight(asked: Asked) -> None:
    file = asked.folder / "model_1" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] += 2**-20
    save_file(tensors, file, metadata={"format": "pt"})


def one_token(asked: Asked) -> None:
    for model in ("base", "model_1", "model_2", "model_3"):
        file = asked.folder / model / "tokenizer.json"
        content = json.loads(file.read_text())
        vocabulary = content["model"]["vocab"]
        vocabulary["k"], vocabulary["j"] = vocabulary["j"], vocabulary["k"]
        file.write_text(json.dumps(content))


def the_tokenizer_of_the_base(asked: Asked) -> None:
    """The run's, with the vocabulary of the others."""
    file = asked.folder / "base" / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "normalizer": {"type": "Lowercase"}}))


def the_config_of_the_base(asked: Asked) -> None:
    file = asked.folder / "base" / "config.json"
    file.write_text(file.read_text().replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'))


def the_chat_template(asked: Asked) -> None:
    for model in ("base", "model_1", "model_2", "model_3"):
        make_tiny_tokenizer(chat_template="{{ messages[0]['content'] }}").save_pretrained(asked.folder / model)


def one_document(asked: Asked) -> None:
    data = asked.folder / "data.jsonl"
    first, *rest = data.read_text().splitlines(keepends=True)
    document = json.loads(first)
    data.write_text(json.dumps({**document, "label": (document["label"] + 1) % 4}) + "\n" + "".join(rest))


def the_metric(asked: Asked) -> None:
    asked.replace("{metric: acc,", "{metric: acc_norm,")
    raw = yaml.safe_load(asked.config.read_text())
    asked.config.write_text(yaml.safe_dump({**raw, "tasks": [{"name": "tiny_sum", "metric": "acc_norm,none"}]}))


WORLDS = {
    "one weight": one_weight,
    "one token": one_token,
    "the tokenizer of the base": the_tokenizer_of_the_base,
    "the config of the base": the_config_of_the_base,
    "the chat template": the_chat_template,
    "one document": one_document,
    "the metric": the_metric,
    "the prompt": lambda asked: asked.replace('{{prompt}}="', '{{prompt}} ="'),
    "the delimiter": lambda asked: asked.replace('target_delimiter: ""', 'target_delimiter: " "'),
    "the version": lambda asked: asked.replace("version: 1", "version: 2"),
}


@pytest.mark.parametrize("change", WORLDS)
def test_no_answers_cross_to_another_model_or_task(asked: Asked, change: str) -> None:
    before = asked.key()
    WORLDS[change](asked)
    assert asked.key() != before


SETTINGS: list[dict[str, Any]] = [
    {"merge3__dtype": "bfloat16"},
    {"merge3__eval__batch_size": 8},
    {"num_fewshot": 2},
    {"merge3__eval__system_instruction": "Add."},
    {"items": slice(1, None)},
    {"tokenizer_source": "union"},
    {"genome__models": "model_2"},
]


@pytest.mark.parametrize("change", SETTINGS, ids=lambda change: next(iter(change)))
def test_no_answers_cross_to_other_settings(asked: Asked, change: dict[str, Any]) -> None:
    before = asked.key()
    if "genome__models" in change:
        change = {"genome__models": [str(asked.folder / "model_2")]}
    if "num_fewshot" in change:
        asked.replace("num_fewshot: 0\n", "fewshot_split: test\n")
        before = asked.key(num_fewshot=0)
    assert asked.key(**change) != before


@pytest.mark.parametrize("what", ["threads", "library", "own code"])
def test_no_answers_cross_to_other_arithmetic(asked: Asked, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = asked.key()
    assert asked.key() == before
    if what == "threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    elif what == "library":
        version = reuse.metadata.version
        monkeypatch.setattr(reuse.metadata, "version", lambda name: version(name) + "1" * (name == "torch"))
    else:
        monkeypatch.setattr(reuse, "_own_code", lambda: "other")
    assert asked.key() != before


def test_no_answers_cross_between_vllm_and_transformers(asked: Asked, vllm: None) -> None:
    eager = {"merge3__eval__model": "vllm", "merge3__eval__model_args__enforce_eager": True}
    assert len({asked.key(), asked.key(merge3__eval__model="vllm"), asked.key(**eager)}) == 3


def test_the_key_is_the_same_elsewhere_and_for_other_searches(asked: Asked, tmp_path: Path) -> None:
    before = asked.key()
    changes = {
        "merge3__seed": 3,
        "merge3__anchors": 5,
        "genome__merge_method": "linear",
        "merge3__search__max_fevals": 9,
    }
    assert asked.key(**changes) == before
    for model in ("base", "model_1", "model_2", "model_3"):
        shutil.copytree(asked.folder / model, tmp_path / "elsewhere" / model)
    raw = yaml.safe_load(asked.config.read_text())
    raw["genome"]["models"] = [str(tmp_path / "elsewhere" / "model_1"), str(asked.folder / "model_3")]
    raw["genome"]["base_model"] = str(tmp_path / "elsewhere" / "base")
    asked.config.write_text(yaml.safe_dump(raw))
    assert asked.key() == before
    (asked.folder / "model_1" / "README.md").write_text("other words")
    assert asked.key() == before


def test_a_spoilt_or_unwritable_cache_is_ignored(
    config: Path, tmp_path: Path, merge3_home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    few = {"merge3__search__max_fevals": 9}
    first = evolve_here(config, tmp_path / "first", **few)
    kept = sorted((merge3_home / "answers").rglob("*.json"))
    assert len(kept) == 4 and not list(merge3_home.rglob("tmp*"))
    kept[0].write_text(kept[0].read_text()[:100])
    kept[1].write_text(kept[1].read_text().replace("1.0", "0.0"))
    kept[2].write_text("[]")
    again = evolve_here(config, tmp_path / "again", **few)
    assert again["cost"]["reused_items"] == 150 and caplog.text.count("got a spoilt file; it is not used") == 3
    assert {**again, "cost": None} == {**first, "cost": None}
    shutil.rmtree(merge3_home)
    merge3_home.write_text("a file where the folder should be")
    nowhere = evolve_here(config, tmp_path / "nowhere", **few)
    assert nowhere == first and caplog.text.count("expected to keep something there") == 1
    assert caplog.text.count("spoilt") == 3


def test_the_digest_of_a_file_is_computed_once_for_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    chunks = user_cache._chunks
    monkeypatch.setattr(user_cache, "_chunks", lambda path: read.append(path) or chunks(path))
    cache, file = UserCache(tmp_path / "cache"), tmp_path / "model.safetensors"
    file.write_bytes(b"a" * 100)
    first = cache.digest(file)
    assert cache.digest(file) == first and len(read) == 2, "too new to be trusted"
    monkeypatch.setattr(user_cache, "_SETTLED", -1)
    assert [cache.digest(file) for _ in range(3)] == [first] * 3 and len(read) == 3
    times = file.stat()
    file.write_bytes(b"a" * 99 + b"b")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert cache.digest(file) != first, "of the same size and time stamp"


def test_runs_may_keep_the_same_at_the_same_time(tmp_path: Path) -> None:
    first, second = UserCache(tmp_path), UserCache(tmp_path)
    for cache in (first, second, first):
        cache.keep("answers", "abc", {"right": {"q": 1 / 3}})
    assert first.find("answers", "abc") == second.find("answers", "abc") == {"right": {"q": 1 / 3}}
    assert first.find("answers", "abd") is None
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["abc.json"]
