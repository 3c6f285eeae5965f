"""lm-eval's ``--log_samples`` files as they lie on disk: which there are, under what settings, and what they hold."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from merge3_plugin.errors import DataError, nearest
from merge3_plugin.extract.items import content_hash, item_ids

Pair = tuple[str, str]  # (metric, filter)

# Our own anchor tasks log the pair (item id, score) under each of their metrics; this one stands for all.
ANCHOR_METRIC = "merge3_acc"


@dataclass(frozen=True)
class SampleLog:
    """One ``samples_<task>_<date>.jsonl`` and the ``results_<date>.json`` of the same run (empty where it is missing).

    ``model`` is the name under which lm-eval ran the model, with its revision, else the folder's name.
    """

    path: Path
    task: str
    date: str
    model: str
    results: Mapping[str, Any]

    @property
    def settings(self) -> dict[str, Any]:
        """What must agree between logs before their answers may be compared; empty without a results file."""
        if not self.results:
            return {}
        config = self.config
        shots = self.results.get("n-shot", {}).get(self.task)
        template = self.results.get("chat_template_sha")
        return {
            "few-shot count": shots,
            "chat template": template,
            "system instruction": self.results.get("system_instruction_sha"),
            "fewshot_as_multiturn": bool(self.results.get("fewshot_as_multiturn")) if shots and template else None,
            "task version": self.results.get("versions", {}).get(self.task),
            "generation_kwargs": config.get("generation_kwargs"),
        }

    @property
    def config(self) -> Mapping[str, Any]:
        """The task's configuration as lm-eval ran it; empty without a results file."""
        return self.results.get("configs", {}).get(self.task, {})

    @property
    def n_documents(self) -> int | None:
        """Documents of the task before ``--limit``, where the results file tells."""
        return self.results.get("n-samples", {}).get(self.task, {}).get("original")


@dataclass(frozen=True)
class Answer:
    """One model's score on one item (NaN: not scored by this metric), and hashes of the document and its prompt."""

    score: float
    item_hash: str
    prompt_hash: str | None


class Samples:
    """The lines of one log. Raises DataError for a file that is unreadable, torn, or not lm-eval's."""

    def __init__(self, log: SampleLog) -> None:
        self.log = log
        digest = hashlib.sha256()
        self._lines: list[dict[str, Any]] = []
        try:
            with log.path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    digest.update(line)
                    if line.strip():
                        self._lines.append(_parse(line, f"{log.path}, line {number}"))
        except OSError as error:
            raise DataError(f"{log.path}: expected a readable sample log, got: {error.strerror}") from None
        if not self._lines:
            raise DataError(f"{log.path}: expected samples, got an empty file; run lm_eval --log_samples again")
        self.sha256 = digest.hexdigest()

    def pairs(self) -> dict[Pair, bool]:
        """Every (metric, filter) of the log; True where each value is a score of one item in [0, 1] (or NaN)."""
        found: dict[Pair, bool] = {}
        for line in self._lines:
            for metric, value in line["values"].items():
                score = _score(metric, value)
                fits = score is not None and not (score < 0 or score > 1)
                pair = (metric, line["filter"])
                found[pair] = found.get(pair, True) and fits
        return found

    def answers(self, metric: str, filter_name: str, id_field: str | None) -> dict[str, Answer]:
        """Answer of each item by id. Raises DataError for NaN, for scores outside [0, 1], and for unusable ids."""
        lines = [line for line in self._lines if line["filter"] == filter_name]
        # Equal documents may have different few-shot prompts: their ordinals must not depend on the order of lines.
        lines.sort(key=lambda line: line["prompt_hash"] or "")
        try:
            ids = self._ids(lines, metric, id_field)
        except DataError as error:
            raise DataError(f"{self.log.path.name}: {error}") from None
        answers = {}
        for item, line in zip(ids, lines, strict=True):
            what = f"model {self.log.model!r}, task {self.log.task!r}, item {item!r}"
            if not line["finite"]:
                raise DataError(f"{what}: expected finite log-likelihoods, got NaN or infinity; leave this model out")
            score = _score(metric, line["values"][metric]) if metric in line["values"] else math.nan
            if score is None or (metric in line["values"] and not 0 <= score <= 1):
                raise DataError(
                    f"{what}: expected a score in [0, 1] from {metric!r}, got {line['values'][metric]!r}; "
                    "choose a metric that scores single items"
                )
            answers[item] = Answer(score, content_hash(line["doc"]), line["prompt_hash"])
        return answers

    @staticmethod
    def _ids(lines: Sequence[Mapping[str, Any]], metric: str, id_field: str | None) -> list[str]:
        if metric == ANCHOR_METRIC:  # a log of anchors cannot tell doubled documents or leaves; the task could
            return [str(line["values"][metric][0]) for line in lines]
        return item_ids([line["doc"] for line in lines], id_field)


