"""All that calibrations of one response matrix share, whatever their number of anchors: the fits, also of the folds."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral

import numpy as np

from merge3_plugin import __version__
from merge3_plugin.calibrate.choice import choices, chosen_design, default_design, designs
from merge3_plugin.calibrate.crossval import CrossValidation, Findings, cross_validate
from merge3_plugin.calibrate.folds import FOLDS, MOST_ITEMS, Folds, dimensions, fit_each, fit_folds, generator
from merge3_plugin.checks import checked_embeddings
from merge3_plugin.domain import Calibration, FloatArray, ItemParameters, ResponseMatrix
from merge3_plugin.errors import ConfigError, DataError, nearest
from merge3_plugin.estimate.base import CROSS_VALIDATION, align_parents
from merge3_plugin.extract.anchors import METHODS, select_anchors
from merge3_plugin.extract.checks import check_shared_items

log = logging.getLogger(__name__)

AUTO = "auto"
# Leaving out one of fewer models leaves a single one, which no item can be fitted to.
FEWEST_RESPONDENTS = 3


@dataclass(frozen=True, eq=False)
class Study:
    """Calibrations of ``responses``, which hold the ``parents`` (None: not known) and no model twice.

    Build it with `study`.
    """

    responses: ResponseMatrix
    seed: int
    parents: ResponseMatrix | None
    embeddings: FloatArray | None
    max_folds: int
    max_items: int

    @cached_property
    def fits(self) -> tuple[ItemParameters, ...]:
        """Fits to all models: the main one, then those for ensembles."""
        return fit_each(self.responses, dimensions(self.responses.n_models))

    @cached_property
    def folds(self) -> Folds:
        return fit_folds(
            self.responses,
            seed=self.seed,
            parents=self.parents,
            embeddings=self.embeddings,
            max_folds=self.max_folds,
            max_items=self.max_items,
        )

    @cached_property
    def _known(self) -> dict[tuple[int, str, bool], CrossValidation]:
        return {}

    def outcome(self, n_anchors: int, method: str, *, with_intervals: bool = False) -> CrossValidation | None:
        """Cross-validation of one design of anchors; None where there is nothing to leave out, or to estimate."""
        if not self.folds.folds or n_anchors >= self.folds.responses.n_items:
            return None
        key = n_anchors, method, with_intervals
        if key not in self._known:
            self._known[key] = cross_validate(self.folds, n_anchors, method, with_intervals=with_intervals)
        return self._known[key]

    def outcomes(
        self, n_anchors: int, method: str = AUTO, *, with_intervals: bool = False
    ) -> dict[str, CrossValidation]:
        """Cross-validations by design: of all that ``"auto"`` chooses from, or of ``method`` alone."""
        if self.responses.n_models < FEWEST_RESPONDENTS:
            return {}
        methods = designs(self.folds) if method == AUTO else (method,)
        found = {name: self.outcome(n_anchors, name, with_intervals=with_intervals) for name in methods}
        return {name: outcome for name, outcome in found.items() if outcome is not None}

    def calibration(self, n_anchors: int, method: str = AUTO) -> Calibration:
        """The calibration with ``n_anchors`` anchors of this design; ``"auto"``: of the best by cross-validation.

        Clusters that would count too unequally give way to "kd", with a warning where they were asked for. Raises
        ConfigError for an unknown design.
        """
        if method != AUTO and method not in METHODS:
            raise ConfigError(f"anchors: expected a known method, got {method!r}{nearest(method, [*METHODS, AUTO])}")
        n_anchors = min(n_anchors, self.responses.n_items)
        outcomes = self.outcomes(n_anchors, method)
        asked, default = method, self.default_design if method == AUTO else method
        method = chosen_design(outcomes, default) if outcomes else default
        anchors = select_anchors(
            self.responses,
            self.fits[0],
            n_anchors,
            method=method,
            rng=generator(self.seed, "anchors", n_anchors, method),
            parents=self.parents,
            embeddings=self.embeddings,
        )
        if asked not in (AUTO, anchors.method):
            log.warning(
                "anchors: %d of %r would count too unequally, which costs more than it gains: drawn by %r instead",
                n_anchors,
                method,
                anchors.method,
            )
        errors, record = _findings(outcomes, default, method) if outcomes else ({}, {})
        return Calibration(
            self.responses.item_ids,
            self.fits[0],
            anchors,
            self.responses,
            errors=errors,
            provenance={
                "models": list(self.responses.model_ids),
                "parents": [] if self.parents is None else list(self.parents.model_ids),
                "seed": self.seed,
                "version": __version__,
                **({CROSS_VALIDATION: record} if outcomes else {}),
            },
            alternatives=self.fits[1:],
        )

    @property
    def default_design(self) -> str:
        """What ``"auto"`` starts from."""
        return default_design(self.responses.n_models, parents_known=self.parents is not None)


def _findings(outcomes: Mapping[str, CrossValidation], default: str, method: str) -> Findings:
    """Of the anchors of ``method``; the ratio of what ``"auto"`` stands for is not below that of choosing it."""
    errors, record = outcomes[method].findings()
    found = choices(outcomes, default, method)
    ratios = dict(record["ratios"])
    for choice in found.values():
        ratios[choice.estimator] = max(ratios[choice.estimator], choice.ratio)
    tried = {name: outcome.findings().errors for name, outcome in outcomes.items()}
    auto = {known: choice.estimator for known, choice in found.items()}
    return Findings(errors, {**record, "ratios": ratios, "auto": auto, "designs": tried})


def study(
    responses: ResponseMatrix,
    *,
    seed: int,
    parents: ResponseMatrix | None = None,
    embeddings: FloatArray | None = None,
    max_folds: int = FOLDS,
    max_items: int = MOST_ITEMS,
) -> Study:
    """A study of these responses, joined by those parents whom they lack; see `merge3_plugin.api.calibrate`.

    Of models that answer every item alike the first one, by id, is kept. Raises DataError for responses
    that cannot be calibrated on, ConfigError for a seed that is no whole number from 0 on.
    """
    if not isinstance(seed, Integral) or seed < 0:
        raise ConfigError(f"seed: expected a whole number, at least 0, got {seed!r}")
    aligned = None if parents is None else align_parents(parents, responses.item_ids)
    everyone = responses
    if aligned is not None:
        new = [model for model in aligned.model_ids if model not in responses.model_ids]
        everyone = responses.joined(aligned.models(new)) if new else responses
    _check(everyone)
    everyone = _distinct(everyone, () if aligned is None else aligned.model_ids)
    vectors = None if embeddings is None else checked_embeddings(embeddings, responses.n_items)
    return Study(everyone, int(seed), aligned, vectors, max_folds, max_items)


def _check(responses: ResponseMatrix) -> None:
    if not responses.n_items or not responses.n_models:
        raise DataError(f"responses: expected models and items, got shape {responses.values.shape}; add both")
    answered = ~np.isnan(responses.values)
    if not answered.any(axis=1).all():
        silent = responses.model_ids[int((~answered.any(axis=1)).argmax())]
        raise DataError(f"responses: expected answers from every model, got none from {silent!r}; drop or score it")
    if responses.n_models < 2:
        raise DataError("responses: expected at least 2 models, got 1; add the answers of others")
    check_shared_items(responses)
    known = responses.values[answered]
    if known.min() == known.max():
        raise DataError(f"responses: expected right and wrong answers, got only {known[0]:g}; check the metric")


def _distinct(responses: ResponseMatrix, parents: tuple[str, ...]) -> ResponseMatrix:
    """The responses without copies of other models; parents stay, and two models at least."""
    by_id = sorted(responses.model_ids, key=lambda model: (model not in parents, model))
    originals: dict[bytes, str] = {}
    for model in by_id:
        originals.setdefault(responses.values[responses.model_ids.index(model)].tobytes(), model)
    kept = {*parents, *originals.values()}
    if len(kept) < 2:
        kept = set(by_id[:2])
    if len(kept) == responses.n_models:
        return responses
    return responses.models(model for model in responses.model_ids if model in kept)
