"""``merge3 pick``: one merge of a front."""

from __future__ import annotations

from pathlib import Path

import click

from merge3_plugin.errors import ConfigError


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--prefer", help="What counts how much, as math=2,ja=1; a task not named counts nothing.")
@click.option("--out", type=click.Path(path_type=Path), help="Where the model goes.  [FOLDER/picked]")
@click.option("--list", "list_only", is_flag=True, help="Show the front, and with --prefer what fits; write nothing.")
@click.option(
    "--trust-remote-code/--no-trust-remote-code", default=False, help="Run code that comes with models.  [no]"
)
@click.option("--allow-crimes/--no-allow-crimes", default=False, help="Let mergekit mix architectures.  [no]")
def pick(
    folder: Path, prefer: str | None, out: Path | None, list_only: bool, trust_remote_code: bool, allow_crimes: bool
) -> None:
    """Write the merge of a run's front that fits you best; FOLDER is the --storage-path of the run.

    A run of several objectives ends with a front: merges of which none is better in everything. The one whose greatest
    weighted shortfall from the best accuracies on the front is least is merged again, as the run did, and written with
    its recipe. Accuracies are held-out ones, or estimates where the run did not confirm a merge.

    \b
    merge3 pick out --list
    merge3 pick out --prefer math=2,ja=1
    """
    from merge3_plugin.evolve.pick import choose, figures, read_front, read_preferences, regrets, tasks, write_model
    from merge3_plugin.evolve.setup import Flags
    from merge3_plugin.report.front_table import render_front

    front = read_front(folder)
    if prefer is None:
        if not list_only:
            known = ",".join(f"{task}=1" for task in tasks(front))
            raise ConfigError(
                f"--prefer: expected what counts how much, as in {known}, got none; --list shows the front"
            )
        click.echo(render_front(front, figures(front), {}), nl=False)
        return
    preferences = read_preferences(prefer, front)
    chosen = choose(front, preferences)
    (member,) = [member for member in front["members"] if member["label"] == chosen]
    click.echo(render_front(front, figures(front), regrets(front, preferences), chosen), nl=False)
    click.echo(f"{chosen} has the least regret. It is chosen by these very figures: expect a little less of it.")
    if not member["held_out"]:
        click.echo("Its figures are estimates, which no held-out items have confirmed.")
    if not list_only:
        target = out or folder / "picked"
        write_model(
            folder, member["candidate"], target, Flags(trust_remote_code=trust_remote_code, allow_crimes=allow_crimes)
        )
        click.echo(f"Its model is in {target}, its recipe in {target / 'recipe.yaml'}.")
