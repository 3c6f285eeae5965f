"""The ``merge3`` command: a group that imports a command's module only when that command is called."""

from __future__ import annotations

import errno
import importlib
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from merge3_plugin import __version__
from merge3_plugin.cli_log import Console, tell
from merge3_plugin.errors import Merge3Error, nearest

# name -> (where the command is, what the list of commands says of it)
COMMANDS = {
    "calibrate": ("merge3_plugin.cli_calibrate:calibrate", "Choose a benchmark's anchors from the answers of models."),
    "anchors": ("merge3_plugin.cli_anchors:anchors", "Look into a calibration file, or import published ones."),
    "score": ("merge3_plugin.cli_score:score", "Estimate one model's accuracy from as few items as will do."),
    "plan": ("merge3_plugin.cli_plan:plan", "Show what a search would do, without loading a model."),
    "evolve": ("merge3_plugin.cli_evolve:evolve", "Search a merge of models; the same as mergekit-evolve-merge3."),
    "runs": ("merge3_plugin.cli_runs:runs", "Look into the record of a search, or export it."),
    "pick": ("merge3_plugin.cli_pick:pick", "Write the merge of a front of several objectives that fits you best."),
    "plugins": ("merge3_plugin.cli_plugins:plugins", "List the plug-ins, and what they offer."),
    "task-path": ("merge3_plugin.cli_plugins:task_path", "Print the folder of our tasks, for lm_eval --include_path."),
}


def _load(name: str) -> click.Command:
    module, attribute = COMMANDS[name][0].split(":")
    command: click.Command = getattr(importlib.import_module(module), attribute)
    return command


class LazyGroup(click.Group):
    """Lists its commands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            raise click.UsageError(f"expected a command, got {cmd_name!r}{nearest(cmd_name, COMMANDS)}", ctx)
        return _load(cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, about) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="merge3")
def merge3() -> None:
    """Merge language models by evolution, on estimates from a few anchor items.

    \b
    Three steps:
      1. merge3 calibrate       which items stand for a whole benchmark (once)
      2. merge3 evolve          search the merge on them, confirm it on items held out
      3. lm_eval --tasks merge3_arc_ja ...   the same estimates in lm-eval

    Every step runs by itself: without a calibration, evolve makes its own.
    """


def main() -> None:
    """The console command ``merge3``."""
    sys.exit(run(merge3, "merge3"))


def evolve_main() -> None:
    """The console command ``mergekit-evolve-merge3``."""
    sys.exit(run(_load("evolve"), "mergekit-evolve-merge3"))


def run(command: click.Command, prog: str, args: list[str] | None = None) -> int:
    """The exit status of ``command``. What a person did wrong is one line on stderr and status 2.

    ``MERGE3_DEBUG=1`` shows the traceback as well.
    """
    console = Console()
    with _logging_to(console):
        return _status(command, prog, args, console)


def _status(command: click.Command, prog: str, args: list[str] | None, console: Console) -> int:
    try:
        status = command.main(args, prog_name=prog, standalone_mode=False, obj=console)
        return status if isinstance(status, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        return _fail(error.format_message(), error, error.exit_code)
    except Merge3Error as error:
        return _fail(str(error), error)
    except (click.Abort, KeyboardInterrupt):
        tell("stopped", "stopped")
        return 130
    except BrokenPipeError:
        # The reader has left (| head). Python would complain once more when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        where = f" at {error.filename}" if error.filename else ""
        return _fail(f"expected free disk space, got none{where}; free some and run the same command again", error)


def _fail(message: str, error: BaseException, status: int = 2) -> int:
    if os.environ.get("MERGE3_DEBUG", "0") != "0":
        import traceback

        traceback.print_exception(error)
    tell("failed", " ".join(message.split()), status=status)
    return status


@contextmanager
def _logging_to(console: Console) -> Iterator[None]:
    """Our own log lines on the console while a command runs, and nobody else's."""
    logger = logging.getLogger("merge3_plugin")
    before = logger.level, logger.propagate
    logger.addHandler(console)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(console)
        logger.level, logger.propagate = before