def _parse(line: bytes, where: str) -> dict[str, Any]:
    """The part of a sample that is kept; its prompts and answers are most of a log and are not."""
    try:
        sample = json.loads(line)
        for field, kind in (("doc", dict), ("filter", str), ("prompt_hash", str | None)):
            if not isinstance(sample.get(field), kind):
                raise TypeError(f"unexpected {field!r}")
        return {
            "doc": sample["doc"],
            "filter": sample["filter"],
            "prompt_hash": sample.get("prompt_hash"),
            "values": {metric: sample[metric] for metric in sample["metrics"]},
            "finite": _finite(sample.get("filtered_resps", ())),
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{where}: expected a sample of lm_eval >= 0.4.8 --log_samples, got {type(error).__name__}: {error}; "
            "the file is damaged or of another tool: run that model again"
        ) from None


def _score(metric: str, value: Any) -> float | None:
    """A metric's value for one sample as a number; None for the tuples and lists of metrics over the whole set."""
    if metric == ANCHOR_METRIC and isinstance(value, list) and len(value) == 2:
        value = value[1]
    return float(value) if isinstance(value, int | float) else None


def _finite(responses: Iterable[Any]) -> bool:
    """False where a logged (log-likelihood, is greedy) is not finite; lm-eval takes that for a plain wrong answer."""
    pairs = [r for r in responses if isinstance(r, list) and len(r) == 2 and str(r[1]) in ("True", "False")]
    return not any(str(pair[0]) in ("nan", "inf", "-inf") for pair in pairs)


def find_logs(sources: Iterable[str | Path]) -> list[SampleLog]:
    """Every sample log among files and, recursively, folders; sorted by path. Raises DataError where there is none."""
    paths: dict[Path, None] = {}
    for source in map(Path, sources):
        if source.is_dir():
            found = sorted(source.rglob("samples_*.jsonl"))
            if not found:
                raise DataError(f"{source}: expected samples_*.jsonl of lm_eval --log_samples, got none in this folder")
        elif source.is_file():
            found = [source]
        else:
            raise DataError(f"{source}: expected a folder or file of logs, got nothing there{_sibling(source)}")
        paths.update(dict.fromkeys(path.resolve() for path in found))
    load = cache(_results)  # one results file serves every task of its run
    return [_log(path, load) for path in sorted(paths)]


def _sibling(path: Path) -> str:
    return nearest(path.name, [p.name for p in path.parent.iterdir()]) if path.parent.is_dir() else ""


def _log(path: Path, load: Callable[[Path], Mapping[str, Any]]) -> SampleLog:
    stem, _, date = path.stem.rpartition("_")
    if path.suffix != ".jsonl" or not stem.startswith("samples_"):
        raise DataError(f"{path}: expected a file named samples_<task>_<date>.jsonl, or an .npz of responses")
    # `--output_path out` writes results_<date>.json, `--output_path name.json` writes name_<date>.json.
    results = next((load(p) for p in sorted(path.parent.glob(f"*_{date}.json"))), {})
    model = str(results.get("model_name") or path.parent.name)
    revision = results.get("config", {}).get("model_revision")
    if revision not in (None, "", "main"):
        model = f"{model}@{revision}"
    return SampleLog(path, stem.removeprefix("samples_"), date, model, results)


def _results(path: Path) -> Mapping[str, Any]:
    try:
        loaded = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: expected lm_eval's results, got: {error}; move the file away to go without") from None
    sections = loaded if isinstance(loaded, Mapping) else {"results": loaded}
    for name in ("config", "configs", "group_subtasks", "n-samples", "n-shot", "results", "versions"):
        if not isinstance(sections.get(name, {}), Mapping):
            raise DataError(
                f"{path}: expected lm_eval's results, got no mapping in {name!r}; move the file away to go without"
            )
    return sections
