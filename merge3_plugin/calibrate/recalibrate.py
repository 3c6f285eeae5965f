"""Item parameters refined by the answers of further models, on the scale that they have."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from merge3_plugin import irt
from merge3_plugin.domain import Calibration, FloatArray, ItemParameters, ResponseMatrix
from merge3_plugin.errors import DataError
from merge3_plugin.estimate.base import KNOWN_SHARE, align_parents

# Where a calibration's provenance keeps which models refined it.
RECALIBRATED = "recalibrated"

MEDIAN_CHI_SQUARE = 0.4549364  # of one degree of freedom
DRIFTED = 2.7  # standard deviations


def recalibrate(
    calibration: Calibration, answers: ResponseMatrix, parents: ResponseMatrix | None = None
) -> Calibration:
    """The calibration with the items that ``answers`` are about refined by them; other items stay as they are.

    Fixed-parameter calibration (Kim, Journal of Educational Measurement 43, 2006): the new models' abilities by the old
    items, then each item at these abilities with its old parameters as prior, as strong as the answers behind them. So
    the scale stays, and estimates before and after can be compared. NaN answers say nothing. Models that the
    calibration has already are left out; ``parents`` whom it lacks join.

    Candidates of one search are relatives and err on the same items: where two residuals on an item correlate by rho, m
    answers to it know as much as m / (1 + (m - 1) rho) (Kish's design effect), and weigh that much. Otherwise anchors
    would be fitted to the candidates while the other items are not, and what the anchors miss would no longer tell what
    the others miss. Only where an item stands out from the rest has it drifted, and its answers weigh in full (as the
    robust z of linking studies, Huynh and Meyer, Practical Assessment, Research and Evaluation 15, 2010).

    Models that answered nearly all items join ``responses``, so that whatever learns from full answers learns from
    them too. Errors and intervals stay those of the cross-validation. A calibration without models, as of imported
    parameters, stays as it is: how many answers are behind its items, and bind them, is not known. Raises DataError for
    items that the calibration lacks.
    """
    new = _new_models(calibration, answers, parents)
    if not (calibration.responses.n_models and new.n_models) or np.isnan(new.values).all():
        return calibration
    known = ~np.isnan(new.values)
    complete = [model for model, share in zip(new.model_ids, known.mean(axis=1), strict=True) if share >= KNOWN_SHARE]
    responses = calibration.responses
    weights, drifted = answer_weights(calibration.items, new.values)
    record = {
        "models": list(new.model_ids),
        "answers": int(known.sum()),
        "drifted": [item for item, has in zip(calibration.item_ids, drifted, strict=True) if has],
    }

    def refined(items: ItemParameters) -> ItemParameters:
        return _refined(items, responses.values, new.values, weights)

    return replace(
        calibration,
        items=refined(calibration.items),
        alternatives=tuple(map(refined, calibration.alternatives)),
        responses=responses.joined(new.models(complete)) if complete else responses,
        provenance={**calibration.provenance, RECALIBRATED: record},
    )


def _new_models(calibration: Calibration, answers: ResponseMatrix, parents: ResponseMatrix | None) -> ResponseMatrix:
    """All answers of models that the calibration lacks, on its items."""
    new = _on_items(answers, calibration.item_ids)
    if parents is not None:
        aligned = align_parents(parents, calibration.item_ids)
        new = new.joined(aligned.models([m for m in aligned.model_ids if m not in new.model_ids]))
    return new.models([model for model in new.model_ids if model not in calibration.responses.model_ids])


def _on_items(answers: ResponseMatrix, item_ids: tuple[str, ...]) -> ResponseMatrix:
    """The answers with the columns ``item_ids``; NaN where nobody was asked."""
    unknown = set(answers.item_ids) - set(item_ids)
    if unknown:
        raise DataError(f"answers: expected items of the calibration, got {min(unknown)!r}, which it does not hold")
    place = {item: position for position, item in enumerate(item_ids)}
    columns = [place[item] for item in answers.item_ids]

    def spread(values: FloatArray) -> FloatArray:
        wide = np.full((answers.n_models, len(item_ids)), np.nan)
        wide[:, columns] = values
        return wide

    soft = None if answers.soft is None else spread(answers.soft)
    return ResponseMatrix(spread(answers.values), answers.model_ids, item_ids, soft=soft)


class Weighing(NamedTuple):
    """How much each answer to an item counts, and which items have drifted, both (n_items,)."""

    weights: FloatArray
    drifted: NDArray[np.bool_]


def answer_weights(items: ItemParameters, answers: FloatArray) -> Weighing:
    """The inverse design effect of each item's ``answers`` (models, items), and 1 for items that have drifted.

    The correlation behind it comes from the median, over the items that most were asked, of (sum of residuals)^2 / sum
    of squares: this is (1 + (m - 1) rho) chi^2_1, whatever a few drifted items do.
    """
    chance = irt.probabilities(items, irt.fit_ability(items, answers).mean)
    residuals = (answers - chance) / np.sqrt(np.maximum(chance * (1.0 - chance), 0.02))
    further = np.maximum((~np.isnan(residuals)).sum(axis=0) - 1, 0)
    inflation = np.nansum(residuals, axis=0) ** 2 / np.maximum(np.nansum(residuals**2, axis=0), 1e-12)
    most = further >= max(1, further.max() / 2)
    if not most.any():
        return Weighing(np.ones(len(further)), np.zeros(len(further), dtype=bool))
    correlation = np.median((inflation[most] / MEDIAN_CHI_SQUARE - 1.0) / further[most])
    effect = 1.0 + further * np.clip(correlation, 0.0, 1.0)
    drifted = (further > 0) & (inflation > DRIFTED**2 * effect)
    return Weighing(np.where(drifted, 1.0, 1.0 / effect), drifted)


def _refined(items: ItemParameters, old: FloatArray, new: FloatArray, weights: FloatArray) -> ItemParameters:
    """The parameters after the answers ``new`` (models, items); ``old`` are those that they were fitted to."""
    parameters = np.column_stack([items.discrimination, items.difficulty])
    # What an item owes to its prior among all items, it owes it still.
    of_prior = np.linalg.inv(np.cov(parameters.T) + 1e-3 * np.eye(parameters.shape[1]))
    of_answers, design = _information(items, old), _design(irt.fit_ability(items, new).mean)
    for place in np.flatnonzero((~np.isnan(new)).any(axis=0)):
        parameters[place] = irt.fit_logistic(
            design,
            0.0,
            new[:, place],
            mean=parameters[place],
            precision=of_prior + of_answers[place],
            weights=weights[place],
        ).mean
    return ItemParameters(parameters[:, :-1], parameters[:, -1])


def _information(items: ItemParameters, answers: FloatArray) -> FloatArray:
    """Fisher information of the answers about each item's (a, b), shape (n_items, D + 1, D + 1)."""
    abilities = irt.fit_ability(items, answers).mean
    chance = irt.probabilities(items, abilities)
    weights = np.where(np.isnan(answers), 0.0, chance * (1.0 - chance))
    design = _design(abilities)
    return np.asarray(np.einsum("mj,mp,mq->jpq", weights, design, design), dtype=np.float64)


def _design(abilities: FloatArray) -> FloatArray:
    """(theta, -1), so that the logit is its product with (a, b)."""
    return np.column_stack([abilities, np.full(len(abilities), -1.0)])
