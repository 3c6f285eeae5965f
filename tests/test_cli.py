"""The command group: what it lists, and how it fails."""

from __future__ import annotations

import errno
import importlib
import logging
import subprocess
import sys
from pathlib import Path

import click
import pytest

from merge3_plugin import __version__, cli
from merge3_plugin.errors import DataError


def failing(error: BaseException) -> click.Command:
    @click.command()
    def fail() -> None:
        raise error

    return fail


def test_every_command_is_there_and_says_what_the_list_says() -> None:
    for name, (_, about) in cli.COMMANDS.items():
        command = cli._load(name)
        assert isinstance(command, click.Command), name
        assert command.help, name
        assert len(about) < 70 and about.endswith("."), name


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(cli.merge3, "merge3", ["--help"]) == 0
    listed = capsys.readouterr().out
    assert all(f"  {name} " in listed for name in cli.COMMANDS)


def test_evolve_is_mergekit_evolve_merge3() -> None:
    assert cli._load("evolve") is importlib.import_module("merge3_plugin.cli_evolve").evolve


def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(cli.merge3, "merge3", ["evlove"]) == 2
    assert capsys.readouterr().err == "merge3: error: expected a command, got 'evlove'; did you mean 'evolve'?\n"


def test_a_persons_mistake_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(failing(DataError("scores: expected one,\n  got none")), "merge3", []) == 2
    assert capsys.readouterr().err == "merge3: error: scores: expected one, got none\n"


def test_debug_shows_where_the_mistake_was_found(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MERGE3_DEBUG", "1")
    assert cli.run(failing(DataError("no items")), "merge3", []) == 2
    trace, line = capsys.readouterr().err.strip().rsplit("\n", 1)
    assert "Traceback" in trace and "in fail" in trace
    assert line == "merge3: error: no items"


def test_a_wrong_flag_is_one_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(cli.merge3, "merge3", ["plugins", "--al"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("merge3: error: ") and "--al" in error and error.count("\n") == 1


def test_no_disk_space_is_one_line_and_other_defects_keep_their_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(failing(OSError(errno.ENOSPC, "No space left on device", "run.sqlite")), "merge3", []) == 2
    assert "expected free disk space, got none at run.sqlite" in capsys.readouterr().err
    with pytest.raises(OSError, match="broken"):
        cli.run(failing(OSError(errno.EIO, "broken")), "merge3", [])


def test_an_interrupt_is_said_and_has_the_shells_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(failing(KeyboardInterrupt()), "merge3", []) == 130
    assert capsys.readouterr().err.strip() == "merge3: stopped"


def test_a_reader_that_leaves_gets_no_traceback() -> None:
    code = "from merge3_plugin.cli import main; import sys; sys.argv[1:] = ['plugins']; main()"
    reader = subprocess.Popen([sys.executable, "-c", "pass"], stdin=subprocess.PIPE)
    assert reader.stdin is not None
    reader.wait()
    done = subprocess.run([sys.executable, "-c", code], stdout=reader.stdin, stderr=subprocess.PIPE, text=True)
    reader.stdin.close()
    assert (done.returncode, done.stderr) == (1, "")


def test_our_log_lines_are_shown_while_a_command_runs_and_the_logger_is_left_as_it_was(
    capsys: pytest.CaptureFixture[str],
) -> None:
    @click.command()
    def talk() -> None:
        logging.getLogger("merge3_plugin.evolve").info("generation 1")

    logger = logging.getLogger("merge3_plugin")
    before = logger.level, logger.propagate, list(logger.handlers)
    assert cli.run(talk, "merge3", []) == 0
    assert "merge3: generation 1" in capsys.readouterr().err
    assert (logger.level, logger.propagate, list(logger.handlers)) == before


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(cli.merge3, "merge3", ["--version"]) == 0
    assert __version__ in capsys.readouterr().out


def test_plugins_lists_what_is_loaded_and_from_where(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(cli.merge3, "merge3", ["plugins"]) == 0
    listed = capsys.readouterr().out
    assert f"merge3_plugin.estimate.builtin (merge3-plugin {__version__})" in listed
    assert "hooks: merge3_register_estimators" in listed
    assert "estimators: mean, weighted, p-irt, gp-irt, mp-irt, gmp-irt" in listed
    assert "optimizers: cma-es, " in listed


def test_task_path_is_the_folder_of_our_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(cli.merge3, "merge3", ["task-path"]) == 0
    folder = Path(capsys.readouterr().out.strip())
    assert folder.name == "lm_eval_tasks" and list(folder.glob("**/*.yaml"))
