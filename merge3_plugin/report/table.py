"""A finished run as one table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def render(summary: Mapping[str, Any]) -> str:
    """The table of ``summary.json``: a row for each model, for each task the estimate and the held-out accuracy."""
    tasks = list(summary["tasks"])
    parts = [_populations(summary["tasks"])]
    if summary["models"]:
        header = ["model"] + [f"{task} {column}" for task in tasks for column in ("estimate", "held out")]
        rows = [_row(model, tasks) for model in summary["models"]]
        parts.append(_aligned([[*header, "overall held out"], *rows]))
    parts.append("\n".join([*_verdict(summary), *_cost(summary)]))
    return "\n\n".join(parts) + "\n"


def _populations(tasks: Mapping[str, Any]) -> str:
    lines = []
    for name, task in tasks.items():
        lines.append(
            f"{name}: estimates are of the accuracy on {task['search_items']:,} search items, from {task['anchors']} "
            f"anchors; held-out figures are of {task['held_out_items']:,} other items"
        )
    return "\n".join([*lines, "Percent, with 95 % intervals."])


def _row(model: Mapping[str, Any], tasks: Sequence[str]) -> list[str]:
    cells = [model["label"]]
    for task in tasks:
        cells += [_percent(model["estimated"].get(task)), _percent(model["held_out"].get(task))]
    return [*cells, f"{100 * model['held_out_overall']:.1f}"]


def _percent(estimate: Mapping[str, Any] | None) -> str:
    if estimate is None:
        return "-"
    low, high = estimate["interval"]
    if low == high:
        return f"{100 * estimate['accuracy']:.1f} (all items)"
    return f"{100 * estimate['accuracy']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _verdict(summary: Mapping[str, Any]) -> list[str]:
    verdict = summary["verdict"]
    if verdict is None:
        return [f"The search ended: {summary['search_ended']}. Nothing is confirmed yet; the same command goes on."]
    lines = [
        f"The search ended: {summary['search_ended']}.",
        f"{verdict['winner']} is {verdict['text']} ({verdict['best_parent']}): "
        f"{_points(verdict['against_best_parent'])} on the same held-out items.",
    ]
    if verdict["against_uniform"] is not None:
        lines.append(f"Against the uniform merge: {_points(verdict['against_uniform'])}.")
    return lines


def _points(difference: Mapping[str, Any]) -> str:
    low, high = difference["interval"]
    return f"{100 * difference['difference']:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"


def _cost(summary: Mapping[str, Any]) -> list[str]:
    cost = summary["cost"]
    phases = ", ".join(f"{name} {row['items']:,}" for name, row in cost["by_phase"].items())
    share = cost["full_search_items"] / max(1, cost["search_items"])
    return [
        f"Items scored: {cost['items']:,} ({phases}).",
        f"The search scored {cost['search_items']:,} items for {cost['candidates']} candidates; "
        f"on every search item they would have cost {cost['full_search_items']:,} ({share:.0f} times as many).",
    ]
