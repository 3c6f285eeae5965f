"""Parents' answers of earlier runs, used again by runs in which the parents would give the very same ones.

What a model answers hangs on more than its weights, so all of it is in the key: the content of its files, the config
and the tokenizer of the live model, how and from what the task is asked, which items are asked together, dtype, batch
size, device, and the versions of the libraries and of our own code. Answers of merges stay in the run's record alone.
"""

from __future__ import annotations

import inspect
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge3_plugin.evolve.user_cache import UserCache, hash_of
from merge3_plugin.harness.benchmark import Benchmark
from merge3_plugin.harness.scoring import Scorer, Scores

if TYPE_CHECKING:
    from merge3_plugin.merging.merger import Merger

log = logging.getLogger(__name__)

ANSWERS = "answers"
# Of a model's folder, all that may bear on its answers.
_SUFFIXES = (".json", ".safetensors", ".jinja", ".model", ".txt", ".py")
_PACKAGES = ("lm_eval", "mergekit", "peft", "safetensors", "tokenizers", "torch", "transformers")
# Of our own code: what merges, asks and scores.
_OWN = ("harness", "merging", "extract")


@dataclass(frozen=True)
class Known:
    """Answers by task, and whole-benchmark values by task."""

    answers: Mapping[str, Scores] = field(default_factory=dict)
    whole: Mapping[str, float] = field(default_factory=dict)


