"""Adaptive testing of one model: which items to ask next, and what the answers so far say of its accuracy.

Two kinds of items are asked. Those of a probability sample are drawn before any answer is known, so they may speak of
the items that are not asked. Those of the adaptive part are chosen, given the answers, because they tell most; they fix
the model's ability, but no mean of them says anything about the benchmark. The estimate is therefore an IRT estimate on
all answers, corrected by the residuals of the probability sample alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy, deepcopy
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

from merge3_plugin.domain import FloatArray, ItemParameters
from merge3_plugin.irt import Posterior, fit_logistic, sigmoid

Positions = NDArray[np.intp]

# Randomesque exposure control (Kingsbury and Zara 1989): each item is drawn from so many that tell most, so that not
# every model is asked the same few, whose parameters look best because they are most overfitted.
CANDIDATES = 5

# What adaptive items are to tell: all of the ability (D-optimal: the determinant of its information), or the one
# direction of it along which the accuracy changes (c-optimal). In one dimension both are maximum information.
ABILITY, ACCURACY = "ability", "accuracy"

# By then the ability is known: a further item of the probability sample tells more.
MOST_ADAPTIVE = 50

# How many standard errors of the probability sample an estimate may keep away from what the sample alone says.
LIMIT = 2.0

_NODES, _NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(7)
_NODE_WEIGHTS = _NODE_WEIGHTS / _NODE_WEIGHTS.sum()


class Policy(NamedTuple):
    """``share`` in [0, 1] of the items is chosen adaptively, to learn ``aim``; the others are a probability sample.

    No more than `MOST_ADAPTIVE` are chosen adaptively.
    """

    share: float
    aim: str = ACCURACY


@dataclass(frozen=True, eq=False)
class Latent:
    """What a model's answers are regressed on: logit = design . coefficients + offset, coefficients under a prior.

    ``design`` (N, p), ``offset`` (N,). The prior is normal around ``mean`` with this ``precision`` in every direction.
    """

    design: FloatArray
    offset: FloatArray
    mean: float
    precision: float

    @classmethod
    def of_ability(cls, items: ItemParameters, precision: float = 1.0) -> Latent:
        """The coefficients are the ability, whose prior has mean 0."""
        return cls(items.discrimination, -items.difficulty, 0.0, precision)

    @classmethod
    def of_merge(cls, items: ItemParameters, parents: FloatArray) -> Latent:
        """The coefficients are the lambdas that mix the abilities ``parents`` (P, D) (see `merged_probabilities`).

        Their information is J^T I J, with I that about the ability and J the parents' abilities.
        """
        return cls(items.discrimination @ parents.T, -items.difficulty, 1.0 / len(parents), float(len(parents)))

    def take(self, positions: Positions) -> Latent:
        """The same of these items alone."""
        return Latent(self.design[positions], self.offset[positions], self.mean, self.precision)

    def posterior(self, positions: Positions, scores: FloatArray) -> Posterior:
        """Of the coefficients, given these answers; the prior where there are none."""
        return fit_logistic(
            self.design[positions], self.offset[positions], scores, mean=self.mean, precision=self.precision
        )

    def expected(self, posterior: Posterior) -> tuple[FloatArray, FloatArray]:
        """Mean over the posterior of each item's probability p of a right answer, and of p (1 - p); both (N,)."""
        centre = self.design @ posterior.mean + self.offset
        spread = np.sqrt((self.design @ posterior.covariance * self.design).sum(axis=1))
        chance = sigmoid(centre[:, None] + spread[:, None] * _NODES)
        return chance @ _NODE_WEIGHTS, (chance * (1.0 - chance)) @ _NODE_WEIGHTS


class Terms(NamedTuple):
    """What answers say of the accuracy: IRT ``by_model``, and the probability sample's mean ``residual``.

    ``by_model`` takes the answers where they are known; ``unasked`` is the weight of the other items. ``noise`` is the
    variance of the residual over draws of the sample: infinite without one.
    """

    by_model: float
    unasked: float
    residual: float
    noise: float


def combined(terms: Iterable[ArrayLike], misfit: float) -> FloatArray:
    """The accuracy by `Terms`, arrays of one shape, where the mean of the IRT's probabilities errs by ``misfit`` (rms).

    The unasked items are corrected by the share b^2 / (b^2 + noise) of the residual, which has the least mean squared
    error over models (as in `ShrunkenDifference`). A single model may be unlike them all: what is left of the residual
    is at most `LIMIT` standard errors of it (limited translation: Efron and Morris, JASA 67, 1972).
    """
    by_model, unasked, residual, noise = (np.asarray(term, dtype=np.float64) for term in terms)
    left = residual / (1.0 + misfit**2 / np.maximum(noise, 1e-12))
    limit = LIMIT * np.sqrt(noise)
    return np.clip(by_model + unasked * (residual - np.clip(left, -limit, limit)), 0.0, 1.0)


