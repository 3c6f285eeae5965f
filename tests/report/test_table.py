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
    assert lines[-6].startswith("mean held out 75.0 [72.0, 78.0]")
    assert "mean is better than the best parent, parent: +45.0 points [+41.0, +49.0], paired" in text
    assert "3,000 items for 60 candidates: 2.5 % of the 120,000" in text


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
