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

from merge3_plugin.checks import unique
from merge3_plugin.errors import DataError, nearest
from merge3_plugin.extract.items import content_hash, item_ids
from merge3_plugin.extract.language import foreign
from merge3_plugin.extract.logged_choice import logged_choice, logged_soft_scores
from merge3_plugin.extract.results import RunResults, SampleCount, TaskSettings, read_results

Pair = tuple[str, str]  # (metric, filter)

# Our own anchor tasks log (item id, score, soft score) under each of their metrics; this one stands for all.
ANCHOR_METRIC = "merge3_acc"


@dataclass(frozen=True)
class SampleLog:
    """One ``samples_<task>_<date>.jsonl`` and the ``results_<date>.json`` of the same run (None where it is missing).

    ``model`` is the name under which lm-eval ran the model, with its revision, else the folder's name.
    """

    path: Path
    task: str
    date: str
    model: str
    results: RunResults | None

    @property
    def settings(self) -> dict[str, Any]:
        """What must agree between logs before their answers may be compared; empty without a results file."""
        results = self.results
        if results is None:
            return {}
        shots, template = results.n_shot.get(self.task), results.chat_template_sha
        return {
            "few-shot count": shots,
            "chat template": template,
            "system instruction": results.system_instruction_sha,
            "fewshot_as_multiturn": bool(results.fewshot_as_multiturn) if shots and template else None,
            "task version": results.versions.get(self.task),
            "generation_kwargs": self.config.generation_kwargs,
        }

    @property
    def config(self) -> TaskSettings:
        """The task's configuration as lm-eval ran it; lm-eval's defaults without a results file."""
        return TaskSettings() if self.results is None else self.results.configs.get(self.task, TaskSettings())

    @property
    def n_documents(self) -> int | None:
        """Documents of the task before ``--limit``, where the results file tells."""
        return None if self.results is None else self.results.n_samples.get(self.task, SampleCount()).original

    def less_is_better(self, metric: str) -> bool:
        """Whether the results file says so of this metric."""
        return self.results is not None and self.results.higher_is_better.get(self.task, {}).get(metric) is False

    @property
    def target_delimiter(self) -> str:
        """What lm-eval wrote before every option: with a chat template nothing, unless the answer has begun."""
        config = self.config
        begun = config.gen_prefix and not config.gen_prefix[-1].isspace()
        templated = self.results is not None and self.results.chat_template_sha is not None
        return "" if templated and not begun else config.target_delimiter


@dataclass(frozen=True)
class Answer:
    """One model's score on one item (NaN: not scored by this metric), and hashes of the document and its prompt.

    ``soft`` is the probability given to the right option, NaN where the log does not tell it.
    """

    score: float
    item_hash: str
    prompt_hash: str | None
    soft: float


