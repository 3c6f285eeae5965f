"""``merge3 runs``: look into the record of a run, export it, and begin another run with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from merge3_plugin.errors import ConfigError

if TYPE_CHECKING:
    from merge3_plugin.evolve.store import RunStore


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def runs() -> None:
    """Look into the record of a search (the --storage-path of mergekit-evolve-merge3), export it, or fork it.

    A run may go on meanwhile: its record is read as it is at that moment, and nothing is written to it.
    """


FOLDER = click.argument("folder", type=click.Path(path_type=Path))


@runs.command()
@FOLDER
def show(folder: Path) -> None:
    """How a run has gone: its result, its progress, its front, what the fitness hangs on, and what all of it cost.

    Of a run that is not at its end yet, everything but the result. Estimates are as they were recorded, by the
    calibration of their time.
    """
    from merge3_plugin.evolve.store import RunStore

    store = RunStore.open(folder)
    try:
        click.echo("\n\n".join(_shown(store, folder)))
    finally:
        store.close()


def _shown(store: RunStore, folder: Path) -> list[str]:
    from merge3_plugin.evolve.history import failures, progress, read_history
    from merge3_plugin.evolve.importance import importance
    from merge3_plugin.evolve.pick import figures
    from merge3_plugin.report import history as report
    from merge3_plugin.report.front_table import render_front
    from merge3_plugin.report.table import render

    parts, history, spent = [], read_history(store), store.spent()
    if summary := _content(folder / "summary.json"):
        parts.append(render(summary).rstrip("\n"))
        if _evaluations(summary["cost"]["by_phase"]) != _evaluations(spent):
            parts.append("That was an earlier end: the run has gone on since.")
    parts.append(report.render_progress(progress(history)))
    if front := _content(folder / "front.json"):
        parts.append(render_front(front, figures(front), {}).rstrip("\n"))
    elif so_far := {member.candidate: member.figures for member in history.front()}:
        parts.append(report.render_front_so_far(so_far))
    parts.append(report.render_importance(asdict(importance(history))))
    return [*parts, report.render_spent(spent, failures(store))]


def _content(file: Path) -> dict[str, Any] | None:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def _evaluations(phases: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    return {name: phase["evaluations"] for name, phase in phases.items()}


@runs.command()
@FOLDER
@click.option("--csv", "to_csv", is_flag=False, flag_value="-", metavar="FILE", help="One row an evaluation.  [-]")
@click.option("--json", "to_json", is_flag=False, flag_value="-", metavar="FILE", help="The same as JSON.  [-]")
@click.option("--canonical", is_flag=True, help="All but wall-clock and paths, one JSON line a row.")
def export(folder: Path, to_csv: str | None, to_json: str | None, canonical: bool) -> None:
    """Write the record to a file, or to the terminal (-), in one of three forms.

    CSV and JSON have one row an evaluation: what was scored, for what, on how many items, what it cost, the fitness,
    estimates with their intervals by task, and genes by name. The canonical form has the answers, the recipes and the
    steps too: two runs of one config and seed, broken off and resumed or not, print the same bytes.

    \b
    merge3 runs export out --csv out.csv
    merge3 runs export out --json | jq
    """
    from merge3_plugin.evolve.export import as_csv, as_json, rows
    from merge3_plugin.evolve.history import read_history
    from merge3_plugin.evolve.store import RunStore

    if [to_csv is not None, to_json is not None, canonical].count(True) != 1:
        raise click.UsageError("expected one of --csv, --json and --canonical")
    store = RunStore.open(folder)
    try:
        if canonical:
            genome = store.meta().get("config", {}).get("genome", {})
            for line in store.canonical([*genome.get("models", []), *filter(None, [genome.get("base_model")])]):
                click.echo(line)
            return
        text = (as_csv if to_csv else as_json)(rows(store, read_history(store)))
    finally:
        store.close()
    with click.open_file(to_csv or to_json or "-", "w", encoding="utf-8") as stream:
        stream.write(text)


@runs.command()
@FOLDER
@click.argument("new", type=click.Path(path_type=Path))
@click.option("--max-fevals", type=click.IntRange(1), help="Candidates.  [as many as the search was begun for]")
@click.option("--max-items", type=click.IntRange(1), help="Item evaluations.  [no limit]")
@click.option("--max-tokens", type=click.IntRange(1), help="Tokens that forward passes read.  [no limit]")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), help="Seconds of the search.  [no limit]")
@click.option("--patience", type=click.IntRange(1), help="Candidates in a row without a better one.  [no limit]")
def fork(folder: Path, new: Path, **budgets: float | None) -> None:
    """Begin another run, in the folder NEW, with the record of this one and another budget; this one stays as it is.

    NEW gets the record as it is now, and a config.yml that says what the run was begun with, and the budget. Nothing
    that was scored is scored again. Whatever is no budget makes another run: begin that with a config of its own, and
    merge3.search.warm_start.

    \b
    merge3 runs fork out longer --max-fevals 400
    """
    from merge3_plugin.evolve.fork import CONFIG, fork

    given = {key: value for key, value in budgets.items() if value is not None}
    if not given:
        raise ConfigError("runs fork: expected a budget, got none; name one, as --max-fevals 400")
    command = fork(folder, new, given)
    click.echo(f"{new} begins with the record of {folder}, and {new / CONFIG}. Go on, from the same place, with:")
    click.echo(f"  {command}")
