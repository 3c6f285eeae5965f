"""A run as one table for the terminal."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

Z = 1.96


def render(summary: Mapping[str, Any]) -> str:
    """The content of ``summary.json`` for people: for each model its estimate and its held-out accuracy, by task."""
    parts = [_populations(summary["tasks"])]
    if summary["models"]:
        parts.append(_models(summary))
    parts.append("\n".join([*_search(summary), *_verdict(summary), *_cost(summary["cost"])]))
    return "\n\n".join(parts) + "\n"


def _populations(tasks: Mapping[str, Any]) -> str:
    lines = ["Accuracy in percent, with 95 % intervals. The two rows of a model are about different items:"]
    for name, task in tasks.items():
        lines.append(
            f"  {name}: estimates are of {task['search_items']:,} search items, made from {task['anchors']} anchors; "
            f"held-out figures of {task['held_out_items']:,} others"
        )
    return "\n".join(lines)


def _models(summary: Mapping[str, Any]) -> str:
    weights = {name: task["weight"] for name, task in summary["tasks"].items()}
    rows = [["model", "", *weights, *(["overall"] if len(weights) > 1 else [])]]
    for model in summary["models"]:
        name = model["label"]
        for kind, figures in (("estimate", model["estimated"]), ("held out", model["held_out"])):
            if figures:
                rows.append([name, kind, *_cells(figures, summary["tasks"])])
                name = ""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    return "\n".join([lines[0].rstrip(), "-" * len(lines[0]), *lines[1:]])


def _cells(figures: Mapping[str, Mapping[str, Any]], tasks: Mapping[str, Mapping[str, Any]]) -> list[str]:
    cells = [_percent(figures[name]["accuracy"], *figures[name]["interval"]) for name in tasks]
    if len(tasks) > 1:
        total = sum(abs(task["weight"]) for task in tasks.values())
        overall = sum(task["weight"] * figures[name]["accuracy"] for name, task in tasks.items()) / total
        # Metrics of one task are of the same items: their errors add up.
        errors: dict[str, float] = defaultdict(float)
        for name, task in tasks.items():
            errors[task.get("task", name)] += abs(task["weight"]) * figures[name]["standard_error"] / total
        error = math.hypot(*errors.values())
        cells.append(_percent(overall, overall - Z * error, overall + Z * error))
    return cells


def _percent(accuracy: float, low: float, high: float) -> str:
    if low == high:
        return f"{100 * accuracy:.1f} (all items)"
    return f"{100 * accuracy:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _search(summary: Mapping[str, Any]) -> list[str]:
    lines = [f"The search ended: {summary['search_ended']}."]
    search = summary.get("search")
    if search is None:  # a run of version 0.1
        return lines
    if summary["tasks"] and search["improvements"]:
        best, others = search["improvements"][-1], search["merges"] - 1
        lines.append(f"Its anchors cannot tell {search['contenders'] - 1} of {others} other merges from the best.")
        if best["against_uniform"] is not None:
            lines.append(f"There the best is {_points(best['against_uniform'])} on the uniform merge.")
    if search["recalibrations"]:
        after = ", ".join(str(found["candidates"]) for found in search["recalibrations"])
        lines.append(f"It was recalibrated after {after} candidates; all estimates are by the last calibration.")
    return lines


def _verdict(summary: Mapping[str, Any]) -> list[str]:
    verdict = summary["verdict"]
    if verdict is None:
        return [f"The run is {summary['state']}."]
    lines = [
        f"{verdict['winner']} is {verdict['text']}, {verdict['best_parent']}: "
        f"{_points(verdict['against_best_parent'])}, paired on the held-out items.",
    ]
    if verdict["against_uniform"] is not None:
        lines.append(f"Against the uniform merge: {_points(verdict['against_uniform'])}.")
    return lines


def _points(difference: Mapping[str, Any]) -> str:
    low, high = difference["interval"]
    return f"{100 * difference['difference']:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"


def _cost(cost: Mapping[str, Any]) -> list[str]:
    phases = ", ".join(f"{name} {row['items']:,}" for name, row in cost["by_phase"].items())
    lines = [f"Items scored: {cost['items']:,} ({phases})."]
    if cost["full_search_items"]:
        share = 100 * cost["search_items"] / cost["full_search_items"]
        lines.append(
            f"The search scored {cost['search_items']:,} items for {cost['candidates']} candidates: {share:.1f} % of "
            f"the {cost['full_search_items']:,} that every search item would have cost."
        )
    return lines