class Samples:
    """The lines of one log; answers in another ``language`` than this one score nothing.

    Raises DataError for a file that is unreadable, torn, or not lm-eval's, and for a language where nothing was
    generated.
    """

    def __init__(self, log: SampleLog, language: str | None = None) -> None:
        self.log, self._language = log, language
        digest = hashlib.sha256()
        self._lines: list[dict[str, Any]] = []
        try:
            with log.path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    digest.update(line)
                    if line.strip():
                        self._lines.append(_parse(line, f"{log.path}, line {number}", language))
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
        """Answer of each item by id.

        Raises DataError for NaN, for scores outside [0, 1], for unusable ids, and for a language under a metric of
        which less is better.
        """
        if self._language is not None and self.log.less_is_better(metric):
            raise DataError(
                f"task {self.log.task!r}: expected a language only for a metric of which more is better, got "
                f"{metric!r}, in which no score is the best; leave the language out or name another metric"
            )
        lines = [line for line in self._lines if line["filter"] == filter_name]
        # Equal documents may have different few-shot prompts: their ordinals must not depend on the order of lines.
        lines.sort(key=lambda line: line["prompt_hash"] or "")
        try:
            ids = self._ids(lines, metric, id_field)
        except DataError as error:
            raise DataError(f"{self.log.path.name}: {error}") from None
        scores = [self._checked_score(item, line, metric) for item, line in zip(ids, lines, strict=True)]
        soft = self._soft(lines, scores, metric)
        return {
            item: Answer(score, content_hash(line["doc"]), line["prompt_hash"], graded)
            for item, line, score, graded in zip(ids, lines, scores, soft, strict=True)
        }

    def _checked_score(self, item: str, line: Mapping[str, Any], metric: str) -> float:
        what = f"model {self.log.model!r}, task {self.log.task!r}, item {item!r}"
        if not line["finite"]:
            raise DataError(f"{what}: expected finite log-likelihoods, got NaN or infinity; leave this model out")
        if metric not in line["values"]:
            return math.nan
        score = _score(metric, line["values"][metric])
        if score is None or not 0 <= score <= 1:
            raise DataError(
                f"{what}: expected a score in [0, 1] from {metric!r}, got {line['values'][metric]!r}; "
                "choose a metric that scores single items: one of the whole set is never estimated"
            )
        return 0.0 if line["foreign"] else score

    def _soft(self, lines: Sequence[Mapping[str, Any]], scores: Sequence[float], metric: str) -> list[float]:
        if metric == ANCHOR_METRIC:
            return [_anchor_soft(line["values"][metric]) for line in lines]
        return logged_soft_scores(metric, [line["choice"] for line in lines], scores, self.log.target_delimiter)

    @staticmethod
    def _ids(lines: Sequence[Mapping[str, Any]], metric: str, id_field: str | None) -> Sequence[str]:
        if metric == ANCHOR_METRIC:  # a log of anchors cannot tell doubled documents or leaves; the task could
            if not all(_is_anchor(line["values"].get(metric)) for line in lines):
                raise DataError(
                    f"expected [item, score, soft score] under {metric!r} in every line; the log is damaged"
                )
            return unique((line["values"][metric][0] for line in lines), "item ids")
        return item_ids([line["doc"] for line in lines], id_field)


def _parse(line: bytes, where: str, language: str | None) -> dict[str, Any]:
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
            "choice": logged_choice(sample),
            "foreign": language is not None and _foreign(sample["resps"], language, where),
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{where}: expected a sample of lm_eval >= 0.4.8 --log_samples, got {type(error).__name__}: {error}; "
            "the file is damaged or of another tool: run that model again"
        ) from None


def _foreign(responses: Sequence[Sequence[Any]], language: str, where: str) -> bool:
    texts = [text for of_request in responses for text in of_request]
    if not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where}: expected generated answers for the language check, got none; leave the language out")
    return foreign(texts, language)


def _score(metric: str, value: Any) -> float | None:
    """A metric's value for one sample as a number; None for the tuples and lists of metrics over the whole set."""
    if metric == ANCHOR_METRIC:
        value = value[1] if _is_anchor(value) else None
    # JSON knows whole numbers that no float holds.
    return float(value) if isinstance(value, float) or value in (0, 1) else None


def _is_anchor(value: Any) -> bool:
    """Whether this is what our own anchor tasks log: the soft score is of a later release."""
    return isinstance(value, list) and len(value) in (2, 3) and isinstance(value[0], str)


def _anchor_soft(value: Sequence[Any]) -> float:
    """The soft score that our own anchor task logged, NaN for none."""
    soft = value[2] if len(value) == 3 else None
    return float(soft) if isinstance(soft, int | float) and 0 <= soft <= 1 else math.nan


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
    load = cache(read_results)  # one results file serves every task of its run
    return [_log(path, load) for path in sorted(paths)]


def _sibling(path: Path) -> str:
    return nearest(path.name, [p.name for p in path.parent.iterdir()]) if path.parent.is_dir() else ""


def _log(path: Path, load: Callable[[Path], RunResults]) -> SampleLog:
    stem, _, date = path.stem.rpartition("_")
    if path.suffix != ".jsonl" or not stem.startswith("samples_"):
        raise DataError(f"{path}: expected a file named samples_<task>_<date>.jsonl, or an .npz of responses")
    # `--output_path out` writes results_<date>.json, `--output_path name.json` writes name_<date>.json.
    results = next((load(p) for p in sorted(path.parent.glob(f"*_{date}.json"))), None)
    model = (None if results is None else results.model_name) or path.parent.name
    revision = None if results is None else results.config.model_revision
    if revision not in (None, "", "main"):
        model = f"{model}@{revision}"
    return SampleLog(path, stem.removeprefix("samples_"), date, model, results)
