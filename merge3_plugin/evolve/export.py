"""The record of a run as a table: one row an evaluation."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from merge3_plugin.domain import FloatArray
from merge3_plugin.evolve.assessor import SEARCH
from merge3_plugin.evolve.history import History
from merge3_plugin.evolve.spaces.variables import Kind, Variable
from merge3_plugin.evolve.store import RunStore, last_line

_COLUMNS = ("number", "phase", "candidate", "trial", "state", "batch", "rung", "items", "tokens", "seconds", "fitness")


def rows(store: RunStore, history: History) -> Iterator[dict[str, Any]]:
    """Each evaluation in its order.

    ``trial`` is the strategy's number of it, None for what no strategy asked. ``estimates`` are by task, ``whole`` the
    metrics of whole benchmarks; ``genes`` by name those of a candidate that the search was asked, in any phase, as
    it was asked them and in the units of their parameters; of an error the last line.
    """
    for row in store.rows():
        vector = history.vectors.get(row["candidate"])
        yield {
            **{key: row[key] for key in ("number", "candidate", "state", "batch", "rung", "tokens", "seconds")},
            "phase": row["purpose"],
            "items": row["n_items"],
            "fitness": row["fitness"],
            "trial": history.trials.get(row["candidate"]) if row["purpose"] == SEARCH else None,
            "estimates": row["estimates"],
            "whole": row["whole"],
            "genes": {} if vector is None else _genes(history.variables, vector),
            "error": last_line(row["error"]),
        }


def _genes(variables: Sequence[Variable], vector: FloatArray) -> dict[str, float | int | str]:
    found: dict[str, float | int | str] = {}
    for variable, coordinate in zip(variables, vector.tolist(), strict=True):
        if variable.choices:
            found[variable.name] = variable.choices[int(variable.settled(coordinate))]
            continue
        value = variable.parameter(coordinate)
        counts = variable.kind is Kind.INTEGER and value.is_integer()
        found[variable.name] = int(value) if counts else value
    return found


def as_csv(table: Iterable[Mapping[str, Any]]) -> str:
    """The rows as CSV; a task's estimate, its limits and its standard error are columns of their own, as are genes."""
    flat = [_flat(row) for row in table]
    columns = dict.fromkeys([*_COLUMNS, *(key for row in flat for key in row if key != "error"), "error"])
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def as_json(table: Iterable[Mapping[str, Any]]) -> str:
    """The rows as a JSON array, a row a line."""
    return "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in table) + "\n]\n"


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: row[key] for key in (*_COLUMNS, "error")}
    for task, estimate in row["estimates"].items():
        low, high = estimate["interval"]
        found |= {f"{task} estimate": estimate["accuracy"], f"{task} low": low, f"{task} high": high}
        found[f"{task} standard error"] = estimate["standard_error"]
    found |= {f"{task} value": value for task, value in row["whole"].items()}
    return found | {f"gene {name}": value for name, value in row["genes"].items()}
