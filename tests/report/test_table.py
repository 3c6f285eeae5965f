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
