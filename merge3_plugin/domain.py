"""Value types shared by every step; each checks itself when built, so that no later step has to.

Arrays are copied, made read-only and owned by the instance. Items are always named by id, never by position.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from merge3_plugin import checks
from merge3_plugin.checks import FloatArray
from merge3_plugin.errors import DataError

__all__ = [
    "LOGIT_CONVENTION",
    "AnchorSet",
    "Calibration",
    "Estimate",
    "FloatArray",
    "ItemParameters",
    "ResponseMatrix",
    "check_scores",
]

# P(right) = sigmoid(discrimination . ability - difficulty): one number of difficulty an item, whatever the dimension.
LOGIT_CONVENTION = "a.theta - b"


@dataclass(frozen=True, eq=False)
class ResponseMatrix:
    """Scores of models on items.

    ``values`` has shape (n_models, n_items), in [0, 1]; NaN means that the model was not asked the item.
    ``item_groups`` names the sub-task of each item, or is None. ``soft`` (n_models, n_items) holds, for multiple
    choice, the probability that the model gives the right option among the options, NaN where it is not known; None
    where it is known nowhere. ``balance`` (n_items,) says how much each item counts in the benchmark's accuracy, in any
    unit; None where all count alike. Raises DataError on wrong shapes, scores outside [0, 1], doubled ids, or a balance
    that is not positive.
    """

    values: FloatArray
    model_ids: tuple[str, ...]
    item_ids: tuple[str, ...]
    item_groups: tuple[str, ...] | None = None
    soft: FloatArray | None = None
    balance: FloatArray | None = None

    def __init__(
        self,
        values: ArrayLike,
        model_ids: Iterable[Any],
        item_ids: Iterable[Any],
        item_groups: Iterable[Any] | None = None,
        *,
        soft: ArrayLike | None = None,
        balance: ArrayLike | None = None,
    ) -> None:
        array = checks.frozen(values, 2, "response matrix")
        models, items = checks.unique(model_ids, "model ids"), checks.unique(item_ids, "item ids")
        if array.shape != (len(models), len(items)):
            raise DataError(
                f"response matrix: expected shape (models, items) = ({len(models)}, {len(items)}), got {array.shape}"
            )
        checks.check_unit(array, "response matrix")
        groups = None if item_groups is None else tuple(str(g) for g in item_groups)
        if groups is not None and len(groups) != len(items):
            raise DataError(f"item groups: expected {len(items)}, one for each item, got {len(groups)}")
        graded = None if soft is None else checks.checked_soft(soft, array.shape)
        for name, value in (
            ("values", array),
            ("model_ids", models),
            ("item_ids", items),
            ("item_groups", groups),
            ("soft", graded),
            ("balance", None if balance is None else checks.checked_balance(balance, len(items))),
        ):
            object.__setattr__(self, name, value)

    @property
    def n_models(self) -> int:
        return len(self.model_ids)

    @property
    def n_items(self) -> int:
        return len(self.item_ids)

    @cached_property
    def item_weights(self) -> FloatArray:
        """Each item's share of the benchmark's accuracy, shape (n_items,), of sum 1."""
        balance = np.ones(self.n_items) if self.balance is None else self.balance
        return balance / balance.sum()

    def accuracy(self) -> FloatArray:
        """Mean score of each model over the items it was asked, shape (n_models,), by ``item_weights``.

        NaN where it was asked none.
        """
        counts = np.ones(self.n_items) if self.balance is None else self.balance
        asked, right = ~np.isnan(self.values) @ counts, np.nan_to_num(self.values) @ counts
        return np.divide(right, asked, out=np.full(self.n_models, np.nan), where=asked > 0)

    def models(self, model_ids: Iterable[str]) -> ResponseMatrix:
        """The rows of these models, in this order. Raises DataError for a model that is not here."""
        rows = checks.positions(self.model_ids, model_ids, "model")
        return ResponseMatrix(
            self.values[rows],
            [self.model_ids[r] for r in rows],
            self.item_ids,
            self.item_groups,
            soft=None if self.soft is None else self.soft[rows],
            balance=self.balance,
        )

    def items(self, item_ids: Iterable[str]) -> ResponseMatrix:
        """The columns of these items, in this order. Raises DataError for an item that is not here."""
        columns = checks.positions(self.item_ids, item_ids, "item")
        return ResponseMatrix(
            self.values[:, columns],
            self.model_ids,
            [self.item_ids[c] for c in columns],
            None if self.item_groups is None else [self.item_groups[c] for c in columns],
            soft=None if self.soft is None else self.soft[:, columns],
            balance=None if self.balance is None else self.balance[columns],
        )

    def joined(self, other: ResponseMatrix) -> ResponseMatrix:
        """The rows of both; groups and balance are this one's. Raises DataError unless they have the same items."""
        if other.item_ids != self.item_ids:
            raise DataError("responses: expected two matrices of the same items in the same order, got other ones")
        soft = None
        if self.soft is not None or other.soft is not None:
            soft = np.vstack([np.full(m.values.shape, np.nan) if m.soft is None else m.soft for m in (self, other)])
        return ResponseMatrix(
            np.vstack([self.values, other.values]),
            [*self.model_ids, *other.model_ids],
            self.item_ids,
            self.item_groups,
            soft=soft,
            balance=self.balance,
        )


