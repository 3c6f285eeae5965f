from merge3_plugin.report.table import render


def figure(accuracy, low, high, error=0.0):
    return {"accuracy": accuracy, "standard_error": error, "interval": [low, high]}


def model(label, estimated, held_out):
    return {"label": label, "estimated": estimated, "held_out": held_out}


SUMMARY = {
    "search_ended": "budget of 60 candidates spent",
    "tasks": {
        "sum": {"weight": 3.0, "search_items": 2000, "held_out_items": 1000, "anchors": 50},
        "max": {"weight": 1.0, "search_items": 200, "held_out_items": 100, "anchors": 20},
    },
    "models": [
        model(
            "parent",
            {"sum": figure(0.333, 0.333, 0.333), "max": figure(0.5, 0.5, 0.5)},
            {"sum": figure(0.3, 0.27, 0.33, 0.04), "max": figure(0.7, 0.6, 0.8, 0.05)},
        ),
        model("mean", {}, {"sum": figure(0.75, 0.72, 0.78), "max": figure(0.75, 0.7, 0.8)}),
    ],
    "search": {
        "improvements": [
            {"candidates": 1, "against_previous": None, "against_uniform": None},
            {"candidates": 7, "against_uniform": {"difference": 0.021, "interval": [-0.01, 0.052]}},
        ],
        "contenders": 5,
        "merges": 57,
        "recalibrations": [],
    },
    "verdict": {
        "text": "better than the best parent",
        "winner": "mean",
        "best_parent": "parent",
        "against_best_parent": {"difference": 0.45, "interval": [0.41, 0.49]},
        "against_uniform": None,
    },
    "cost": {
        "by_phase": {"search": {"items": 3000}},
        "items": 3000,
        "candidates": 60,
        "search_items": 3000,
        "full_search_items": 120_000,
    },
}


def test_the_table_names_both_populations_and_gives_every_figure():
    text = render(SUMMARY)
    assert "sum: estimates are of 2,000 search items, made from 50 anchors; held-out figures of 1,000 others" in text
    lines = [" ".join(line.split()) for line in text.splitlines()]
    # Overall: 3/4 of sum and 1/4 of max; its error is the root of (3/4 x 4)^2 + (1/4 x 5)^2 = 3.25 points.
    assert "parent estimate 33.3 (all items) 50.0 (all items) 37.5 (all items)" in lines
    assert "held out 30.0 [27.0, 33.0] 70.0 [60.0, 80.0] 40.0 [33.6, 46.4]" in lines
    assert any(line.startswith("mean held out 75.0 [72.0, 78.0]") for line in lines)
    assert "mean is better than the best parent, parent: +45.0 points [+41.0, +49.0], paired" in text
    assert "Its anchors cannot tell 4 of 56 other merges from the best.\n" in text
    assert "There the best is +2.1 points [-1.0, +5.2] on the uniform merge.\n" in text
    assert "recalibrated" not in text
    assert "A search of the same 60 candidates on every search item would score 120,000." in text
    assert "the search alone scored 3,000: 2.5 %, 1/40" in lines


def shift(difference, low, high):
    return {"difference": difference, "standard_error": 0.01, "interval": [low, high]}


HELD_OUT = {"sum": figure(0.6, 0.5, 0.7), "max": figure(0.6, 0.5, 0.7)}
COMPARED = {
    **SUMMARY,
    "state": "finished",
    "models": [
        {**SUMMARY["models"][0], "candidate": "parent:parent"},
        {**SUMMARY["models"][1], "candidate": "c1"},
        {**model("uniform soup", {}, HELD_OUT), "candidate": "c2"},
        {**model("merge-best", {}, HELD_OUT), "candidate": "parent:parent"},
        {**model("random search 1", {}, HELD_OUT), "candidate": "c3"},
        {**model("random search 2", {}, HELD_OUT), "candidate": "c4"},
    ],
    "optimism": {
        "models": {
            "mean": {"tasks": {t: shift(0.02, -0.01, 0.05) for t in HELD_OUT}, "overall": shift(0.03, 0.0, 0.06)}
        },
        "mean_of_finalists": shift(0.03, 0.0, 0.06),
        "finalists": 1,
    },
    "baselines": [
        {
            "name": "uniform soup",
            "what": "the mean of a and b",
            "models": ["uniform soup"],
            "model": "uniform soup",
            "winner_less_it": shift(0.15, 0.1, 0.2),
        },
        {
            "name": "merge-best",
            "what": "parent alone, the best at a task each",
            "models": ["merge-best"],
            "model": "merge-best",
            "winner_less_it": shift(0.45, 0.41, 0.49),
        },
        {"name": "task arithmetic", "what": "not made: no base", "models": [], "model": None, "winner_less_it": None},
        {
            "name": "random search",
            "what": "the best of 60 random points",
            "models": ["random search 1", "random search 2"],
            "model": "random search 2",
            "winner_less_it": shift(-0.011, -0.031, 0.009),
        },
    ],
    "held_out_tasks": {
        "tasks": {
            "other": {"items": 600, "metric": "acc,none"},
            "text": {"items": 90, "metric": "word_perplexity,none"},
        },
        "models": [
            {"label": "parent", "accuracies": {"other": figure(0.5, 0.46, 0.54)}, "whole": {"text": 12.3456}},
            {"label": "mean", "accuracies": {"other": figure(0.48, 0.44, 0.52)}, "whole": {"text": 14.0}},
        ],
        "winner_less": {"parent": {"other": shift(-0.02, -0.05, 0.01)}},
    },
    "constraints": [
        {
            "task": "max",
            "floor": 0.69,
            "below": "parent",
            "fall": 0.01,
            "difference": shift(0.05, -0.02, 0.12),
            "accuracy": figure(0.75, 0.7, 0.8),
            "holds": True,
            "shown": False,
        }
    ],
    "front": {"members": [], "confirmed": 0, "hypervolume": {"held_out": 0.61, "parents": 0.5, "reference": {}}},
    "cost": {
        **SUMMARY["cost"],
        "run_items": 12_000,
        "comparison_items": 4_000,
        "items": 16_000,
        "tokens": 99_000,
        "search_tokens": 9_000,
    },
}