class Reuse:
    """What ``cache`` knows of the parents' answers under the settings of one run.

    ``batch_size`` is the scorer's, ``vllm`` what answers hang on where that gives them. The tokenizer of ``merger`` and
    its live model are taken as they are now.
    """

    def __init__(
        self,
        cache: UserCache,
        merger: Merger,
        scorer: Scorer,
        benchmarks: Mapping[str, Benchmark],
        *,
        batch_size: int,
        tokenizer_source: str | None,
        vllm: Mapping[str, Any] | None = None,
    ) -> None:
        self._cache, self._merger, self._scorer, self._benchmarks = cache, merger, scorer, benchmarks
        self._together = tokenizer_source is not None  # then a parent's embeddings hang on the others, too
        self._setting = {
            "dtype": merger.dtype_name,
            "batch_size": batch_size,
            "tokenizer_source": tokenizer_source,
            "live model": _model(merger.model),
            "device": _device(merger.device),
            "vllm": vllm,
            "versions": {name: metadata.version(name) for name in _PACKAGES},
        }
        self._asked: dict[tuple[str, frozenset[str]], str] = {}
        self._told = False

    def find(self, parent: str, items: Mapping[str, Sequence[str]], whole: Sequence[str]) -> Known:
        """What is known of the ``items`` (task -> ids) and of the ``whole`` tasks.

        Tasks that share their documents are asked together, so they are known together or not at all.
        """
        answers: dict[str, Scores] = {}
        values: dict[str, float] = {}
        for members in self._groups(items, whole):
            found = {name: self._kept(parent, name, members, whole) for name in members}
            kept = {name: value for name, value in found.items() if value is not None}
            if len(kept) == len(members):
                answers |= {n: Scores(value["right"], value["soft"]) for n, value in kept.items() if n not in whole}
                values |= {name: value["value"] for name, value in kept.items() if name in whole}
        if (answers or values) and not self._told:
            log.info("parents: the same answers as in an earlier run are taken from there (merge3.reuse)")
            self._told = True
        return Known(answers, values)

    def keep(self, parent: str, items: Mapping[str, Sequence[str]], whole: Sequence[str], known: Known) -> None:
        """Keep what the parent answered when it was asked these, for later runs."""
        if self._scorer.halved:  # memory ran out: what was read together is another matter then
            return
        for members in self._groups(items, whole):
            for name in members:
                if name in whole:
                    value: dict[str, Any] = {"value": known.whole[name]}
                else:
                    value = {"right": dict(known.answers[name].right), "soft": dict(known.answers[name].soft)}
                identity = self._identity(parent, name, members, whole)
                self._cache.keep(ANSWERS, hash_of(identity), {"of": identity, **value})

    def _groups(self, items: Mapping[str, Sequence[str]], whole: Sequence[str]) -> list[dict[str, frozenset[str]]]:
        """The items that are asked together, by the tasks that they are asked for."""
        asked = {name: frozenset(ids) for name, ids in items.items()}
        asked |= {name: frozenset(self._benchmarks[name].item_ids) for name in whole}
        groups: dict[int, dict[str, frozenset[str]]] = {}
        for name, ids in asked.items():
            groups.setdefault(id(self._benchmarks[name].items.documents), {})[name] = ids
        return list(groups.values())

    def _kept(
        self, parent: str, name: str, members: Mapping[str, frozenset[str]], whole: Sequence[str]
    ) -> dict[str, Any] | None:
        if self._scorer.halved:
            return None
        kept = self._cache.find(ANSWERS, hash_of(self._identity(parent, name, members, whole)))
        if not isinstance(kept, dict):
            return None
        if name in whole:
            return kept if "value" in kept else None
        return kept if kept.get("right", {}).keys() == members[name] else None

    def _identity(
        self, parent: str, name: str, members: Mapping[str, frozenset[str]], whole: Sequence[str]
    ) -> dict[str, Any]:
        """All that the answers hang on."""
        everyone = self._merger.parents if self._together else ()
        return {
            **self._setting,
            "tokenizer": self._tokenizer,
            "code": _own_code(),
            "weights": self._content(parent),
            "vocabulary": [self._content(other) for other in everyone],
            "task": self._scorer.provenance(name),
            "kind": "whole" if name in whole else "items",
            "asked": self._how_asked(name, members[name]),
            "read together": hash_of(sorted(frozenset().union(*members.values()))),
        }

    @cached_property
    def _tokenizer(self) -> str:
        """The hash of what the tokenizer saves: vocabulary, merges, special tokens, chat template."""
        with tempfile.TemporaryDirectory() as folder:
            self._merger.tokenizer.save_pretrained(folder)
            return hash_of({path.name: path.read_text("utf-8") for path in Path(folder).rglob("*") if path.is_file()})

    def _content(self, parent: str) -> str:
        """The hash of all files of a parent that bear on its answers."""
        files = [
            (path.name, self._cache.digest(path))
            for folder in self._merger.folders(parent)
            for path in sorted(folder.glob("*"))
            if path.suffix in _SUFFIXES and path.is_file()
        ]
        return hash_of(files)

    def _how_asked(self, name: str, item_ids: frozenset[str]) -> str:
        """The hash of the items' documents, of what the model gets of them, and of how its responses are scored."""
        key = name, item_ids
        if key not in self._asked:
            items = self._benchmarks[name].items
            hashes = dict(zip(items.documents, items.hashes, strict=True))
            requests = self._scorer.requests(name)
            documents = [
                [item, hashes[item], [[asked.request_type, asked.args, asked.repeats] for asked in requests[item]]]
                for item in items.documents
                if item in item_ids
            ]
            leaves = {leaf: [task.config.to_dict(), _code_of(task)] for leaf, task in items.leaves.items()}
            self._asked[key] = hash_of([documents, leaves])
        return self._asked[key]


def _model(model: Any) -> str:
    config = {key: value for key, value in model.config.to_dict().items() if not key.startswith("_")}
    generation = getattr(model, "generation_config", None)
    return hash_of([config, generation.to_dict() if generation else None, str(type(model)), _source(type(model))])


def _device(device: Any) -> list[Any]:
    """What does the arithmetic: its last bits differ from one kind to another, and with the threads of a CPU."""
    import torch

    if device.type == "cuda":
        return [device.type, torch.cuda.get_device_name(device)]
    return [device.type, torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()]


@cache
def _own_code() -> str:
    root = Path(__file__).parents[1]
    files = [path for folder in _OWN for path in sorted((root / folder).glob("*.py"))]
    return hash_of([[str(path.relative_to(root)), path.read_text("utf-8")] for path in files])


def _code_of(task: Any) -> list[str | None]:
    """The source files of a task's own functions and of its class."""
    return [_source(type(task)), *map(_source, _functions(vars(task.config)))]


def _functions(value: Any) -> Iterator[Any]:
    if callable(value):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _functions(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _functions(one)


def _source(thing: Any) -> str | None:
    try:
        path = inspect.getsourcefile(inspect.unwrap(getattr(thing, "func", thing)))
        return None if path is None else hash_of(Path(path).read_text("utf-8"))
    except (TypeError, OSError):
        return None
