"""Which anchors and which estimator: the robust default, unless others are better beyond the noise.

The least of many cross-validated errors is low by luck too: a lucky draw of anchors serves all models that are scored
on it. A default that has proved itself on many benchmarks is therefore only left for what is better in a paired t-test
over folds, each of which draws its own anchors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from merge3_plugin.calibrate.crossval import CrossValidation
from merge3_plugin.calibrate.folds import MODELS_FOR_TWO, Folds
from merge3_plugin.domain import FloatArray
from merge3_plugin.estimate.auto import default_estimator, knowledge
from merge3_plugin.estimate.base import FEWEST_MODELS, needs_soft
from merge3_plugin.plugins import plugin_host

# One-sided: of a dozen rivals that are no better than the default few pass.
CONFIDENCE = 0.975
FEWEST_FOLDS = 3
MODELS_FOR_CLUSTERS = 16


def surely_best(default: str, errors: Mapping[str, FloatArray]) -> str:
    """``default``, or that of the others that beats it most surely.

    ``errors`` are by name those in each fold (or other independent part), shape (folds,). A rival's mean gain must be
    above 0 at `CONFIDENCE`; with fewer than three folds none is.
    """
    from scipy.special import stdtrit

    found, surest = default, 0.0
    n_folds = len(errors[default])
    if n_folds < FEWEST_FOLDS:
        return default
    margin = float(stdtrit(n_folds - 1, CONFIDENCE)) / np.sqrt(n_folds)
    for name, other in errors.items():
        gains = errors[default] - other
        sure = float(gains.mean() - margin * gains.std(ddof=1))
        if sure > surest:
            found, surest = name, sure
    return found


def chosen_estimator(
    outcome: CrossValidation, *, parents_known: bool, soft_known: bool = False, without: int | None = None
) -> str:
    """The estimator for such evidence on these anchors, by the errors of all folds, or of all but one.

    It is the default for fewer than `FEWEST_MODELS` models, and with parents unless the errors are seen to be those of
    merges.
    """
    n_models = len(outcome.rows)
    default = default_estimator(n_models, parents_known=parents_known, soft_known=soft_known)
    if default not in outcome.estimates:
        default = default_estimator(n_models, parents_known=parents_known)
    if n_models < FEWEST_MODELS or (parents_known and not outcome.folds.of_merges):
        return default
    known = plugin_host().estimators()
    errors = {
        name: outcome.fold_errors(name, without)
        for name in outcome.estimates
        if (parents_known or not known[name].needs_parents) and (soft_known or not needs_soft(known[name]))
    }
    return surely_best(default, errors)


class Choice(NamedTuple):
    """The ``estimator`` that ``"auto"`` stands for, and the `honest_ratio` of what chose it."""

    estimator: str
    ratio: float


def choices(outcomes: Mapping[str, CrossValidation], default: str, method: str) -> dict[str, Choice]:
    """Choices for the anchors of ``method``, by what is known of a candidate (`knowledge`).

    ``default`` is the design that ``method`` was chosen against.
    """
    outcome = outcomes[method]
    found = {}
    for parents in (False, True) if outcome.folds.parents is not None else (False,):
        for soft in (False, True) if outcome.folds.responses.soft is not None else (False,):
            known = {"parents_known": parents, "soft_known": soft}
            found[knowledge(**known)] = Choice(
                chosen_estimator(outcome, **known), honest_ratio(outcomes, default, **known)
            )
    return found


def chosen_design(outcomes: Mapping[str, CrossValidation], default: str, *, without: int | None = None) -> str:
    """The design of anchors whose own choice of estimator errs least, by all folds, or by all but one."""
    if len(outcomes[default].rows) < FEWEST_MODELS:
        return default
    errors = {}
    for method, outcome in outcomes.items():
        folds = outcome.folds
        known = {"parents_known": folds.parents is not None, "soft_known": folds.responses.soft is not None}
        name = chosen_estimator(outcome, **known, without=without)
        errors[method] = outcome.fold_errors(name, without)
    return surely_best(default, errors)


def honest_ratio(
    outcomes: Mapping[str, CrossValidation], default: str, *, parents_known: bool, soft_known: bool
) -> float:
    """Squared error over a random sample's variance, each fold estimated as the other folds choose.

    The least of many errors is low by luck; this is the error of choosing.
    """
    squares, variances = [], []
    for fold in np.unique(next(iter(outcomes.values())).fold_of):
        outcome = outcomes[chosen_design(outcomes, default, without=fold)]
        name = chosen_estimator(outcome, parents_known=parents_known, soft_known=soft_known, without=fold)
        left_out = outcome.fold_of == fold
        squares.append(outcome.deviations[name][left_out] ** 2)
        variances.append(outcome.variances[left_out])
    return float(np.nanmean(np.concatenate(squares)) / np.nanmean(np.concatenate(variances)))


def default_design(n_models: int, *, parents_known: bool) -> str:
    """Anchors spread over the parents' answers, over items that are answered alike, or over difficulty alone.

    k-means says best which items are, but of few models it makes a few large clusters and many tiny ones: then groups
    of equal size serve better. Where parents predict the level of most items, the most informative items add most, once
    there are models enough to say which those are.
    """
    if n_models >= MODELS_FOR_CLUSTERS:
        return "mixed" if parents_known else "correctness-clusters"
    if parents_known:
        return "neyman"
    return "kd" if n_models >= MODELS_FOR_TWO else "stratified"


def designs(folds: Folds) -> tuple[str, ...]:
    """The designs that the data allow, but for ``"random"``, which none of them is worse than."""
    if folds.parents is not None and not folds.of_merges:
        return (default_design(folds.responses.n_models, parents_known=True),)
    found = ["stratified"]
    if folds.responses.n_models >= MODELS_FOR_TWO:
        found += ["kd", "mixed", "irt-clusters", "correctness-clusters"]
    found += ["neyman"] * (folds.parents is not None)
    found += ["representation-clusters"] * (folds.embeddings is not None)
    return tuple(found)