def words(text):
    return [" ".join(line.split()) for line in text.splitlines()]


def test_what_evolution_bought_stands_below_each_other():
    lines = words(render(COMPARED))
    start = lines.index("mean less points, paired")
    assert lines[start + 2 : start + 7] == [
        "parent +45.0 [+41.0, +49.0] the best parent",
        "uniform soup +15.0 [+10.0, +20.0] the mean of a and b",
        "merge-best +45.0 [+41.0, +49.0] parent alone, the best at a task each",
        "task arithmetic - not made: no base",
        "random search -1.1 [-3.1, +0.9] the best of 60 random points",
    ]


def test_a_model_is_listed_once_and_a_baseline_by_its_best():
    table = render(COMPARED).split("-----\n")[1].split("The search ended")[0]
    names = [line.split("  ")[0] for line in table.splitlines() if " held out " in line or " estimate " in line]
    assert [name for name in names if name] == ["parent", "mean", "uniform soup", "random search 2"]


def test_the_optimism_is_a_row_of_the_table_and_a_line():
    text = render(COMPARED)
    assert "optimism +2.0 [-1.0, +5.0] +2.0 [-1.0, +5.0] +3.0 [+0.0, +6.0]" in words(text)
    named = {"models": {"best 1": COMPARED["optimism"]["models"]["mean"]}, "finalists": 3}
    text = render({**COMPARED, "optimism": {**COMPARED["optimism"], **named}})
    assert "of its best, best 1, the search thought +3.0 points [+0.0, +6.0] too much." in text
    assert "Of its 3 finalists, on average: +3.0 points [+0.0, +6.0] too much." in text
    modest = {"difference": -0.05, "standard_error": 0.02, "interval": [-0.09, 0.01]}
    text = render({**COMPARED, "optimism": {**COMPARED["optimism"], **named, "mean_of_finalists": modest}})
    assert "Of its 3 finalists, on average: +5.0 points [-1.0, +9.0] too little." in text


def test_held_out_tasks_constraints_and_front_have_their_lines():
    text = render(COMPARED)
    assert "never saw, and that chose nothing: other (600 items), text (90 items)" in text
    lines = words(text)
    assert "parent 50.0 [46.0, 54.0] 12.35 (word_perplexity,none)" in lines
    assert "mean less parent -2.0 [-5.0, +1.0]" in lines
    assert (
        "Constraint on max, at most 1.0 points below parent: holds, as far as these items tell "
        "(+5.0 points [-2.0, +12.0], on the held-out items)."
    ) in lines
    assert "of hypervolume 0.6100 on the held-out items, where the parents have 0.5000" in text
    text = render({**COMPARED, "front": {**COMPARED["front"], "members": ["front 1", "front 2"], "confirmed": 1}})
    assert "The front has 2 members, 1 of them confirmed, of hypervolume 0.6100" in text
    text = render({**COMPARED, "front": {**COMPARED["front"], "members": ["front 1"], "confirmed": 1}})
    assert "The front has 1 member, of hypervolume 0.6100" in text


def test_both_counts_are_shares_of_the_full_data_search():
    lines = words(render(COMPARED))
    assert "the search alone scored 3,000: 2.5 %, 1/40" in lines
    assert "the whole run, with parents, calibration and confirmation, 12,000: 10.0 %, 1/10" in lines
    assert "Beside that, 4,000 went to baselines and held-out tasks." in lines
    assert "Forward passes read 99,000 tokens, 9,000 of them in the search." in lines


def test_the_columns_stand_below_each_other():
    table = [line for line in render(SUMMARY).splitlines() if " held out" in line or " estimate " in line]
    assert len({len(line) for line in table}) == 1


def test_a_run_without_confirmation_says_so():
    text = render({**SUMMARY, "state": "stopped before the confirmation", "models": [], "verdict": None})
    assert "The run is stopped before the confirmation." in text


def test_one_task_needs_no_overall_column():
    tasks = {"sum": SUMMARY["tasks"]["sum"]}
    text = render({**SUMMARY, "tasks": tasks})
    assert "overall" not in text and "max" not in text


def test_metrics_of_one_task_are_no_independent_figures():
    tasks = {name: {**task, "task": "calculations"} for name, task in SUMMARY["tasks"].items()}
    lines = [" ".join(line.split()) for line in render({**SUMMARY, "tasks": tasks}).splitlines()]
    # Of the same items, their errors add up: 3/4 x 4 + 1/4 x 5 = 4.25 points.
    assert "held out 30.0 [27.0, 33.0] 70.0 [60.0, 80.0] 40.0 [31.7, 48.3]" in lines


def test_a_recalibrated_run_says_when():
    search = {**SUMMARY["search"], "recalibrations": [{"candidates": 20}, {"candidates": 44}]}
    assert "It was recalibrated after 20, 44 candidates; all estimates" in render({**SUMMARY, "search": search})


def test_a_run_of_an_older_version_is_shown():
    older = {key: value for key, value in SUMMARY.items() if key != "search"}
    text = render(older)
    assert "The search ended: budget of 60 candidates spent." in text and "anchors cannot" not in text
