"""The command in a recipe's file, run in this process."""

from __future__ import annotations

import shlex
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file


def by_command(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The model that the first line of a recipe's file makes of it in ``folder``."""
    from mergekit.io.tasks import LoaderCache

    (folder / "best_config.yaml").write_text(text)
    name, *arguments = shlex.split(text.splitlines()[0].removeprefix("# "))
    (script,) = entry_points(group="console_scripts", name=name)
    monkeypatch.chdir(folder)
    LoaderCache().loaders.clear()  # a process of its own would begin with none
    result = CliRunner().invoke(script.load(), arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return folder / "final_model"


def assert_same_weights(ours: Path, theirs: Path) -> None:
    got, wanted = (load_file(folder / "model.safetensors") for folder in (ours, theirs))
    assert set(got) == set(wanted)
    for name, tensor in wanted.items():
        assert got[name].dtype == tensor.dtype and torch.equal(got[name], tensor), name
