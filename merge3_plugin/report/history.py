"""How a run has gone, in whatever state it is, for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from merge3_plugin.report.table import Z, aligned, in_percent

_BARS = "▁▂▃▄▅▆▇█"
WIDTH, IMPROVEMENTS, GENES, ERRORS, MEMBERS = 60, 8, 10, 3, 10


def render_progress(progress: Mapping[str, Any]) -> str:
    """The best so far over the candidates (`evolve.history.progress`), as a line and as the steps that it took."""
    series, steps = progress["series"], progress["steps"]
    if not series:
        return f"The search has scored {progress['candidates']:,} candidates, none of them on all anchors."
    budget = "" if progress["budget"] is None else f"; it was begun for {progress['budget']:,}"
    lines = [f"Best estimated fitness after each of {progress['candidates']:,} candidates{budget}:", ""]
    lines += [f"  {sparkline(series)}  {series[0]:.4f} -> {series[-1]:.4f}", ""]
    shown = steps if len(steps) <= IMPROVEMENTS else [steps[0], *steps[1 - IMPROVEMENTS :]]
    lines += aligned([["after", "fitness [95 %]", "candidate"], *map(_step, shown)], left=0).splitlines()
    if hidden := len(steps) - len(shown):
        lines.append(f"({hidden} in between left out)")
    if steps[-1]["violation"]:
        lines.append("No candidate keeps to all constraints yet; the best is the one that breaks them least.")
    return "\n".join(lines)


def _step(step: Mapping[str, Any]) -> list[str]:
    value, half = step["fitness"], Z * step["standard_error"]
    return [f"{step['candidates']:,}", f"{value:.4f} [{value - half:.4f}, {value + half:.4f}]", step["candidate"]]


def sparkline(values: Sequence[float], width: int = WIDTH) -> str:
    """The values as bars from the least to the greatest of them, each bar the last value of its stretch."""
    size = min(width, len(values))
    ends = [values[math.ceil((i + 1) * len(values) / size) - 1] for i in range(size)]
    low, high = min(ends), max(ends)
    step = (high - low) / (len(_BARS) - 1)
    return "".join(_BARS[round((value - low) / step) if step else 0] for value in ends)


def render_front_so_far(members: Mapping[str, Mapping[str, Mapping[str, Any] | float]]) -> str:
    """The estimates by task, or metrics of the whole set, of candidates that no other dominates, extremes first."""
    tasks = list(next(iter(members.values())))
    rows = [[name, *(_figure(found[task]) for task in tasks)] for name, found in members.items()]
    lines = [f"The front so far has {len(members)} members. Estimated accuracy in percent, with 95 % intervals:", ""]
    lines += aligned([["candidate", *tasks], *rows[:MEMBERS]], left=1).splitlines()
    if len(members) > MEMBERS:
        lines.append(f"(extremes first; {len(members) - MEMBERS} more)")
    return "\n".join(lines)


def _figure(found: Mapping[str, Any] | float) -> str:
    return in_percent(found) if isinstance(found, Mapping) else f"{found:.4g}"


def render_importance(found: Mapping[str, Any]) -> str:
    """What the fitness hangs on (`evolve.importance.Importance`), or why that cannot be told."""
    if found["r_squared"] is None:
        return (
            f"Importance of genes: too few to tell, {found['candidates']} candidates of known genes that were scored "
            "on all anchors."
        )
    fit = (
        f"on the same anchors, a forest has R^2 {found['r_squared']:.2f} on unseen ones of {found['candidates']:,} "
        f"candidates, whose fitness has standard deviation {found['spread']:.4f} and standard error "
        f"{found['standard_error']:.4f}"
    )
    if not found["told"]:
        return f"Importance of genes: too noisy to tell; {fit}."
    lines = [f"Importance of genes, by how much of the R^2 is lost without each: {fit}."]
    for kind, losses in {**found["groups"], "gene": found["genes"]}.items():
        rows = [[kind, "R^2 lost"], *([name, f"{loss:.3f}"] for name, loss in list(losses.items())[:GENES])]
        lines += ["", aligned(rows, left=1)]
        if len(losses) > GENES:
            lines.append(f"(the first {GENES})")
    return "\n".join(lines)


def render_spent(spent: Mapping[str, Mapping[str, Any]], failures: Sequence[tuple[str, str, int]]) -> str:
    """The phases so far, what each has cost, and the most frequent errors."""
    keys = ("evaluations", "failed", "items", "tokens")
    rows = [["phase", "models", "failed", "items", "tokens", "seconds"]]
    rows += [[name, *(f"{row[key]:,}" for key in keys), f"{row['seconds']:,.1f}"] for name, row in spent.items()]
    totals = [f"{sum(row[key] for row in spent.values()):,}" for key in keys]
    rows.append(["all", *totals, f"{sum(row['seconds'] for row in spent.values()):,.1f}"])
    lines = ["Cost so far:", "", aligned(rows, left=1)]
    if failures:
        lines += ["", "Failures, the most frequent first:"]
        lines += [f"  {count:,} x {purpose}: {error[:160]}" for purpose, error, count in failures[:ERRORS]]
    return "\n".join(lines)