class AdaptiveTest:
    """One model's test: what it was asked, what it answered, and what to ask next.

    Items are positions in ``latent``; ``weights`` (N,), of sum 1, are their shares of the accuracy. Everything random
    is drawn from ``rng``; to be independent of the order of the items, sort them by id.
    """

    def __init__(self, latent: Latent, weights: FloatArray, policy: Policy, rng: Generator) -> None:
        self.latent, self.weights, self.policy = latent, weights, policy
        self.scores = np.full(len(weights), np.nan)
        self.posterior = latent.posterior(np.zeros(0, dtype=np.intp), np.zeros(0))
        self._rng = rng
        self._expected, self._information = latent.expected(self.posterior)
        self._order = probability_order(self._expected, weights, rng)
        self._n_sampled = self._sampled_to = 0

    def under(self, policy: Policy) -> AdaptiveTest:
        """The same test under another policy, which goes on by itself: same answers so far, and the same draws."""
        other = copy(self)
        other.policy, other.scores, other._rng = policy, self.scores.copy(), deepcopy(self._rng)
        return other

    @property
    def asked(self) -> Positions:
        """The answered items, ascending."""
        return np.flatnonzero(~np.isnan(self.scores))

    @property
    def sample(self) -> Positions:
        """The probability sample: an order drawn beforehand, up to the last item that was asked because of it.

        Items before it that were asked adaptively belong to it; those right after it do not, for what was chosen by
        its answers would then decide how far the sample goes.
        """
        return self._order[: self._sampled_to]

    def choose(self, size: int) -> Positions:
        """The next ``size`` items, fewer if fewer are left; a test without answers begins with the probability sample.

        Those of the sample come first, then the adaptive ones, by what they tell beside all before.
        """
        free = np.isnan(self.scores)
        n_asked, size = int((~free).sum()), min(size, int(free.sum()))
        wanted = min(int(self.policy.share * (n_asked + size) + 1e-9), MOST_ADAPTIVE) - (n_asked - self._n_sampled)
        if not n_asked and self.policy.share < 1:
            wanted = 0
        n_adaptive = min(max(wanted, 0), size)
        places = np.flatnonzero(free[self._order])[: size - n_adaptive]
        sampled = self._order[places]
        self._n_sampled += len(sampled)
        self._sampled_to = int(places[-1]) + 1 if len(places) else self._sampled_to
        free[sampled] = False
        return np.concatenate([sampled, self._most_informative(sampled, free, n_adaptive)])

    def tell(self, positions: Positions, scores: FloatArray) -> None:
        """Take the answers to these items."""
        self.scores[positions] = scores
        asked = self.asked
        self.posterior = self.latent.posterior(asked, self.scores[asked])
        self._expected, self._information = self.latent.expected(self.posterior)

    def terms(self) -> Terms:
        """What the answers so far say of the accuracy."""
        known = ~np.isnan(self.scores)
        by_model = float(self.weights @ np.where(known, self.scores, self._expected))
        unasked, sample = float(self.weights[~known].sum()), self.sample
        if not len(sample):
            return Terms(by_model, unasked, 0.0, np.inf)
        residual = float((self.scores[sample] - self._expected[sample]).mean())
        # By the IRT, or by the sample itself, as if half an answer more were right and half a one wrong.
        right = (self.scores[sample].sum() + 0.5) / (len(sample) + 1)
        variance = min(float(self.weights @ (self._expected * (1.0 - self._expected))), right * (1.0 - right))
        noise = variance / len(sample) * (1.0 - len(sample) / len(self.scores))
        return Terms(by_model, unasked, residual, noise)

    def _most_informative(self, given: Positions, free: NDArray[np.bool_], size: int) -> Positions:
        """``size`` of the ``free`` items, chosen jointly: greedily, each beside ``given`` and those chosen before."""
        design, information = self.latent.design, self._information
        covariance = np.array(self.posterior.covariance)
        variances = (design @ covariance * design).sum(axis=1)  # of the logits
        gradient = (self.weights * information) @ design  # of the accuracy
        slopes = design @ (covariance @ gradient)  # covariances of logits and accuracy
        chosen: list[int] = []
        for step in range(len(given) + size if size else 0):
            if step < len(given):
                item = int(given[step])
            else:
                gain = information * variances
                if self.policy.aim == ACCURACY:
                    gain = information * slopes**2 / (1.0 + gain)
                item = self._draw(np.where(free, gain, -np.inf), int(free.sum()))
                free[item] = False
                chosen.append(item)
            # What this item is expected to tell, before it is asked: a rank-one update (Sherman and Morrison 1950).
            along = covariance @ design[item]
            scale = information[item] / (1.0 + information[item] * variances[item])
            shared = design @ along
            covariance -= scale * np.outer(along, along)
            slopes -= scale * (along @ gradient) * shared
            variances -= scale * shared**2
        return np.array(chosen, dtype=np.intp)

    def _draw(self, gain: FloatArray, n_free: int) -> int:
        candidates = min(CANDIDATES, n_free)
        return int(self._rng.choice(np.sort(np.argpartition(-gain, candidates - 1)[:candidates])))


def probability_order(expected: FloatArray, weights: FloatArray, rng: Generator) -> Positions:
    """All items, in an order each of whose heads is a probability sample, stratified by the ``expected`` scores (N,).

    The items lie side by side, by expected score, each as long as its share of ``weights``, and are taken as the points
    of a van der Corput sequence under nested uniform scrambling (Owen 1995) hit them. Every point is uniform, so an
    item is among the first n with probability n times its weight as long as none is hit twice, and the mean of n scores
    is unbiased for the weighted mean; the first 2^k points lie in 2^k strata of equal weight.
    """
    shuffled = rng.permutation(len(weights))
    ranked = shuffled[np.argsort(expected[shuffled], kind="stable")]
    cells = np.zeros(1, dtype=np.int64)
    while len(cells) < 8 * len(weights):
        half = rng.integers(0, 2, size=len(cells))
        cells = np.concatenate([2 * cells + half, 2 * cells + 1 - half])
    points = (cells + rng.random(len(cells))) / len(cells)
    ends = np.cumsum(weights[ranked])
    hits = np.minimum(np.searchsorted(ends / ends[-1], points, side="right"), len(weights) - 1)
    drawn = np.concatenate([hits, np.arange(len(weights))])  # so that those too light to be hit come last
    _, first = np.unique(drawn, return_index=True)
    return ranked[drawn[np.sort(first)]]
