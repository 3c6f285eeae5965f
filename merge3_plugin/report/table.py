"""A run as tables for the terminal."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

Z = 1.96


def render(summary: Mapping[str, Any]) -> str:
    """The content of ``summary.json`` for people.

    For each model its estimate and its held-out accuracy, by task; what the winner is worth more than parents and
    baselines; tasks that the search never saw; cost.
    """
    parts = [_populations(summary)]
    if summary["models"]:
        parts.append(_models(summary))
    parts.append(
        "\n".join(
            [*_search(summary), *_verdict(summary), *_constraints(summary), *_optimism(summary), *_front(summary)]
        )
    )
    if summary.get("baselines"):
        parts.append(_baselines(summary))
    if summary.get("held_out_tasks"):
        parts.append(_held_out_tasks(summary))
    parts.append("\n".join(_cost(summary["cost"])))
    return "\n\n".join(parts) + "\n"


def _populations(summary: Mapping[str, Any]) -> str:
    lines = ["Accuracy in percent, with 95 % intervals. The rows of a model are about different items:"]
    for name, task in summary["tasks"].items():
        lines.append(
            f"  {name}: estimates are of {task['search_items']:,} search items, made from {task['anchors']} anchors; "
            f"held-out figures of {task['held_out_items']:,} others"
        )
    if summary.get("optimism"):
        lines.append("Optimism is the estimate less the held-out figure: what was the best of many by luck.")
    return "\n".join(lines)


def _models(summary: Mapping[str, Any]) -> str:
    """Parents, uniform merge and finalists, and baselines by the model that stands for each, each model once."""
    tasks = summary["tasks"]
    rows = [["model", "", *tasks, *(["overall"] if len(tasks) > 1 else [])]]
    shifts = (summary.get("optimism") or {}).get("models", {})
    elsewhere = _elsewhere(summary)
    for model in summary["models"]:
        if model["label"] in elsewhere:
            continue
        name = model["label"]
        for kind, figures in (("estimate", model["estimated"]), ("held out", model["held_out"])):
            if figures:
                rows.append([name, kind, *_cells(figures, tasks)])
                name = ""
        if shift := shifts.get(model["label"]):
            of_tasks = [_points(shift["tasks"][task]) for task in tasks]
            rows.append(["", "optimism", *of_tasks, *([_points(shift["overall"])] if len(tasks) > 1 else [])])
    return aligned(rows, left=2)


def _elsewhere(summary: Mapping[str, Any]) -> set[str]:
    """Models that have no place in the first table.

    Those are a front's members, a baseline's weaker candidates, and a baseline that is a parent or another baseline.
    """
    hidden = set((summary.get("front") or {}).get("members", []))
    candidates = {model["label"]: model.get("candidate") for model in summary["models"]}
    of_baselines = [label for each in summary.get("baselines", []) for label in each["models"]]
    shown = {candidates[label] for label in candidates if label not in of_baselines}
    for each in summary.get("baselines", []):
        hidden |= {label for label in each["models"] if label != each["model"] or candidates[label] in shown}
        shown.add(candidates.get(each["model"]))
    return hidden


def aligned(rows: Sequence[Sequence[str]], left: int) -> str:
    """Rows below a header; the first ``left`` columns begin, the others end, below each other."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    return "\n".join([lines[0].rstrip(), "-" * len(lines[0]), *lines[1:]])


def _cells(figures: Mapping[str, Mapping[str, Any]], tasks: Mapping[str, Mapping[str, Any]]) -> list[str]:
    cells = [in_percent(figures[name]) for name in tasks]
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


def in_percent(figure: Mapping[str, Any]) -> str:
    return _percent(figure["accuracy"], *figure["interval"])


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
            lines.append(f"There the best is {_in_points(best['against_uniform'])} on the uniform merge.")
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
        f"{_in_points(verdict['against_best_parent'])}, paired on the held-out items.",
    ]
    if verdict["against_uniform"] is not None:
        lines.append(f"Against the uniform merge: {_in_points(verdict['against_uniform'])}.")
    if summary.get("state", "finished") != "finished":
        lines.append(f"The run is {summary['state']}.")
    return lines


def _constraints(summary: Mapping[str, Any]) -> list[str]:
    lines = []
    for kept in summary.get("constraints", []):
        text = ("holds" if kept["holds"] else "is broken") + ("" if kept["shown"] else ", as far as these items tell")
        if kept["difference"] is None:
            asked, found = f"at least {100 * kept['floor']:.1f}", in_percent(kept["accuracy"])
        else:
            asked = f"at most {100 * kept['fall']:.1f} points below {kept['below']}"
            found = _in_points(kept["difference"])
        lines.append(f"Constraint on {kept['task']}, {asked}: {text} ({found}, on the held-out items).")
    return lines


