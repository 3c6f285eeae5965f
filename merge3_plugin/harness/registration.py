"""Where our tasks lie, and which TaskManager is at work. Standard library only: imported at first use of lm_eval."""

from __future__ import annotations

import sys
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge3_plugin.errors import ConfigError, Merge3Error

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

_running: weakref.ref[TaskManager] | None = None


def tasks_folder() -> Path:
    """The folder of our task YAML, beside the package in a clone and in an installed wheel alike."""
    return Path(__file__).resolve().parents[2] / "lm_eval_tasks"


def remember(manager: TaskManager) -> None:
    """Note (weakly) the TaskManager that loads tasks from now on: an AnchorTask looks its base up there.

    lm-eval builds a task without telling it who builds; the hook on ``TaskManager.__init__`` calls this.
    """
    global _running
    _running = weakref.ref(manager)


def running_task_manager() -> TaskManager:
    """The TaskManager last remembered. Raises ConfigError if there is none."""
    manager = _running() if _running else None
    if manager is None:
        raise ConfigError(
            "anchor task: expected to know the running TaskManager, got none; unset MERGE3_AUTOLOAD=0, "
            "or call merge3_plugin.harness.registration.remember(task_manager)"
        )
    return manager


def known_tasks() -> list[str]:
    """The names that the TaskManager last remembered can load; none without one."""
    manager = _running() if _running else None
    return [] if manager is None else list(manager.all_tasks)


def print_errors_in_one_line() -> None:
    """In lm_eval's own command, make a Merge3Error one line on stderr and exit status 2, as in our commands.

    Elsewhere (a notebook, simple_evaluate in a script) the exception stays the caller's.
    """
    command = Path(sys.argv[0]).name if sys.argv else ""
    module = getattr(sys.modules.get("__main__"), "__spec__", None)
    if command not in ("lm_eval", "lm-eval") and getattr(module, "name", "") != "lm_eval.__main__":
        return
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if not isinstance(error, Merge3Error):
            return previous(kind, error, trace)
        print(f"merge3: error: {error}", file=sys.stderr)
        raise SystemExit(2)

    sys.excepthook = hook
