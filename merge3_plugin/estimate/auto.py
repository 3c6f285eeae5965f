"""Which estimator to use: what cross-validation chose among those that the evidence allows."""

from __future__ import annotations

from merge3_plugin.domain import Calibration, Estimate
from merge3_plugin.estimate.base import (
    CROSS_VALIDATION,
    FEWEST_MODELS,
    Estimator,
    Evidence,
    find_estimator,
    run_estimator,
)
from merge3_plugin.plugins import plugin_host

AUTO = "auto"


def default_estimator(n_models: int, *, parents_known: bool, soft_known: bool = False) -> str:
    """What serves any benchmark, by the number of models that were left out of it.

    Parents' answers say most of a merge; without them the ensemble of control variates and ridge. With a handful of
    models there is too little to learn from, and the answers speak for themselves. ``soft_known`` says that the
    parents' and others' soft scores are known on all items: a search soon leaves the merges that calibrated it behind,
    and a merge's soft scores show where it is then, which its parents' answers do not.
    """
    if parents_known:
        return "factor-soft" if soft_known else "plog"
    return "core" if n_models >= FEWEST_MODELS else "weighted"


def knowledge(*, parents_known: bool, soft_known: bool = False) -> str:
    """Under which name a cross-validation keeps its choice for evidence that holds these."""
    return ("parents" if parents_known else "alone") + ("+soft" if soft_known else "")


def resolve(name: str, calibration: Calibration, *, parents_known: bool, soft_known: bool = False) -> Estimator:
    """The registered estimator ``name``; for ``"auto"`` the calibration's choice for such evidence, else the default.

    For imported parameters that is the estimator that they were published for. Raises ConfigError for an unknown name.
    """
    if name != AUTO:
        return find_estimator(name)
    record = calibration.provenance.get(CROSS_VALIDATION, {})
    choices = record.get("auto", {})
    for soft in (True, False) if soft_known else (False,):
        choice = choices.get(knowledge(parents_known=parents_known, soft_known=soft))
        if choice in plugin_host().estimators():
            return find_estimator(choice)
    if "gp_irt_weight" in calibration.provenance and not parents_known:
        return find_estimator("gp-irt")
    return find_estimator(default_estimator(record.get("models", 0), parents_known=parents_known))


def run(name: str, evidence: Evidence) -> Estimate:
    """The estimate of the estimator ``name``, for ``"auto"`` of the one that is chosen for what the evidence holds.

    Raises ConfigError for an unknown name, DataError where a named one lacks the parents or the soft scores it needs.
    """
    parents_known = evidence.parents is not None
    soft_known = evidence.has_soft(of_parents=parents_known)
    estimator = resolve(name, evidence.calibration, parents_known=parents_known, soft_known=soft_known)
    return run_estimator(estimator, evidence)
