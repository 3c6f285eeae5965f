"""Merges that are known to be good, from files of recipes and from the records of other runs, to be scored first."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from merge3_plugin.config import RunConfig
from merge3_plugin.domain import FloatArray
from merge3_plugin.errors import ConfigError
from merge3_plugin.evolve.encoding import encoded
from merge3_plugin.evolve.history import read_history
from merge3_plugin.evolve.labels import labels
from merge3_plugin.evolve.recipe import models_of, read_recipe, renamed
from merge3_plugin.evolve.schema import FILE_NAME
from merge3_plugin.evolve.spaces import Space
from merge3_plugin.evolve.store import RunStore

if TYPE_CHECKING:
    from merge3_plugin.merging.parents import Family

log = logging.getLogger(__name__)

KEY, EVENT = "merge3.search.warm_start", "warm start"
# Of another run: more would take from this run's budget what its own search needs.
BEST = 5


def warm_start(store: RunStore, config: RunConfig, space: Space, family: Family | None) -> list[FloatArray]:
    """The vectors that ``merge3.search.warm_start`` adds to those scored first.

    They are found once and kept in this run's record, so that files and other runs may change, or go. Raises as
    `warm_vectors`.
    """
    if not config.merge3.search.warm_start:
        return []
    kept = dict(store.events()).get(EVENT)
    if kept is None:
        vectors = warm_vectors(config, space, family)
        kept = store.event(EVENT, {"vectors": [vector.tolist() for vector in vectors.values()]})
    return [np.array(vector, dtype=np.float64) for vector in kept["vectors"]]


def warm_vectors(config: RunConfig, space: Space, family: Family | None) -> dict[str, FloatArray]:
    """The recipes of files and the BEST of each run as vectors of this space, by a name for people.

    ``family`` are the parents, with or without weights (None: of an unknown architecture). Models are the same that
    have the same name, or the same label (the end of their path). What this run scores first anyway is left out. Raises
    ConfigError for what is neither file nor run, for a file's recipe that this space does not have, and for a run none
    of whose recipes it has; RunError for a record that cannot be read.
    """
    known = [space.decode(vector) for vector in space.known_points().values()]
    found: dict[str, FloatArray] = {}

    def is_new(vector: FloatArray) -> bool:
        if new := (recipe := space.decode(vector)) not in known:
            known.append(recipe)
        return new

    for entry in config.merge3.search.warm_start:
        path, own = Path(entry).expanduser(), config.genome.parents()
        if path.is_file():
            vector = _of_file(path, own, space, family)
            found |= {entry: vector} if is_new(vector) else {}
        elif (path / FILE_NAME).is_file():
            vectors = _of_run(path, own, space, family, is_new)
            found |= {f"{entry}: best {place}": vector for place, vector in enumerate(vectors, 1)}
        else:
            raise ConfigError(
                f"{KEY}: expected the file of a recipe, or the folder of a run, with its {FILE_NAME}, got {entry}; "
                "name a file or a --storage-path"
            )
    return found


def _of_file(path: Path, own: Sequence[str], space: Space, family: Family | None) -> FloatArray:
    recipe = read_recipe(path)
    try:
        return encoded(renamed(recipe, _same_models(sorted(models_of(recipe)), own)), space, family)
    except ConfigError as error:
        raise ConfigError(f"{KEY}: {path}: expected a merge that this space has, got {error}") from None


def _of_run(
    folder: Path, own: Sequence[str], space: Space, family: Family | None, is_new: Callable[[FloatArray], bool]
) -> list[FloatArray]:
    """The new ones among a run's recipes, best first: those it confirmed by their held-out accuracy come first.

    Recipes that the space does not have are skipped. Raises ConfigError where it has none.
    """
    found: list[FloatArray] = []
    skipped: list[str] = []
    fitting = 0
    for recipe in _best_recipes(folder, own):
        try:
            vector = encoded(recipe, space, family)
        except ConfigError as error:
            skipped.append(str(error))
            continue
        fitting += 1
        found += [vector] if is_new(vector) else []
        if len(found) == BEST:
            break
    if not fitting:
        why = f" of others, the last of which has {skipped[-1]}" if skipped else ""
        raise ConfigError(f"{KEY}: expected merges of this space in {folder}, got {len(skipped)}{why}")
    log.info(
        "warm start: %d of %s are scored first; %d that this space does not have left out",
        len(found),
        folder,
        len(skipped),
    )
    return found


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
