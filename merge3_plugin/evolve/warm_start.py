"""The best recipes of another run, to be scored first."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from merge3_plugin.config import RunConfig
from merge3_plugin.domain import FloatArray
from merge3_plugin.errors import ConfigError
from merge3_plugin.evolve.history import read_history
from merge3_plugin.evolve.labels import labels
from merge3_plugin.evolve.recipe import renamed
from merge3_plugin.evolve.schema import FILE_NAME
from merge3_plugin.evolve.spaces import Space
from merge3_plugin.evolve.store import RunStore

log = logging.getLogger(__name__)

EVENT = "warm start"
# Of another run: more would take from this run's budget what its own search needs.
BEST = 5


def warm_start(store: RunStore, config: RunConfig, space: Space) -> list[FloatArray]:
    """The vectors that ``merge3.search.warm_start`` adds to those scored first; empty where it is not set.

    They are found once and kept in this run's record, so that the other run may go on, or go. Raises as `best_vectors`.
    """
    if config.merge3.search.warm_start is None:
        return []
    kept = dict(store.events()).get(EVENT)
    if kept is None:
        vectors = best_vectors(config, space)
        kept = store.event(EVENT, {"vectors": [vector.tolist() for vector in vectors]})
    return [np.array(vector, dtype=np.float64) for vector in kept["vectors"]]


def best_vectors(config: RunConfig, space: Space) -> list[FloatArray]:
    """The BEST recipes of the other run as vectors of this space, best first.

    The confirmed ones by their held-out accuracy come before the others by their estimates. Models are the same that
    have the same name, or the same label (the end of their path); a recipe of other models, or that the space does not
    have for any other reason, is skipped. What this run scores first anyway is left out. Raises ConfigError for a
    folder without a record, and where none of its recipes fits; RunError for a record that cannot be read.
    """
    folder = Path(config.merge3.search.warm_start or "")
    if not (folder / FILE_NAME).is_file():
        raise ConfigError(
            f"merge3.search.warm_start: expected the folder of a run, with its {FILE_NAME}, got {folder}; "
            "name a --storage-path"
        )
    known = [space.decode(vector) for vector in space.known_points().values()]
    vectors: list[FloatArray] = []
    skipped = fitting = 0
    for recipe in _best_recipes(folder, config.genome.parents()):
        try:
            vector = space.encode(recipe)
        except ConfigError:
            skipped += 1
            continue
        fitting += 1
        if recipe not in known:
            known.append(recipe)
            vectors.append(vector)
        if len(vectors) == BEST:
            break
    if not fitting:
        raise ConfigError(
            f"merge3.search.warm_start: expected recipes of this space in {folder}, got {skipped} of others; "
            "it takes a run over the same models, of the same method, groups and dtype"
        )
    log.info(
        "warm start: %d of %s are scored first; %d that this space does not have left out",
        len(vectors),
        folder,
        skipped,
    )
    return vectors


def _best_recipes(folder: Path, own: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The recipes of the run in ``folder``, best first, with the models' names of this run."""
    store = RunStore.open(folder)
    try:
        history = read_history(store)
        names = _same_models(history.config.genome.parents(), own)
        ranked = [*_confirmed(folder), *(result.candidate for result in history.ranked())]
        for candidate in dict.fromkeys(ranked):
            recipe = store.recipe(candidate)
            if recipe is not None:
                yield renamed(recipe, names)
    finally:
        store.close()


def _confirmed(folder: Path) -> list[str]:
    """The candidates that the run confirmed, best first."""
    summary = folder / "summary.json"
    if not summary.is_file():
        return []
    models = json.loads(summary.read_text(encoding="utf-8"))["models"]
    scored = [model for model in models if model.get("held_out") and model.get("candidate")]
    return [model["candidate"] for model in sorted(scored, key=lambda model: -model["held_out_overall"])]


def _same_models(theirs: Sequence[str], own: Sequence[str]) -> dict[str, str]:
    by_label = {label: name for name, label in labels(own).items()}
    return {name: by_label.get(label, name) for name, label in labels(theirs).items() if name not in own}
