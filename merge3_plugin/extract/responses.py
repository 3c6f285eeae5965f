"""Responses of several models on one benchmark: from lm-eval's sample logs, or from an ``.npz``."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from merge3_plugin.domain import FloatArray, ResponseMatrix
from merge3_plugin.errors import DataError, nearest
from merge3_plugin.extract.group_scores import balance as group_balance
from merge3_plugin.extract.group_scores import count_alike
from merge3_plugin.extract.language import check_language
from merge3_plugin.extract.logged_runs import check_settings, leaves_behind, newest, provenance_of, tasks_of
from merge3_plugin.extract.logs import Answer, Pair, Samples, find_logs

# What numpy and zipfile raise on damaged bytes, such as a compression or a size that there is not.
_DAMAGED = (
    OSError, EOFError, ValueError, AttributeError, TypeError, KeyError, RuntimeError, MemoryError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip

DEFAULT_METRIC: Pair = ("acc", "none")  # mergekit-evolve's default too


@dataclass(frozen=True, eq=False)
class Responses:
    """A response matrix and where it comes from.

    ``item_hashes`` (n_items) are content hashes of the documents, None where they were not seen. ``provenance`` is
    plain JSON: task, metric, filter, language, num_fewshot, chat_template (lm-eval's hash, None without one),
    dataset_path, dataset_name, revision, split, n_documents, models and files (name and sha256). A key is absent where
    the logs do not tell, and a mapping by leaf task where the leaves of a group differ. ``notes`` are lines that a
    person should read.
    """

    matrix: ResponseMatrix
    item_hashes: tuple[str, ...] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_responses(
    sources: Iterable[str | Path],
    task: str,
    *,
    metric: str | None = None,
    filter_name: str | None = None,
    id_field: str | None = None,
    base: Sequence[str] = (),
    language: str | None = None,
    balance: Callable[[Sequence[str]], FloatArray | None] | None = None,
) -> Responses:
    """Answers of every model in ``sources`` on a task or group.

    ``sources`` are files and folders (searched whole) of ``lm_eval --log_samples``, or one ``.npz``. One (metric,
    filter) is read: the one named, else acc without a filter, else the only one that scores single items. Items are
    sorted by id, so the order of the logs does not matter; for a group an id is ``leaf/id`` and the leaf is the item's
    group. ``base`` names the tasks or groups that ``task`` asks, if it is an anchor task: their logs come first. An
    item that a model was not asked (``--limit``) is NaN. Of several runs of a task by one model the newest is read.
    Generated answers in another ``language`` (ISO 639 code) than this one score nothing, whatever the logs say of them.
    ``balance`` gives, for items, how much each counts; without it the sub-tasks of a group count as in lm-eval's own
    score of the group.

    Raises DataError when logs do not fit together: few-shot counts, templates, task versions, prompts or documents that
    differ between models, a task, metric or filter that is not there, non-finite or out-of-range scores.
    """
    paths = [Path(source) for source in sources]
    if any(path.suffix == ".npz" for path in paths):
        if len(paths) > 1:
            raise DataError(f"responses: expected one .npz or lm-eval's logs, got {len(paths)} sources; name one .npz")
        return read_npz(paths[0], task)
    if language is not None:
        check_language(task, language)
    logs = find_logs(paths)
    leaves, group = leaves_behind(logs, task, base)
    chosen, notes = newest([log for log in logs if log.task in leaves])
    for leaf in leaves:
        if leaf not in tasks_of(chosen):
            raise DataError(f"{task}: expected samples of its task {leaf!r}, got none{nearest(leaf, tasks_of(logs))}")
        check_settings([log for log in chosen if log.task == leaf])
    table = _Table(f"{task}: ")
    pair: Pair | None = None
    files = []
    for log in chosen:
        samples = Samples(log, language)
        pair = pair or choose_pair(samples, metric, filter_name)
        choose_pair(samples, *pair)  # the same one must be in every log
        for item, answer in samples.answers(*pair, id_field).items():
            table.add(log.model, f"{log.task}/{item}" if group is not None else item, log.task, answer)
        files.append({"name": f"{log.path.parent.name}/{log.path.name}", "sha256": samples.sha256})
    alike = group is not None and pair is not None and count_alike(chosen, group, leaves, pair)
    matrix, hashes = table.build(group is not None, balance, alike)
    provenance = provenance_of(chosen, task, pair)
    provenance |= {"language": language, "models": list(matrix.model_ids), "files": files}
    return Responses(matrix, hashes, provenance, (*notes, *_missing(matrix, provenance["n_documents"])))


def read_npz(path: str | Path, task: str) -> Responses:
    """Responses from an ``.npz`` of ``values`` (n_models, n_items), ``model_ids`` and, optionally, ``item_ids``,
    ``item_groups``, ``soft`` and ``balance``, as in `ResponseMatrix`. Without ``item_ids`` an item is called by its
    column. Raises DataError for anything else."""
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as loaded:
            arrays = {name: _as_text(loaded[name]) for name in loaded.files}
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        raise DataError(f"{path}: expected an .npz of responses, got no such file") from None
    except _DAMAGED as error:
        raise DataError(f"{path}: expected an .npz of plain arrays, got: {' '.join(str(error).split())}") from None
    for name in ("values", "model_ids"):
        if name not in arrays:
            raise DataError(f"{path}: expected an array {name!r}, got {', '.join(sorted(arrays)) or 'none'}")
    values, models = arrays["values"], arrays["model_ids"]
    item_ids = arrays.get("item_ids", np.arange(values.shape[-1] if values.ndim else 0))
    groups = arrays.get("item_groups")
    for name, array in (("model_ids", models), ("item_ids", item_ids), ("item_groups", groups)):
        if array is not None and array.ndim != 1:
            raise DataError(f"{path}: expected {name} in one dimension, got shape {array.shape}")
    try:
        matrix = ResponseMatrix(
            values, models, item_ids, groups, soft=arrays.get("soft"), balance=arrays.get("balance")
        )
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    provenance = {
        "task": task,
        "models": list(matrix.model_ids),
        "n_documents": matrix.n_items,
        "files": [{"name": path.name, "sha256": sha256}],
    }
    return Responses(matrix, None, provenance)


def _as_text(array: np.ndarray) -> np.ndarray:
    """``array``, names in bytes (as HDF5 has them) decoded; str() of them would be "b'name'"."""
    return np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array


def choose_pair(samples: Samples, metric: str | None, filter_name: str | None) -> Pair:
    """The (metric, filter) to read from a log. Raises DataError, listing what is there, unless exactly one fits."""
    pairs = samples.pairs()
    fitting = [(m, f) for m, f in pairs if metric in (None, m) and filter_name in (None, f) and (metric or pairs[m, f])]
    if len(fitting) == 1:
        return fitting[0]
    if DEFAULT_METRIC in fitting:
        return DEFAULT_METRIC
    there = ", ".join(f"--metric {m} --filter {f}" for m, f in sorted(p for p in pairs if pairs[p]))
    if not there:
        whole = ", ".join(sorted({m for m, _ in pairs}))
        there = f"none, for {whole} belong to the whole set, and are no accuracies to estimate"
    asked = " and ".join(
        f"{what} {name!r}" for what, name in (("metric", metric), ("filter", filter_name)) if name is not None
    )
    raise DataError(
        f"{samples.log.path.name}: expected one metric and filter that score single items"
        f"{f', {asked}' if asked else ''}, got {len(fitting)}; there are: {there}"
    )


class _Table:
    """Collects answers and refuses an item whose document or prompt differs between models."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._answers: dict[str, dict[str, Answer]] = {}
        self._first: dict[str, tuple[str, Answer]] = {}
        self._groups: dict[str, str] = {}

    def add(self, model: str, item: str, group: str, answer: Answer) -> None:
        other, first = self._first.setdefault(item, (model, answer))
        for what, mine, theirs in (
            ("document", answer.item_hash, first.item_hash),
            ("prompt", answer.prompt_hash, first.prompt_hash),
        ):
            if None not in (mine, theirs) and mine != theirs:
                raise DataError(
                    f"{self._where}expected the same {what} for all models, got different ones for item {item!r} in "
                    f"the logs of {other!r} and {model!r}; run both on one data set, template and few-shot count"
                )
        self._groups[item] = group
        self._answers.setdefault(model, {})[item] = answer

    def build(
        self, grouped: bool, balance: Callable[[Sequence[str]], FloatArray | None] | None, alike: bool
    ) -> tuple[ResponseMatrix, tuple[str, ...]]:
        items, models = sorted(self._first), sorted(self._answers)
        found = [[self._answers[model].get(item) for item in items] for model in models]
        values = np.array([[np.nan if answer is None else answer.score for answer in row] for row in found])
        soft = np.array([[np.nan if answer is None else answer.soft for answer in row] for row in found])
        groups = [self._groups[item] for item in items]
        weights = balance(items) if balance is not None else group_balance(groups) if alike else None
        matrix = ResponseMatrix(
            values,
            models,
            items,
            groups if grouped else None,
            soft=None if np.isnan(soft).all() else soft,
            balance=weights,
        )
        return matrix, tuple(self._first[item][1].item_hash for item in items)


def _missing(matrix: ResponseMatrix, n_documents: int | None) -> list[str]:
    notes = []
    for model, row in zip(matrix.model_ids, matrix.values, strict=True):
        asked = int((~np.isnan(row)).sum())
        if asked < matrix.n_items:
            notes.append(f"{model}: answered {asked:,} of {matrix.n_items:,} items; the others count as not asked")
    if n_documents is not None and matrix.n_items < n_documents:
        notes.append(
            f"the logs hold {matrix.n_items:,} of the task's {n_documents:,} items: estimates will speak of those alone"
        )
    return notes
