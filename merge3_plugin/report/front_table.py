"""The front of a run as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from merge3_plugin.report.table import aligned, in_percent


def render_front(
    front: Mapping[str, Any], tasks: Sequence[str], regrets: Mapping[str, float], chosen: str | None = None
) -> str:
    """The members' held-out accuracies in ``tasks``; with ``regrets`` by label, how they were chosen from."""
    rows = [["", "member", *tasks, *(["regret"] if regrets else [])]]
    for member in front["members"]:
        label = member["label"]
        regret = [f"{100 * regrets[label]:.2f}" if label in regrets else "-"] if regrets else []
        cells = [in_percent(member["held_out"][task]) for task in tasks]
        rows.append(["*" if label == chosen else "", label, *cells, *regret])
    header, rule, *lines = aligned(rows, left=2).splitlines()
    noted = [f"{line}  {_notes(member)}".rstrip() for line, member in zip(lines, front["members"], strict=True)]
    volume = front["hypervolume"]
    title = "Accuracy in percent on the held-out items, with 95 % intervals:"
    below = f"Hypervolume: {volume['held_out']:.4f} of the front, {volume['parents']:.4f} of the parents."
    return "\n".join([title, "", header, rule, *noted, "", below]) + "\n"


def _notes(member: Mapping[str, Any]) -> str:
    notes = []
    if not member["feasible"]:
        broken = dict.fromkeys(each["task"] for each in member["constraints"] if not each["holds"])
        notes.append(f"breaks the constraint on {', '.join(broken)}")
    elif not member["non_dominated"]:
        notes.append("dominated here")
    if member["candidate"].startswith("parent:"):
        notes.append(f"is the parent {member['candidate'].removeprefix('parent:')}")
    return "; ".join(notes)
