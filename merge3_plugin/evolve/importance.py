"""Which genes the fitness of a search's candidates hangs on, as far as that can be told.

A forest of extremely randomised trees (Geurts, Ernst and Wehenkel 2006) learns the fitness from the genes, and a gene
matters as much as the forest's error on candidates that it did not learn from grows when the gene is shuffled among
them (Breiman 2001). How well it predicts those at all is said beside it: of a forest that predicts nothing no gene
matters, and of fitness that is mostly the noise of few anchors it predicts little.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from merge3_plugin.domain import FloatArray
from merge3_plugin.evolve.history import History
from merge3_plugin.evolve.labels import labels
from merge3_plugin.evolve.spaces.variables import Kind, Variable, active

if TYPE_CHECKING:
    from sklearn.ensemble import ExtraTreesRegressor

FEWEST, MOST = 20, 500
FOLDS, TREES = 5, 100
# A gene is shuffled among the unseen candidates again and again, until so many rows were predicted.
SHUFFLED = 200
# Above so many genes, what a model, a parameter or a layer has of them together says more, and of the single ones only
# those are tried that the forest splits by most.
MANY = 30
# Rows that are predicted at once.
_CHUNK = 100_000


@dataclass(frozen=True)
class Importance:
    """``genes`` by name, most important first: by how much R^2 on unseen candidates falls without the gene.

    ``r_squared`` is that of the forest, None of fewer than FEWEST candidates. ``told``: whether its predictions go with
    the fitness at all (one-sided, at 1 %); the figures of genes mean something only then. ``spread`` is the standard
    deviation of the candidates' fitness, ``standard_error`` the median of their own. ``groups`` are as ``genes``, for
    genes together, by what they share.
    """

    candidates: int
    r_squared: float | None = None
    spread: float = 0.0
    standard_error: float = 0.0
    told: bool = False
    genes: Mapping[str, float] = field(default_factory=dict)
    groups: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def importance(history: History, *, seed: int = 0) -> Importance:
    """Of the candidates that were scored on all anchors; the last MOST of them, as many as there are."""
    known = [(r, history.vectors[r.candidate]) for r in history.ranked() if r.candidate in history.vectors]
    order = {candidate: i for i, candidate in enumerate(history.latest)}
    known = sorted(known, key=lambda pair: order[pair[0].candidate])[-MOST:]
    fitness = np.array([result.fitness for result, _ in known], dtype=np.float64)
    if len(known) < FEWEST or not history.variables or np.ptp(fitness) == 0:
        return Importance(len(known))
    genes = design(history.variables, np.array([vector for _, vector in known]))
    batches = np.array([result.batch for result, _ in known])
    rng = np.random.default_rng(seed)
    groups = _groups(history) if genes.shape[1] > MANY else {}
    columns = {history.variables[i].name: [i] for i in _split_by(genes, fitness, rng)}
    named = {**columns, **{f"{kind}\0{name}": of for kind, found in groups.items() for name, of in found.items()}}
    predicted, losses = _forest(genes, fitness, batches, list(named.values()), rng)
    lost = dict(zip(named, losses, strict=True))
    return Importance(
        len(known),
        float(1.0 - np.mean((fitness - predicted) ** 2) / fitness.var()),
        float(fitness.std()),
        float(np.median([result.standard_error for result, _ in known])),
        _goes_with(predicted, fitness),
        _sorted({name: lost[name] for name in columns}),
        {kind: _sorted({name: lost[f"{kind}\0{name}"] for name in of}) for kind, of in groups.items()},
    )


def design(variables: Sequence[Variable], vectors: FloatArray) -> FloatArray:
    """The vectors (n, genes) with whole numbers and choices as they count, and genes that do not matter at their start.

    Reals stay as they are outside their limits: spaces differ in what that means.
    """
    genes = vectors.copy()
    for column, variable in enumerate(variables):
        if variable.kind is not Kind.REAL:
            genes[:, column] = [variable.settled(coordinate) for coordinate in genes[:, column]]
    if any(variable.when is not None for variable in variables):
        matters = np.array([active(variables, vector) for vector in genes])
        genes = np.where(matters, genes, [variable.start for variable in variables])
    return genes


def _forest(
    genes: FloatArray,
    fitness: FloatArray,
    batches: NDArray[Any],
    groups: Sequence[Sequence[int]],
    rng: np.random.Generator,
) -> tuple[FloatArray, FloatArray]:
    """Each candidate's fitness as predicted without it (n,), and by how much R^2 falls without each group of genes."""
    predicted, losses = np.empty(len(fitness)), np.zeros(len(groups))
    for learned, unseen in _folds(batches, rng):
        forest = _learned(genes[learned], fitness[learned], rng)
        predicted[unseen] = forest.predict(genes[unseen])
        error = np.sum((predicted[unseen] - fitness[unseen]) ** 2)
        losses += _shuffled(forest, genes[unseen], fitness[unseen], groups, rng) - error
    return predicted, losses / np.sum((fitness - fitness.mean()) ** 2)


