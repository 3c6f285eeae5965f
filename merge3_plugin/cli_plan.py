"""``merge3 plan``: what a run would do."""

from __future__ import annotations

import json
from pathlib import Path

import click

from merge3_plugin.errors import RunError


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("config", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--task-search-path", multiple=True, help="Folder of lm-eval task YAML; may be given more than once.")
@click.option("--all", "everything", is_flag=True, help="Show every gene of a large space.")
@click.option("--recipe", is_flag=True, help="Print the merge that the search starts from, as mergekit's YAML.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan, with that recipe, as JSON.")
@click.option(
    "--trust-remote-code/--no-trust-remote-code", default=False, help="Run code that comes with models.  [no]"
)
@click.option("--allow-crimes/--no-allow-crimes", default=False, help="Let mergekit mix architectures.  [no]")
@click.option(
    "--i-understand-the-depths-of-the-evils-i-am-unleashing",
    "allow_benchmark_tasks",
    is_flag=True,
    help="Search on the test items of public benchmarks all the same.",
)
def plan(
    config: Path,
    task_search_path: tuple[str, ...],
    everything: bool,
    recipe: bool,
    as_json: bool,
    trust_remote_code: bool,
    allow_crimes: bool,
    allow_benchmark_tasks: bool,
) -> None:
    """Show what a search would do: its genes and their limits, its budget in items, and what will not work well.

    No weight is read, and of models on the hub none is downloaded; the tasks are loaded. The parents are checked by
    the headers of their files: architecture, shapes, vocabulary, chat template, tied weights. Memory, disk and time are
    for this machine; the time is the least that its arithmetic and its memory allow, measured in half a second.

    A config that cannot run is one line and exit status 2, the same as `merge3 evolve` would end with.

    \b
    merge3 plan config.yml
    merge3 plan config.yml --recipe > start.yaml
    """
    from merge3_plugin.config import load_config
    from merge3_plugin.evolve.plan import make_plan
    from merge3_plugin.evolve.recipe import to_yaml
    from merge3_plugin.evolve.setup import Flags
    from merge3_plugin.report.plan import render_plan

    read = load_config(config)
    flags = Flags(
        task_search_path,
        allow_benchmark_tasks=allow_benchmark_tasks,
        trust_remote_code=trust_remote_code,
        allow_crimes=allow_crimes,
    )
    found = make_plan(read, flags)
    if as_json:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
    elif recipe:
        click.echo(to_yaml(found["recipe"], random_seed=read.merge3.seed, recipe_file="start.yaml"), nl=False)
    else:
        click.echo(render_plan(found, everything=everything), nl=False)
    if too_little := found["machine"]["too_little"]:
        raise RunError(too_little)
