"""Adaptive tests of models whose accuracy is known, by item parameters fitted to others: which policy errs how much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from merge3_plugin.calibrate.folds import Folds
from merge3_plugin.domain import FloatArray, ItemParameters, ResponseMatrix
from merge3_plugin.estimate.ability import parent_abilities
from merge3_plugin.estimate.adaptive import AdaptiveTest, Latent, Policy, combined
from merge3_plugin.estimate.interval import variance_unit

# Tests to simulate under each policy: of so many models, or with fewer models several of each, up to a limit.
TESTS, TESTS_OF_ONE = 64, 8
# Beyond so many items a simulation costs more than it tells.
MOST_ITEMS = 800

# Misfits of the IRT's mean that are tried: from exact to worse than knowing nothing.
_MISFITS = (0.0, *np.geomspace(0.001, 0.3, 24))


@dataclass(frozen=True, eq=False)
class SimulatedTests:
    """T tests of each of M models, seen after ``sizes`` (K,) items, ascending.

    ``terms`` (4, M, T, K) are their `Terms`; ``accuracies`` (M,) are the models' own. ``n_items`` is the size of the
    benchmark.
    """

    policy: Policy
    n_items: int
    sizes: FloatArray
    accuracies: FloatArray
    terms: FloatArray

    @cached_property
    def _units(self) -> FloatArray:
        return np.array([variance_unit(size, self.n_items) for size in self.sizes])

    @cached_property
    def _deviations(self) -> FloatArray:
        """Estimate less accuracy by misfit, shape (B, M, T, K)."""
        return np.array([combined(self.terms, b) for b in _MISFITS]) - self.accuracies[:, None, None]

    @cached_property
    def _losses(self) -> FloatArray:
        """Mean absolute error, small and large sizes alike, by misfit and model; shape (B, M)."""
        return np.asarray((np.abs(self._deviations) / np.sqrt(self._units)).mean(axis=(2, 3)))

    @property
    def misfit(self) -> float:
        """The misfit under which the tests err least."""
        return float(_MISFITS[int(self._losses.mean(axis=1).argmin())])

    @cached_property
    def deviations(self) -> FloatArray:
        """Estimate less accuracy, shape (M, T, K), by the misfit under which tests of the other models err least."""
        others = self._losses.sum(axis=1, keepdims=True) - self._losses
        return self._deviations[others.argmin(axis=0), np.arange(len(self.accuracies))]

    @property
    def relative_errors(self) -> FloatArray:
        """Mean absolute error of each model's tests, shape (M, K), such that small and large sizes are alike."""
        return np.asarray(np.abs(self.deviations).mean(axis=1) / np.sqrt(self._units))

    @property
    def squares(self) -> FloatArray:
        """Mean squared error of each model's tests, shape (M, K)."""
        return np.asarray((self.deviations**2).mean(axis=1))

    @property
    def variances(self) -> FloatArray:
        """Mean over the models of a random sample's variance, shape (K,)."""
        return float(np.mean(self.accuracies * (1.0 - self.accuracies))) * self._units


def test_sizes(batch: int, most: int, n_items: int) -> list[int]:
    """Numbers of items after which a simulated test is looked at: by ``batch`` at first, then by a quarter more each.

    The last one is ``most``, or all items but one.
    """
    end = min(most, MOST_ITEMS, n_items - 1)
    sizes = [min(batch, end)]
    while sizes[-1] < end:
        sizes.append(min(end, sizes[-1] + max(batch, sizes[-1] // 4)))
    return sizes


def simulate(folds: Folds, policies: Sequence[Policy], sizes: Sequence[int]) -> list[SimulatedTests]:
    """Tests of the left-out models under each policy; items that a model was not asked are left out of its benchmark.

    All policies draw the same probability samples.
    """
    responses = folds.responses
    columns = np.array(sorted(range(responses.n_items), key=responses.item_ids.__getitem__))
    left_out = [(fold, int(row)) for fold in folds.folds for row in fold.left_out[: -(-TESTS // len(folds.folds))]]
    n_tests = min(-(-TESTS // len(left_out)), TESTS_OF_ONE)
    accuracies = np.empty(len(left_out))
    terms = np.empty((len(policies), len(left_out), n_tests, len(sizes), 4))
    for place, (fold, row) in enumerate(left_out):
        asked = columns[~np.isnan(responses.values[row, columns])]
        answers, weights = responses.values[row, asked], responses.item_weights[asked]
        weights = weights / weights.sum()
        latent = latent_of(fold.items, folds.parents).take(asked)
        accuracies[place] = weights @ answers
        for draw in range(n_tests):
            rng = folds.rng("adaptive", responses.model_ids[row], draw)
            begun = AdaptiveTest(latent, weights, policies[0], rng)
            for of_policy, policy in zip(terms, policies, strict=True):
                test = begun.under(policy)
                for step, size in enumerate(sizes):
                    chosen = test.choose(size - len(test.asked))
                    test.tell(chosen, answers[chosen])
                    of_policy[place, draw, step] = test.terms()
    return [
        SimulatedTests(policy, responses.n_items, np.array(sizes, float), accuracies, np.moveaxis(of_policy, 3, 0))
        for of_policy, policy in zip(terms, policies, strict=True)
    ]


def latent_of(items: ItemParameters, parents: ResponseMatrix | None, precision: float = 1.0) -> Latent:
    """The lambdas of a merge where its parents are known, else the ability."""
    if parents is None:
        return Latent.of_ability(items, precision)
    return Latent.of_merge(items, parent_abilities(items, parents, precision))
