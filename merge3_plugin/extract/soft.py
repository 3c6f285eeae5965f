"""The soft score of an item: the probability that a model gives to its right option."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

# What lm-eval divides an option's log-likelihood by before it takes the greatest.
_LENGTHS = {
    "acc": lambda choice: 1.0,
    "acc_norm": lambda choice: float(len(choice)),
    "acc_bytes": lambda choice: float(len(choice.encode("utf-8"))),
}


def soft_score(
    metric: str, log_likelihoods: Sequence[float], choices: Sequence[str], right: Collection[int]
) -> float | None:
    """Share of the options at the places ``right`` in the softmax over all options, from what ``metric`` compares.

    That is the log-likelihood itself (acc), by character (acc_norm), by byte (acc_bytes), or less that of the option
    without its context (acc_mutual_info); those without context stand behind the others in ``log_likelihoods``. The one
    option of a loglikelihood task has its own probability. None for another metric, where no option is right, and where
    a log-likelihood is not finite.
    """
    compared = compared_options(metric, log_likelihoods, choices)
    if compared is None or not right:
        return None
    if len(choices) == 1:
        return min(1.0, math.exp(log_likelihoods[0])) if metric == "acc" else None
    greatest = max(compared)
    shares = [math.exp(value - greatest) for value in compared]
    return min(1.0, sum(shares[place] for place in right) / sum(shares))


def compared_options(metric: str, log_likelihoods: Sequence[float], choices: Sequence[str]) -> list[float] | None:
    """What lm-eval's ``metric`` compares, by option; None for another metric, and for numbers that are not finite."""
    n = len(choices)
    if not n or len(log_likelihoods) not in (n, 2 * n) or not all(map(math.isfinite, log_likelihoods)):
        return None
    if metric == "acc_mutual_info" and len(log_likelihoods) == 2 * n:
        return [log_likelihoods[i] - log_likelihoods[n + i] for i in range(n)]
    if metric not in _LENGTHS or not all(map(_LENGTHS[metric], choices)):
        return None
    return [log_likelihoods[i] / _LENGTHS[metric](choice) for i, choice in enumerate(choices)]


def right_options(target: Any, choices: Sequence[str]) -> frozenset[int]:
    """Places of the right options, of which lm-eval's ``target`` is the place, the text, or a list of places."""
    places = set()
    for one in target if isinstance(target, list) else [target]:
        if isinstance(one, int) and 0 <= one < len(choices):
            places.add(int(one))
        elif isinstance(one, str) and one in choices:
            places.add(list(choices).index(one))
    return frozenset(places)