def _split_by(genes: FloatArray, fitness: FloatArray, rng: np.random.Generator) -> list[int]:
    """The columns that are tried one by one: all, or the MANY that a forest splits by most."""
    if genes.shape[1] <= MANY:
        return list(range(genes.shape[1]))
    most = np.argsort(-_learned(genes, fitness, rng).feature_importances_, kind="stable")
    return [int(column) for column in most[:MANY]]


def _learned(genes: FloatArray, fitness: FloatArray, rng: np.random.Generator) -> ExtraTreesRegressor:
    from sklearn.ensemble import ExtraTreesRegressor

    forest = ExtraTreesRegressor(TREES, min_samples_leaf=3, random_state=int(rng.integers(2**31)))
    return forest.fit(genes, fitness)


def _folds(batches: NDArray[Any], rng: np.random.Generator) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """What is learned from and what is predicted, FOLDS times.

    Batches stay together where there are several: candidates of one are alike in genes and share their anchors, whose
    luck a forest would learn.
    """
    from sklearn.model_selection import GroupKFold, KFold

    n_batches = len(np.unique(batches))
    if n_batches >= 3:
        yield from GroupKFold(min(FOLDS, n_batches)).split(batches, groups=batches)
    else:
        yield from KFold(FOLDS, shuffle=True, random_state=int(rng.integers(2**31))).split(batches)


def _shuffled(
    forest: ExtraTreesRegressor,
    genes: FloatArray,
    fitness: FloatArray,
    groups: Sequence[Sequence[int]],
    rng: np.random.Generator,
) -> FloatArray:
    """The summed squared error with each group of genes shuffled among the candidates, mean over several times."""
    errors, times = [], -(-SHUFFLED // len(genes))
    at_once = max(1, _CHUNK // (times * len(genes)))
    for first in range(0, len(groups), at_once):
        part = groups[first : first + at_once]
        rows = np.tile(genes, (len(part) * times, 1)).reshape(len(part), times, *genes.shape)
        for g, columns in enumerate(part):
            for s in range(times):
                rows[g, s][:, columns] = genes[rng.permutation(len(genes))][:, columns]
        found = forest.predict(rows.reshape(-1, genes.shape[1])).reshape(len(part), times, -1)
        errors.append(((found - fitness) ** 2).sum(axis=2).mean(axis=1))
    return np.concatenate(errors)


def _goes_with(predicted: FloatArray, fitness: FloatArray) -> bool:
    """Whether the predictions explain something, and correlate by more than chance would in 1 of 100 cases."""
    if np.ptp(predicted) == 0 or np.mean((fitness - predicted) ** 2) >= fitness.var():
        return False
    return bool(np.corrcoef(predicted, fitness)[0, 1] > 2.33 / np.sqrt(len(fitness)))


def _groups(history: History) -> dict[str, dict[str, list[int]]]:
    """The columns of the genes that share a parent, a place in the depth, a kind of tensor, or a parameter."""
    names = sorted(labels(history.config.genome.parents()).values(), key=len, reverse=True)
    groups: dict[str, dict[str, list[int]]] = {kind: {} for kind in ("model", "layers", "tensors", "parameter")}
    for column, variable in enumerate(history.variables):
        for kind, name in parts(variable.name, names).items():
            groups[kind].setdefault(name, []).append(column)
    return {kind: found for kind, found in groups.items() if 1 < len(found) <= len(history.variables) / 2}


def parts(name: str, models: Sequence[str]) -> dict[str, str]:
    """What the name of a gene says: its model, layers, tensors, and what is left of it as its parameter.

    ``model_1.weight[mlp] layers 0-3`` and ``layer 3 model_1 place 2`` are such names; ``models`` are labels.
    """
    found = {}
    for kind, pattern in (
        ("layers", r"layers? \d+(?:-\d+)?|knot \d+/\d+"),
        ("tensors", r"\[([^]]*)\]"),
        ("model", "|".join(rf"(?<![\w/.-]){re.escape(label)}(?=[. ]|$)" for label in models)),
    ):
        if match := re.search(pattern, name):
            found[kind] = (match.group(1) if match.groups() else match.group()) or "others"
            name = name[: match.start()] + name[match.end() :]
    return found | {"parameter": " ".join(name.split()).strip(". ") or "copies"}


def _sorted(found: Mapping[str, float]) -> dict[str, float]:
    return dict(sorted(((name, float(lost)) for name, lost in found.items()), key=lambda pair: -pair[1]))
