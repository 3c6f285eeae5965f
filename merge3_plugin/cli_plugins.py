"""The commands ``merge3 plugins`` and ``merge3 task-path``."""

from __future__ import annotations

from collections.abc import Mapping

import click

from merge3_plugin.errors import ConfigError


@click.command()
def plugins() -> None:
    """List the plug-ins, where they come from, and what they offer.

    A plug-in is an installed package with an entry point in the group "merge3"; see the README, "Write a plug-in".
    """
    from merge3_plugin.plugins import plugin_host

    host = plugin_host()
    estimators, methods, optimizers = host.estimator_plugins(), host.merge_methods(), host.optimizers()
    for plugin in host.loaded():
        click.echo(f"{plugin.name} ({plugin.source})")
        click.echo(f"  hooks: {', '.join(plugin.hooks)}")
        offered = [name for name, by in estimators.items() if by == plugin.name]
        if offered:
            click.echo(f"  estimators: {', '.join(offered)}")
        searching = [name for name, by in optimizers.items() if by.plugin == plugin.name]
        if searching:
            click.echo(f"  optimizers: {', '.join(searching)}")
        for name, entry in methods.items():
            if entry.plugin == plugin.name:
                click.echo(f"  merge method: {name} {_bounds(entry.bounds)}")


def _bounds(bounds: Mapping[str, tuple[float, float]]) -> str:
    if not bounds:
        return "(no bounds: nothing of it is searched unless the config bounds it)"
    return "(" + ", ".join(f"{name} in [{low:g}, {high:g}]" for name, (low, high) in bounds.items()) + ")"


@click.command("task-path")
def task_path() -> None:
    """Print the folder of our tasks.

    The bare lm_eval command finds them by itself; where MERGE3_AUTOLOAD=0 keeps it from that, use
    lm_eval --include_path "$(merge3 task-path)" --tasks merge3_arc_ja ...
    """
    from merge3_plugin.harness.registration import tasks_folder

    folder = tasks_folder()
    if not folder.is_dir():
        raise ConfigError(f"expected the tasks at {folder}, got no such folder; install merge3-plugin again")
    click.echo(folder)
