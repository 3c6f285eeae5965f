"""The calibration of each task of a run: from a file, from the logs of other models, or by the run itself."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from merge3_plugin.artifact import load_calibration, save_calibration
from merge3_plugin.calibrate import build_calibration, restrict
from merge3_plugin.config import LogsConfig, RunConfig
from merge3_plugin.domain import Calibration, FloatArray, ResponseMatrix
from merge3_plugin.errors import DataError
from merge3_plugin.evolve.population import Population, split_items
from merge3_plugin.harness.benchmark import Benchmark
from merge3_plugin.harness.calibrations import check_items, check_settings
from merge3_plugin.harness.scoring import Scorer, Scores

log = logging.getLogger(__name__)

AUTO = "auto"


def given_calibrations(
    config: RunConfig, benchmarks: Mapping[str, Benchmark], scorer: Scorer
) -> dict[str, Calibration]:
    """The calibrations that the config names, by task, each checked against the task's items and prompts.

    Tasks that the run calibrates by itself are absent. Raises DataError where a calibration is of other items or was
    made under other settings.
    """
    found = {}
    for name, benchmark in benchmarks.items():
        source = config.calibration_of(name)
        if source == AUTO:
            continue
        if isinstance(source, LogsConfig):
            calibration, path = _from_logs(source, benchmark, config), Path(source.logs[0])
        else:
            calibration, path = load_calibration(Path(source)), Path(source)
        check_items(calibration, benchmark.items, path)
        check_settings(calibration, scorer.provenance(name))
        found[name] = calibration
    return found


def _from_logs(source: LogsConfig, benchmark: Benchmark, config: RunConfig) -> Calibration:
    from merge3_plugin.extract.responses import read_responses

    items = benchmark.items
    read = read_responses(
        source.logs,
        benchmark.task,
        metric=items.metric,
        filter_name=items.filter,
        id_field=config.merge3.id_field,
        base=list(items.leaves),
        language=items.language,
        balance=benchmark.balance_of,
    )
    for note in read.notes:
        log.warning("merge3.calibration: %s", note)
    settings = config.merge3
    calibration = build_calibration(read.matrix, settings.anchors, seed=settings.seed, anchors=settings.anchor_method)
    return replace(calibration, item_hashes=read.item_hashes, provenance={**read.provenance, **calibration.provenance})


def keep(calibration: Calibration, folder: Path, objective: str) -> None:
    """Write the calibration of an objective into the run's folder, whatever characters its name has."""
    path = folder / "calibration" / f"{quote(objective, safe=',')}.safetensors"
    path.parent.mkdir(exist_ok=True)
    save_calibration(calibration, path)


def task_population(
    config: RunConfig, benchmarks: Mapping[str, Benchmark], objective: str, given: Mapping[str, Calibration]
) -> Population:
    """Which items of an objective the search may read; ``given`` are the calibrations that the config names."""
    return split_items(
        benchmarks[objective].item_ids,
        anchors=_task_anchors(given, benchmarks, objective),
        searchable=given[objective].item_ids if objective in given else None,
        groups=benchmarks[objective].item_groups,
        fraction=config.merge3.held_out,
        seed=config.merge3.seed,
        limit=config.limit,
    )


def _task_anchors(given: Mapping[str, Calibration], benchmarks: Mapping[str, Benchmark], objective: str) -> set[str]:
    """The anchors given for any metric of the objective's task.

    None of them may be held out of any: what one metric is searched on, no other is confirmed on.
    """
    task = benchmarks[objective].task
    alike = [given[name] for name, benchmark in benchmarks.items() if name in given and benchmark.task == task]
    return {item for calibration in alike for item in calibration.anchors.item_ids}


def answer_matrix(
    answers: Mapping[str, Scores], item_ids: Sequence[str], balance: FloatArray | None = None
) -> ResponseMatrix:
    """Answers by model as a matrix over these items; NaN where a model was not asked."""

    def table(kind: Sequence[Mapping[str, float]]) -> FloatArray:
        return np.array([[scores.get(item, np.nan) for item in item_ids] for scores in kind])

    soft = table([scores.soft for scores in answers.values()])
    return ResponseMatrix(
        table([scores.right for scores in answers.values()]),
        answers,
        item_ids,
        soft=None if np.isnan(soft).all() else soft,
        balance=balance,
    )


def search_calibration(
    given: Calibration | None,
    benchmark: Benchmark,
    provenance: Mapping[str, Any],
    search_items: Sequence[str],
    parents: ResponseMatrix,
    merges: Mapping[str, Scores],
    config: RunConfig,
    embeddings: FloatArray | None = None,
) -> Calibration:
    """The calibration of the search items: the given one restricted to them, else one from the run's own models.

    ``parents`` and ``merges`` (by candidate) are answers on the search items, and on them alone; ``embeddings`` are
    those items', (n_items, d).
    """
    if given is not None:
        return restrict(given, search_items)
    own = answer_matrix(merges, search_items) if merges else None
    everyone = parents if own is None else parents.joined(own)
    settings = config.merge3
    try:
        built = build_calibration(
            everyone,
            settings.anchors,
            seed=settings.seed,
            anchors=settings.anchor_method,
            parents=parents,
            embeddings=embeddings,
        )
    except DataError as error:
        raise DataError(f"task {benchmark.name}: {error}") from None
    hashes = dict(zip(benchmark.item_ids, benchmark.item_hashes, strict=True))
    return replace(
        built,
        item_hashes=tuple(hashes[item] for item in built.item_ids),
        provenance={**provenance, **built.provenance},
    )
