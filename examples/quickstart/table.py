"""The demo's table: what the estimates said of each model, and what the held-out items say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

TASK = "quickstart_"


def table(summary: Mapping[str, Any]) -> str:
    """``summary.json`` of a finished run: parents, uniform merge and evolved merge, by skill and overall."""
    tasks, verdict, cost = list(summary["tasks"]), summary["verdict"], summary["cost"]
    shown = {model["label"]: model for model in summary["models"]}
    best = [label for label in shown if label.startswith("best ") or label == "mean"]
    names = {label: label for label in shown if label not in best} | {verdict["winner"]: "evolved"}
    rows = [["", "", *(task.removeprefix(TASK) for task in tasks), "overall"]]
    for label, name in names.items():
        for kind, figures in (("estimate", shown[label]["estimated"]), ("held out", shown[label]["held_out"])):
            if figures:
                rows.append([name, kind, *_cells([figures[task] for task in tasks])])
                name = ""
    some = next(iter(summary["tasks"].values()))
    share = cost["search_items"] / cost["full_search_items"]
    lines = [
        "Accuracy in percent with 95 % intervals. For each skill, an estimate is of the accuracy on "
        f"{some['search_items']:,} search items,",
        f"from {some['anchors']} anchors among them; a held-out figure is of {some['held_out_items']:,} other items, "
        "which the search never read.",
        "",
        *_aligned(rows),
        "",
        f"evolved - uniform:                 {_points(verdict['against_uniform'])}",
        f"evolved - best parent ({verdict['best_parent']}): {_points(verdict['against_best_parent'])}",
        f"Items scored: {cost['search_items']:,} for the {cost['candidates']} candidates of the search, "
        f"{100 * share:.1f} % of the {cost['full_search_items']:,} that all search items",
        f"would have cost; {cost['items']:,} with parents, calibration and confirmation.",
    ]
    return "\n".join(lines)


def _cells(estimates: Sequence[Mapping[str, Any]]) -> list[str]:
    overall = sum(estimate["accuracy"] for estimate in estimates) / len(estimates)
    error = math.sqrt(sum(estimate["standard_error"] ** 2 for estimate in estimates)) / len(estimates)
    intervals = [(e["accuracy"], *e["interval"]) for e in estimates]
    intervals.append((overall, max(0.0, overall - 1.96 * error), min(1.0, overall + 1.96 * error)))
    return [f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]" for value, low, high in intervals]


def _points(difference: Mapping[str, Any]) -> str:
    low, high = difference["interval"]
    return f"{100 * difference['difference']:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}], paired, held out"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]