@dataclass(frozen=True, eq=False)
class ItemParameters:
    """2PL parameters: ``discrimination`` (n_items, D) and ``difficulty`` (n_items,), in ``LOGIT_CONVENTION``."""

    discrimination: FloatArray
    difficulty: FloatArray

    def __post_init__(self) -> None:
        object.__setattr__(self, "discrimination", checks.frozen(self.discrimination, 2, "discrimination"))
        object.__setattr__(self, "difficulty", checks.frozen(self.difficulty, 1, "difficulty"))
        if len(self.discrimination) != len(self.difficulty):
            raise DataError(
                f"item parameters: expected one difficulty for each of {len(self.discrimination)} items, "
                f"got {len(self.difficulty)}"
            )
        if not (np.isfinite(self.discrimination).all() and np.isfinite(self.difficulty).all()):
            raise DataError("item parameters: expected finite numbers, got NaN or infinity; fit them again")

    @property
    def n_dimensions(self) -> int:
        return self.discrimination.shape[1]

    def take(self, positions: ArrayLike) -> ItemParameters:
        """The parameters of the items at these positions, in this order."""
        rows = np.asarray(positions, dtype=np.intp)
        return ItemParameters(self.discrimination[rows], self.difficulty[rows])


@dataclass(frozen=True, eq=False)
class AnchorSet:
    """The items a candidate is scored on: ids, weights (n,) of sum 1, and the ``method`` that chose them.

    ``inclusion`` (n,), in (0, 1], is the probability with which the method draws each anchor; None where it chooses
    rather than draws, so that no estimator may claim to be unbiased by design.
    """

    item_ids: tuple[str, ...]
    weights: FloatArray
    method: str
    inclusion: FloatArray | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "item_ids", checks.unique(self.item_ids, "anchor ids"))
        weights = checks.frozen(self.weights, 1, "anchor weights")
        if not self.item_ids:
            raise DataError("anchors: expected at least one item, got none; ask for more anchors")
        if len(weights) != len(self.item_ids):
            raise DataError(f"anchor weights: expected {len(self.item_ids)}, one for each anchor, got {len(weights)}")
        if not np.isfinite(weights).all() or (weights < 0).any() or not np.isclose(weights.sum(), 1.0):
            raise DataError(f"anchor weights: expected finite, non-negative, of sum 1; got sum {weights.sum():g}")
        object.__setattr__(self, "weights", weights)
        if self.inclusion is not None:
            object.__setattr__(self, "inclusion", checks.checked_inclusion(self.inclusion, len(weights)))

    def __len__(self) -> int:
        return len(self.item_ids)


