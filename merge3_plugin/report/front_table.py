"""The front of a run as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from merge3_plugin.report.table import aligned, in_percent


def render_front(
    front: Mapping[str, Any],
    figures: Mapping[str, Mapping[str, Any]],
    regrets: Mapping[str, float],
    chosen: str | None = None,
) -> str:
    """The members' accuracies, ``figures`` by label and task; with ``regrets`` by label, how they were chosen from."""
    tasks = list(next(iter(figures.values()), ()))
    rows = [["", "member", *tasks, *(["regret"] if regrets else [])]]
    for member in front["members"]:
        label = member["label"]
        regret = [f"{100 * regrets[label]:.2f}" if label in regrets else "-"] if regrets else []
        cells = [in_percent(figures[label][task]) for task in tasks]
        rows.append(["*" if label == chosen else "", label, *cells, *regret])
    header, rule, *lines = aligned(rows, left=2).splitlines()
    noted = [f"{line}  {_notes(member)}".rstrip() for line, member in zip(lines, front["members"], strict=True)]
    volume = front["hypervolume"]
    title = "Accuracy in percent on the held-out items, with 95 % intervals:"
    below = [f"Hypervolume: {volume['held_out']:.4f} of the front, {volume['parents']:.4f} of the parents."]
    if not all(member["held_out"] for member in front["members"]):
        title = "Accuracy in percent on the held-out items, or as estimated, with 95 % intervals:"
        below = [
            "Estimated: not confirmed; the estimate less what it was too much, on average, for those that are.",
            *below,
        ]
    return "\n".join([title, "", header, rule, *noted, "", *below]) + "\n"


def _notes(member: Mapping[str, Any]) -> str:
    notes = []
    if not member["held_out"]:
        notes.append("estimated" if member["feasible"] else "estimated; breaks a constraint")
    elif not member["feasible"]:
        broken = dict.fromkeys(each["task"] for each in member["constraints"] if not each["holds"])
        notes.append(f"breaks the constraint on {', '.join(broken)}")
    elif not member["non_dominated"]:
        notes.append("dominated here")
    if member["candidate"].startswith("parent:"):
        notes.append(f"is the parent {member['candidate'].removeprefix('parent:')}")
    return "; ".join(notes)
