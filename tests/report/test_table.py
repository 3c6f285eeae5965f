from merge3_plugin.report.table import render


def figure(accuracy, low, high):
    return {"accuracy": accuracy, "interval": [low, high]}


SUMMARY = {
    "search_ended": "budget of 60 candidates spent",
    "tasks": {"sum": {"search_items": 2000, "held_out_items": 1000, "anchors": 50}},
    "models": [
        {
            "label": "uniform",
            "estimated": {"sum": figure(0.5, 0.41, 0.59)},
            "held_out": {"sum": figure(0.52, 0.49, 0.55)},
            "held_out_overall": 0.52,
        },
        {
            "label": "best 1",
            "estimated": {},
            "held_out": {"sum": figure(0.75, 0.72, 0.78)},
            "held_out_overall": 0.75,
        },
        {
            "label": "parent",
            "estimated": {"sum": figure(0.333, 0.333, 0.333)},
            "held_out": {"sum": figure(0.3, 0.27, 0.33)},
            "held_out_overall": 0.3,
        },
    ],
    "verdict": {
        "text": "better than the best parent",
        "winner": "best 1",
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
    assert "2,000 search items, from 50 anchors; held-out figures are of 1,000 other items" in text
    rows = {line.split()[0]: " ".join(line.split()) for line in text.splitlines() if line}
    assert rows["uniform"] == "uniform 50.0 [41.0, 59.0] 52.0 [49.0, 55.0] 52.0"
    assert rows["parent"] == "parent 33.3 (all items) 30.0 [27.0, 33.0] 30.0"
    assert "best 1 - 75.0 [72.0, 78.0] 75.0" in " ".join(text.split())
    assert "best 1 is better than the best parent (parent): +45.0 points [+41.0, +49.0]" in text
    assert "(40 times as many)" in text
    starts = [line.index("[4") for line in text.splitlines() if "[4" in line and line.startswith("uniform")]
    assert len(starts) == 1


def test_a_run_without_confirmation_says_how_to_go_on():
    text = render({**SUMMARY, "models": [], "verdict": None})
    assert "the same command goes on" in text