@dataclass(frozen=True, eq=False)
class Calibration:
    """Everything that turns answers on the anchors into an estimate; what one calibration file holds.

    ``item_ids`` (N) names every item of the benchmark, in the order of ``items``; ``anchors`` is a subset of them.
    ``responses`` holds the calibration models' answers on those items (NaN: not asked), from which error and intervals
    are cross-validated; how much each item counts stands there too. ``alternatives`` are fits of the same answers in
    other numbers of dimensions, for ensembles. ``item_hashes`` (N) are content hashes, or None where the documents were
    not seen. ``errors`` maps an estimator's name to its cross-validated root mean squared error at this number of
    anchors. ``provenance`` is plain JSON: task, metric, filter, num_fewshot, chat_template, dataset, revision, models,
    seed, version ...
    """

    item_ids: tuple[str, ...]
    items: ItemParameters
    anchors: AnchorSet
    responses: ResponseMatrix
    item_hashes: tuple[str, ...] | None = None
    errors: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    alternatives: tuple[ItemParameters, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "item_ids", checks.unique(self.item_ids, "item ids"))
        n = len(self.item_ids)
        for fit in (self.items, *self.alternatives):
            if len(fit.difficulty) != n:
                raise DataError(f"calibration: expected parameters for {n} items, got {len(fit.difficulty)}")
        if self.responses.item_ids != self.item_ids:
            raise DataError("calibration: expected the responses' items to be the calibration's, in the same order")
        if self.item_hashes is not None and len(self.item_hashes) != n:
            raise DataError(f"calibration: expected {n} item hashes, got {len(self.item_hashes)}")
        checks.positions(self.item_ids, self.anchors.item_ids, "anchor")

    @property
    def n_items(self) -> int:
        return len(self.item_ids)

    @property
    def ability_precision(self) -> float:
        """Precision of the normal prior of abilities, of mean 0: 1, as our fits scale them.

        Parameters that were made elsewhere have another scale, of which the provenance speaks.
        """
        return float(self.provenance.get("ability_precision", 1.0))

    def anchor_positions(self) -> NDArray[np.intp]:
        """Where the anchors stand among ``item_ids``, shape (n,)."""
        return np.array(checks.positions(self.item_ids, self.anchors.item_ids, "anchor"), dtype=np.intp)


@dataclass(frozen=True)
class Estimate:
    """Estimated accuracy over ``n_items`` items from ``n_scored`` of them, with its 95 % ``interval`` (low, high)."""

    accuracy: float
    standard_error: float
    interval: tuple[float, float]
    method: str
    n_scored: int
    n_items: int

    def __post_init__(self) -> None:
        low, high = self.interval
        if not (np.isfinite([self.accuracy, self.standard_error, low, high]).all() and self.standard_error >= 0):
            raise DataError(
                f"estimate: expected finite numbers, got {self.accuracy} +- {self.standard_error} in {self.interval}"
            )
        if not low <= self.accuracy <= high:
            raise DataError(f"estimate: expected the interval to hold {self.accuracy:g}, got {self.interval}")


def check_scores(scores: Mapping[str, float], known: Iterable[str]) -> dict[str, float]:
    """``scores`` (item id -> score) as floats, checked: at least one, ids among ``known``, values in [0, 1], no NaN."""
    allowed = known if isinstance(known, AbstractSet) else set(known)
    checked: dict[str, float] = {}
    for item, score in scores.items():
        if str(item) not in allowed:
            raise DataError(f"scores: expected items of the calibration, got {str(item)!r}; score its anchors")
        try:
            value = float(score)
        except (TypeError, ValueError):
            raise DataError(f"scores: expected a number in [0, 1] for item {str(item)!r}, got {score!r}") from None
        if not 0.0 <= value <= 1.0:
            raise DataError(f"scores: expected a number in [0, 1] for item {str(item)!r}, got {value}")
        checked[str(item)] = value
    if not checked:
        raise DataError("scores: expected at least one answered item, got none; score the calibration's anchors")
    return checked