def _optimism(summary: Mapping[str, Any]) -> list[str]:
    found = summary.get("optimism")
    if not found or not found["mean_of_finalists"]:
        return []
    lines = []
    if best := found["models"].get("best 1"):
        lines.append(f"Winner's curse: of its best, best 1, the search thought {_too_much(best['overall'])}.")
    if found["finalists"] > 1:
        mean = _too_much(found["mean_of_finalists"])
        lines.append(f"Of its {found['finalists']} finalists, on average: {mean}.")
    return lines


def _front(summary: Mapping[str, Any]) -> list[str]:
    front = summary.get("front")
    if not front:
        return []
    own, parents = front["hypervolume"]["held_out"], front["hypervolume"]["parents"]
    members, confirmed = front["members"], front.get("confirmed", len(front["members"]))
    noun = "member" if len(members) == 1 else "members"
    which = "" if confirmed == len(members) else f" {confirmed} of them confirmed,"
    return [
        f"The front has {len(members)} {noun},{which} of hypervolume {own:.4f} on the held-out items, where the "
        f"parents have {parents:.4f}: merge3 pick FOLDER shows them, and writes the one that fits you."
    ]


def _baselines(summary: Mapping[str, Any]) -> str:
    """The winner less everything simpler, best parent and uniform merge first."""
    verdict = summary["verdict"]
    rows = [[f"{verdict['winner']} less", "points, paired", ""]]
    rows.append([verdict["best_parent"], _points(verdict["against_best_parent"]), "the best parent"])
    if verdict["against_uniform"] is not None:
        rows.append(["uniform", _points(verdict["against_uniform"]), "the uniform merge of the search's space"])
    for each in summary["baselines"]:
        difference = each["winner_less_it"]
        rows.append([each["name"], "-" if difference is None else _points(difference), each["what"]])
    title = "What evolution bought, on the held-out items (the intervals hold for all finalists at once):"
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    lines = [f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]}".rstrip() for row in rows]
    return "\n".join([title, "", lines[0], "-" * len(lines[0]), *lines[1:]])


def _held_out_tasks(summary: Mapping[str, Any]) -> str:
    found = summary["held_out_tasks"]
    tasks = found["tasks"]
    sizes = ", ".join(f"{name} ({task['items']:,} items)" for name, task in tasks.items())
    rows = [["model", *tasks]]
    elsewhere = _elsewhere(summary)
    for model in found["models"]:
        if model["label"] in elsewhere:
            continue
        whole = {name: f"{value:.4g} ({tasks[name]['metric']})" for name, value in model["whole"].items()}
        cells = {**{name: in_percent(accuracy) for name, accuracy in model["accuracies"].items()}, **whole}
        rows.append([model["label"], *(cells[name] for name in tasks)])
    for other, differences in found["winner_less"].items():
        cells = {name: _points(difference) for name, difference in differences.items()}
        winner = summary["verdict"]["winner"] if summary["verdict"] else "best 1"
        rows.append([f"{winner} less {other}", *(cells.get(name, "") for name in tasks)])
    title = f"Tasks that the search never saw, and that chose nothing: {sizes}. Differences are in points, paired."
    return f"{title}\n\n{aligned(rows, left=1)}"


def _points(difference: Mapping[str, Any]) -> str:
    low, high = difference["interval"]
    return f"{100 * difference['difference']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def _too_much(shift: Mapping[str, Any]) -> str:
    if shift["difference"] >= 0:
        return f"{_in_points(shift)} too much"
    low, high = shift["interval"]
    return f"{_in_points({'difference': -shift['difference'], 'interval': (-high, -low)})} too little"


def _in_points(difference: Mapping[str, Any]) -> str:
    return _points(difference).replace(" [", " points [", 1)


def _cost(cost: Mapping[str, Any]) -> list[str]:
    phases = ", ".join(f"{name} {row['items']:,}" for name, row in cost["by_phase"].items())
    lines = [f"Items scored: {cost['items']:,} ({phases})."]
    full = cost["full_search_items"]
    if not full:
        return lines
    lines.append(f"A search of the same {cost['candidates']} candidates on every search item would score {full:,}.")
    counted = [("the search alone scored", "search_items")]
    if "run_items" in cost:
        counted.append(("the whole run, with parents, calibration and confirmation,", "run_items"))
    width = max(len(text) for text, _ in counted)
    lines += [f"  {text:<{width}} {cost[key]:>{len(f'{full:,}')},}: {_share(cost[key], full)}" for text, key in counted]
    if beside := cost.get("comparison_items"):
        lines.append(f"Beside that, {beside:,} went to baselines and held-out tasks.")
    if reused := cost.get("reused_items"):
        lines.append(f"Parents' answers to {reused:,} items were known from an earlier run and cost nothing.")
    if "tokens" in cost:
        lines.append(f"Forward passes read {cost['tokens']:,} tokens, {cost['search_tokens']:,} of them in the search.")
    return lines


def _share(items: int, full: int) -> str:
    """As a percentage, and as the fraction that people compare."""
    return f"{100 * items / full:.1f} %" + (f", 1/{full / items:.0f}" if 0 < items < full / 2 else "")
