"""Which genes the fitness of a search's candidates hangs on, as far as that can be told.

A forest of extremely randomised trees (Geurts, Ernst and Wehenkel 2006) learns the fitness from the genes, and a gene
matters as much as the forest's error on candidates that it did not learn from grows when the gene is shuffled among
them (Breiman 2001). How well it predicts those at all is said beside it: of a forest that predicts nothing no gene
matters, and of fitness that is mostly the noise of few anchors it predicts little.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
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


@dataclass(frozen=True)
class Importance:
    """``genes`` by name, most important first: by how much R^2 on unseen candidates falls without the gene.

    ``r_squared`` is that of the forest among candidates of one batch, which share their anchors; None of fewer than
    FEWEST candidates. ``told``: whether its predictions go with the fitness at all (one-sided, at 1 %); the figures of
    genes mean something only then. ``spread`` is the standard deviation of the fitness in a batch, ``standard_error``
    the median of the candidates' own. ``groups`` are as ``genes``, for genes together, by what they share.
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
    predicted, shuffled = _unseen(genes, fitness, list(named.values()), rng)
    own, error = _within(fitness, batches), _within(fitness - predicted, batches)
    total = np.sum(own**2)
    if total == 0:  # no two of one batch
        return Importance(len(known))
    r_squared = float(1.0 - np.sum(error**2) / total)
    losses = (np.sum(_within(fitness - shuffled, batches) ** 2, axis=2).mean(axis=1) - np.sum(error**2)) / total
    lost = dict(zip(named, losses, strict=True))
    return Importance(
        len(known),
        r_squared,
        float(np.sqrt(total / len(known))),
        float(np.median([result.standard_error for result, _ in known])),
        r_squared > 0 and _go_together(own, own - error, len(known) - len(np.unique(batches))),
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


def _unseen(
    genes: FloatArray, fitness: FloatArray, groups: Sequence[Sequence[int]], rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Each candidate's fitness as predicted without it.

    As it is, shape (n,), and with each group of genes shuffled, several times: (groups, times, n).
    """
    from sklearn.model_selection import KFold

    times = -(-SHUFFLED * FOLDS // len(genes))
    predicted, shuffled = np.empty(len(genes)), np.empty((len(groups), times, len(genes)))
    for learned, unseen in KFold(FOLDS, shuffle=True, random_state=int(rng.integers(2**31))).split(genes):
        forest = _learned(genes[learned], fitness[learned], rng)
        predicted[unseen] = forest.predict(genes[unseen])
        for g, columns in enumerate(groups):
            rows = np.tile(genes[unseen], (times, 1, 1))
            for row in rows:
                row[:, columns] = row[rng.permutation(len(unseen))][:, columns]
            shuffled[g][:, unseen] = forest.predict(rows.reshape(-1, genes.shape[1])).reshape(times, -1)
    return predicted, shuffled


def _within(values: FloatArray, batches: NDArray[Any]) -> FloatArray:
    """The values (..., n) less the mean of their batch.

    Candidates of one batch share their anchors, and are alike in genes: the luck of these anchors is no importance.
    """
    of = batches[:, None] == np.unique(batches)  # (n, batches)
    return np.asarray(values - (values @ of / of.sum(axis=0)) @ of.T)


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


def _go_together(fitness: FloatArray, predicted: FloatArray, degrees: int) -> bool:
    """Whether both correlate by more than chance would in 1 of 100 cases."""
    if np.ptp(predicted) == 0 or degrees < 1:
        return False
    return bool(np.corrcoef(predicted, fitness)[0, 1] > 2.33 / np.sqrt(degrees))


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
        ("model", rf"(?<![\w/.-])({'|'.join(map(re.escape, models))})(?:\.|(?= |$))"),
    ):
        if match := re.search(pattern, name):
            found[kind] = (match.group(1) if match.groups() else match.group()) or "others"
            name = name[: match.start()] + name[match.end() :]
    return found | {"parameter": " ".join(name.split()).strip(". ") or "copies"}


def _sorted(found: Mapping[str, float]) -> dict[str, float]:
    return dict(sorted(((name, float(lost)) for name, lost in found.items()), key=lambda pair: -pair[1]))
