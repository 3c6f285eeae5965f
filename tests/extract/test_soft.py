"""The soft score against values worked out by hand, and what logged samples tell of it."""

from __future__ import annotations

import math

import pytest

from merge3_plugin.extract.logged_choice import logged_choice, logged_soft_scores
from merge3_plugin.extract.soft import right_options, soft_score

LOG = math.log


@pytest.mark.parametrize(
    ("metric", "log_likelihoods", "choices", "right", "expected"),
    [
        ("acc", [LOG(0.1), LOG(0.3)], ["a", "bbb"], {0}, 0.25),
        ("acc", [LOG(0.1), LOG(0.3)], ["a", "bbb"], {1}, 0.75),
        ("acc", [LOG(0.1), LOG(0.3), LOG(0.1)], ["a", "b", "c"], {0, 1}, 0.8),
        ("acc", [-800.0, -900.0], ["a", "b"], {0}, 1.0),  # e^-800 is no number of ours
        ("acc", [-800.0, -900.0], ["a", "b"], {1}, math.exp(-100.0)),
        ("acc_norm", [LOG(0.1), 3 * LOG(0.3)], ["a", "bbb"], {1}, 0.75),
        ("acc_norm", [LOG(0.1), LOG(0.3)], ["", "b"], {1}, None),
        ("acc_bytes", [LOG(0.1), 3 * LOG(0.3)], ["a", "一"], {1}, 0.75),
        ("acc_mutual_info", [LOG(0.1), LOG(0.3), LOG(0.2), LOG(0.3)], ["a", "b"], {1}, 2 / 3),
        ("acc", [LOG(0.1), LOG(0.3), LOG(0.2), LOG(0.3)], ["a", "b"], {1}, 0.75),
        ("acc", [LOG(0.1), LOG(0.3)], ["a", "b"], set(), None),
        ("acc", [math.nan, LOG(0.3)], ["a", "b"], {1}, None),
        ("acc", [-math.inf, LOG(0.3)], ["a", "b"], {1}, None),
        ("acc", [LOG(0.1), LOG(0.3), LOG(0.3)], ["a", "b"], {1}, None),
        ("acc", [LOG(0.2)], ["a"], {0}, 0.2),  # of a loglikelihood task
        ("acc", [1e-9], ["a"], {0}, 1.0),
        ("perplexity", [LOG(0.2)], ["a"], {0}, None),
        ("acc", [], [], set(), None),
        ("f1", [LOG(0.1), LOG(0.3)], ["a", "b"], {1}, None),
    ],
)
def test_the_share_of_the_right_options(metric, log_likelihoods, choices, right, expected):
    assert soft_score(metric, log_likelihoods, choices, right) == (
        None if expected is None else pytest.approx(expected)
    )


@pytest.mark.parametrize(
    ("target", "places"),
    [
        (1, {1}),
        (True, {1}),
        ([0, 2], {0, 2}),
        ([0, 3], {0}),
        ("b", {1}),
        ("d", set()),
        (3, set()),
        (-1, set()),
        (None, set()),
    ],
)
def test_targets_are_places_or_texts(target, places):
    assert right_options(target, ["a", "b", "c"]) == places


def sample(options: dict[str, float], target: str, *, prompts: list[str] | None = None, **more) -> dict:
    """A line of a log: option texts with their probabilities."""
    asked = zip(prompts or ["?"] * len(options), options, strict=True)
    return {
        "arguments": {f"gen_args_{i}": {"arg_0": prompt, "arg_1": text} for i, (prompt, text) in enumerate(asked)},
        "filtered_resps": [[str(LOG(p)), str(p == max(options.values()))] for p in options.values()],
        "target": target,
        **more,
    }


def soft_of(*lines: tuple[dict, float], metric: str = "acc", delimiter: str = " ") -> list[float]:
    choices = [logged_choice(line) for line, _ in lines]
    return logged_soft_scores(metric, choices, [score for _, score in lines], delimiter)


FIRST, SECOND = {" 2": 0.3, " 1": 0.1}, {" 2": 0.1, " 1": 0.3}


