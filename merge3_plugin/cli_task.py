"""What commands that score models share: options of several values, and the task as the options ask for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from merge3_plugin.errors import ConfigError

if TYPE_CHECKING:
    from merge3_plugin.harness.benchmark import Benchmark


class ManyValues(click.Command):
    """A command whose ``multiple`` options take several values after one flag, as in ``--models A B C``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        many = {flag for option in self.params if getattr(option, "multiple", False) for flag in option.opts}
        spread: list[str] = []
        flag = None
        for argument, following in zip(args, [*args[1:], "-"], strict=True):
            if argument.startswith("-"):
                flag = argument if argument in many and not following.startswith("-") else None
                spread += [argument] if flag is None else []
            else:
                spread += [argument] if flag is None else [flag, argument]
        return super().parse_args(ctx, spread)


def load_asked(
    task: str, metric: str | None, num_fewshot: int | None, options: Mapping[str, Any]
) -> tuple[Benchmark, Mapping[str, Any]]:
    """The task as ``--metadata``, ``--include-path`` and ``--id-field`` ask for it, and our settings of it.

    Raises ConfigError for a metric that no subset of the items can stand for.
    """
    from merge3_plugin.harness.benchmark import load_benchmarks

    metadata, own = read_metadata(options["metadata"], task)
    benchmark = load_benchmarks(
        {task: metric},
        include_paths=options["include_path"],
        num_fewshot=num_fewshot,
        data={task: own["data"]} if "data" in own else None,
        id_field=options["id_field"] or own.get("id_field"),
        language={task: own["language"]} if "language" in own else None,
        metadata=metadata,
    )[task]
    benchmark.items.check_per_item()
    return benchmark, own


def read_metadata(text: str | None, task: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """lm_eval's ``--metadata``, and what it says of this task under our key."""
    from merge3_plugin.harness.settings import check_task_names, tasks_of_run

    try:
        metadata = json.loads(text) if text else {}
    except ValueError as error:
        raise ConfigError(f"--metadata: expected JSON, got: {error}") from None
    if not isinstance(metadata, dict):
        raise ConfigError(f"--metadata: expected a JSON object, got {text!r}")
    tasks = tasks_of_run({"metadata": metadata})
    check_task_names(tasks, [task])
    return metadata, tasks.get(task, {})
