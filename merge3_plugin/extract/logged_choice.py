"""Soft scores from lm-eval's sample logs, by the definition of live scoring."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from merge3_plugin.extract.soft import compared_options, right_options, soft_score


@dataclass(frozen=True)
class LoggedChoice:
    """One item's options as lm-eval logs them.

    ``continuations`` are the options' texts behind ``target_delimiter``, all alike where the options are in the prompts
    (``in_prompts``); ``greedy`` says which of them the model would generate; ``target`` is str() of the task's target.
    """

    log_likelihoods: tuple[float, ...]
    greedy: tuple[bool, ...]
    continuations: tuple[str, ...]
    in_prompts: bool
    target: str


def logged_choice(sample: Mapping[str, Any]) -> LoggedChoice | None:
    """The options in one line of a sample log; None where it holds no log-likelihoods, or not what they are of."""
    responses, arguments, target = (sample.get(key) for key in ("filtered_resps", "arguments", "target"))
    if not (isinstance(responses, list) and isinstance(arguments, Mapping) and isinstance(target, str)):
        return None
    asked: list[Any] = [arguments.get(f"gen_args_{i}") for i in range(len(responses))]
    try:
        pairs = [(request["arg_0"], request["arg_1"]) for request in asked]
        numbers = [(float(value), {"True": True, "False": False}[greedy]) for value, greedy in responses]
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    if not pairs or not all(isinstance(text, str) for pair in pairs for text in pair):
        return None
    if "acc_mutual_info" in sample and len(pairs) % 2 == 0:
        pairs = pairs[: len(pairs) // 2]  # the options once more, without a prompt
    prompts, continuations = zip(*pairs, strict=True)
    in_prompts = len(set(prompts)) > 1 and len(set(continuations)) == 1
    log_likelihoods, greedy = zip(*numbers, strict=True)
    return LoggedChoice(log_likelihoods, greedy, continuations, in_prompts, target)


def logged_soft_scores(
    metric: str, choices: Sequence[LoggedChoice | None], scores: Sequence[float], target_delimiter: str
) -> list[float]:
    """Soft score of each item of one log, NaN where the log does not tell it.

    ``scores`` are the logged ones. A target may be a place or a text, and a task may score in a way of its own: a
    reading of the log is believed if it explains every one of the scores. Of two such, the one that finds a right
    option in more of the items is; where they differ in nothing but what they find, all is unknown.
    """
    unknown = [math.nan] * len(scores)
    readings = []
    for by_place in (True, False):
        read = [
            None if choice is None else _read(metric, choice, score, target_delimiter, by_place)
            for choice, score in zip(choices, scores, strict=True)
        ]
        if all(one is not None and one[0] == score for one, score in zip(read, scores, strict=True)):
            readings.append([one[1] for one in read if one is not None])
    readings.sort(key=lambda reading: reading.count(None))
    if not readings or (readings[0] != readings[-1] and readings[0].count(None) == readings[-1].count(None)):
        return unknown
    return [math.nan if soft is None else soft for soft in readings[0]]


def _read(
    metric: str, choice: LoggedChoice, score: float, target_delimiter: str, by_place: bool
) -> tuple[float, float | None] | None:
    """(score, soft score) of an item by one reading of its target; None where the metric is not one of options."""
    if len(choice.continuations) == 1:
        soft = soft_score(metric, choice.log_likelihoods, choice.continuations, {0})
        return (float(choice.greedy[0]), soft) if metric == "acc" else None
    # What the options in prompts are called is not logged; that is needed for their lengths alone.
    texts = [""] * len(choice.continuations) if choice.in_prompts else _options(choice, target_delimiter)
    compared = compared_options(metric, choice.log_likelihoods, texts)
    if compared is None:
        return None
    best = compared.index(max(compared))
    if choice.in_prompts:
        if len(texts) != 2:  # nor is the right one logged: of two, the score tells which it is
            return None
        right = frozenset({best if score else 1 - best})
    else:
        right = right_options(_target(choice.target) if by_place else choice.target, texts)
    return float(best in right), soft_score(metric, choice.log_likelihoods, texts, right)


def _options(choice: LoggedChoice, target_delimiter: str) -> list[str]:
    return [continuation.removeprefix(target_delimiter) for continuation in choice.continuations]


def _target(text: str) -> Any:
    """The place, or list of places, whose str() is ``text``; another text is itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text