def test_a_target_is_read_as_what_explains_every_score():
    by_place = soft_of((sample(FIRST, "0"), 1.0), (sample(SECOND, "0"), 0.0), (sample(SECOND, "1"), 1.0))
    assert by_place == pytest.approx([0.75, 0.25, 0.75])
    by_text = soft_of((sample(FIRST, "2"), 1.0), (sample(SECOND, "2"), 0.0), (sample(SECOND, "1"), 1.0))
    assert by_text == pytest.approx([0.75, 0.25, 0.75])
    several = soft_of((sample(FIRST | {" 3": 0.1}, "[1, 2]"), 0.0), (sample(SECOND | {" 3": 0.1}, "[1, 2]"), 1.0))
    assert several == pytest.approx([0.4, 0.8])


def test_of_two_readings_the_one_that_finds_more_right_options_is_believed():
    assert soft_of((sample({" 2": 0.3, " 10": 0.2, " 5": 0.1}, "10"), 0.0)) == pytest.approx([1 / 3])
    either = (sample({" 5": 0.6, " 0": 0.3, " 1": 0.1}, "1"), 0.0)  # the second option, or the third by its text
    assert all(map(math.isnan, soft_of(either)))
    place = (sample({" 5": 0.6, " 1": 0.3, " 0": 0.1}, "0"), 1.0)
    assert soft_of(either, place) == pytest.approx([0.3, 0.6])


def test_one_score_that_no_reading_explains_makes_all_unknown():
    fine = [(sample(FIRST, "0"), 1.0), (sample(SECOND, "0"), 0.0)]
    assert not any(map(math.isnan, soft_of(*fine)))
    for line in ((sample(SECOND, "0"), 1.0), (sample(FIRST, "0"), 0.75), ({"filtered_resps": ["12"]}, 1.0)):
        assert all(map(math.isnan, soft_of(*fine, line)))
    assert all(map(math.isnan, soft_of(*fine, metric="f1")))


def test_a_label_outside_the_options_is_unknown_for_its_item_alone():
    soft = soft_of((sample(FIRST, "0"), 1.0), (sample(FIRST, "7"), 0.0))
    assert soft[0] == pytest.approx(0.75) and math.isnan(soft[1])


def test_lengths_are_those_behind_the_delimiter():
    options = {" a": 0.1, " bbb": 0.3**3}
    assert soft_of((sample(options, "1"), 1.0), metric="acc_norm") == pytest.approx([0.75])
    tight = {text.strip(): p for text, p in options.items()}
    assert soft_of((sample(tight, "1"), 1.0), metric="acc_norm", delimiter="") == pytest.approx([0.75])


def test_of_two_options_in_the_prompts_the_score_tells_the_right_one():
    logged = [[str(LOG(0.1)), "False"], [str(LOG(0.3)), "False"], [str(LOG(0.4)), "False"]]

    def line(n: int) -> dict:
        arguments = {f"gen_args_{i}": {"arg_0": f"{i} is", "arg_1": " it"} for i in range(n)}
        return {"arguments": arguments, "filtered_resps": logged[:n], "target": "it"}

    assert soft_of((line(2), 1.0), (line(2), 0.0)) == pytest.approx([0.75, 0.25])
    assert all(map(math.isnan, soft_of((line(3), 1.0), (line(3), 0.0))))
    assert all(map(math.isnan, soft_of((line(2), 1.0), metric="acc_norm")))


@pytest.mark.parametrize(
    "damage",
    [
        {"arguments": None},
        {"arguments": [["?", " 2"]]},
        {"arguments": {"gen_args_0": {"arg_0": "?"}}},
        {"arguments": {"gen_args_0": {"arg_0": "?", "arg_1": " 2"}, "gen_args_1": {"arg_0": "?", "arg_1": 7}}},
        {"filtered_resps": "0.5"},
        {"filtered_resps": [["-1.0", ["True"]], ["-2.0", "False"]]},
        {"filtered_resps": [["tensor(-1.0)", "True"], ["-2.0", "False"]]},
        {"filtered_resps": [[10**400, "True"], ["-2.0", "False"]]},
        {"filtered_resps": []},
        {"target": 0},
    ],
)
def test_lines_that_lack_what_it_takes_are_unknown(damage):
    assert logged_choice(sample(FIRST, "0")) is not None
    assert logged_choice(sample(FIRST, "0") | damage) is None
