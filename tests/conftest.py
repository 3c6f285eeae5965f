"""Shared by all tests: no network, one thread, and a small family of real models."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest_plugins = ["tests.commands", "tests.lm_eval_runs", "tests.vllm_here"]

for _name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session", autouse=True)
def _no_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing reads or writes the user's own merge3 folder, whatever scope a fixture has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MERGE3_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_power_cut() -> Iterator[None]:
    """Tens of thousands of commits wait for no disk: what is written outlives a killed process anyway."""
    from merge3_plugin.evolve import schema

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "SYNCHRONOUS", "OFF")
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(autouse=True)
def merge3_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's merge3 folder: an empty one for each test."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("MERGE3_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Folders ``[base, model_1, model_2, model_3]``: a random Llama of two layers and three of its "fine-tunes"."""
    from merge3_plugin.testing import make_tiny_family

    return make_tiny_family(tmp_path_factory.mktemp("tiny_models"))
