"""``merge3 runs``: look into the record of a run."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def runs() -> None:
    """Look into the record of a search (the --storage-path of mergekit-evolve-merge3), or export it."""


FOLDER = click.argument("folder", type=click.Path(path_type=Path))


@runs.command()
@FOLDER
def show(folder: Path) -> None:
    """Print the result of a run, or, while there is none, what it has scored so far."""
    from merge3_plugin.evolve.store import RunStore
    from merge3_plugin.report.table import render

    store = RunStore.open(folder)
    summary = folder / "summary.json"
    if summary.is_file():
        click.echo(render(json.loads(summary.read_text(encoding="utf-8"))), nl=False)
        return
    for purpose, row in store.spent().items():
        click.echo(f"{purpose}: {row['evaluations']} models scored on {row['items']:,} items, {row['failed']} failed")


@runs.command()
@FOLDER
@click.option("--canonical", is_flag=True, required=True, help="All but wall-clock and paths, one JSON line a row.")
def export(folder: Path, canonical: bool) -> None:
    """Print the record. Two runs of one config and seed, broken off and resumed or not, print the same bytes."""
    from merge3_plugin.evolve.store import RunStore

    store = RunStore.open(folder)
    genome = store.meta().get("config", {}).get("genome", {})
    for line in store.canonical([*genome.get("models", []), *filter(None, [genome.get("base_model")])]):
        click.echo(line)
