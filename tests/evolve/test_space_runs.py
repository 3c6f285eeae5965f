"""Whole runs over spaces of several methods and of a training run's checkpoints."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import yaml

from merge3_plugin.config import load_config, parse_config
from merge3_plugin.errors import ConfigError, RunError
from merge3_plugin.evolve.setup import Flags, rehearse
from merge3_plugin.evolve.store import RunStore
from tests.evolve.world import evolve_here, make_world


def recipes(out: Path) -> list[dict[str, Any]]:
    store = RunStore.open(out)
    found = [store.find(candidate, "search") for candidate, _ in store.scored("search")]
    store.close()
    return [dict(evaluation.recipe) for evaluation in found if evaluation is not None and evaluation.recipe]


def test_checkpoints_of_a_run_are_weighted_and_the_record_keeps_which(tiny_models: list[Path], tmp_path: Path) -> None:
    steps = (900, 1000, 50)
    for step, model in zip(steps, tiny_models[1:], strict=True):
        shutil.copytree(model, tmp_path / "run" / f"checkpoint-{step}")
    path = make_world(tmp_path, tiny_models, space="weights", search={"max_fevals": 9, "popsize": 4})
    config = yaml.safe_load(path.read_text())
    config["genome"] = {"models": [str(tmp_path / "run" / "checkpoint-*")]}
    path.write_text(yaml.safe_dump(config))
    summary = evolve_here(path, tmp_path / "out")
    assert summary["state"] == "finished"
    assert {m["label"] for m in summary["models"]} >= {"checkpoint-50", "checkpoint-900", "checkpoint-1000", "uniform"}
    searched = recipes(tmp_path / "out")
    assert len(searched) == 9
    for recipe in searched:
        sources = recipe["slices"][0]["sources"]
        assert [Path(source["model"]).name for source in sources] == [f"checkpoint-{step}" for step in (50, 900, 1000)]
        assert sum(source["parameters"]["weight"] for source in sources) == pytest.approx(1, abs=1e-6)
    shutil.copytree(tiny_models[0], tmp_path / "run" / "checkpoint-2000")
    with pytest.raises(RunError, match="genome.models was .*checkpoint-50"):
        evolve_here(path, tmp_path / "out")


def test_a_search_tries_more_than_one_of_several_methods(tiny_models: list[Path], tmp_path: Path) -> None:
    config = make_world(
        tmp_path, tiny_models, space={"methods": ["linear", "ties"]}, search={"max_fevals": 14, "optimizer": "random"}
    )
    summary = evolve_here(config, tmp_path / "out")
    assert summary["state"] == "finished"
    assert {recipe["merge_method"] for recipe in recipes(tmp_path / "out")} == {"task_arithmetic", "linear", "ties"}


def test_patterns_stand_for_folders_of_models_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("run-2/checkpoint-9", "run-10/checkpoint-10", "run-10/checkpoint-9", "run-2/checkpoint-100"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").touch()
    (tmp_path / "run-2" / "runs").mkdir()
    (tmp_path / "adapters" / "step-1").mkdir(parents=True)
    (tmp_path / "adapters" / "step-1" / "adapter_config.json").touch()

    def models(*patterns: str) -> list[str]:
        genome = {"models": list(patterns), "merge_method": "linear"}
        found = parse_config({"genome": genome, "tasks": ["x"]}).genome.models
        return [name.replace(f"{tmp_path}/", "") for name in found]

    assert models("first", f"{tmp_path}/run-*/*") == [
        "first",
        "run-2/checkpoint-9",
        "run-2/checkpoint-100",
        "run-10/checkpoint-9",
        "run-10/checkpoint-10",
    ]
    assert models(f"org/base+{tmp_path}/adapters/*") == ["org/base+adapters/step-1"]
    with pytest.raises(ConfigError, match="genome.models: expected folders of models at .*/runs/\\*, got none"):
        models(f"{tmp_path}/run-2/runs/*")


def test_of_hub_revisions_a_plan_needs_no_more_than_the_config(
    tiny_models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for number in (1000, 2000):
        repository = tmp_path / "hub" / "models--org--tiny"
        (repository / "refs").mkdir(parents=True, exist_ok=True)
        (repository / "refs" / f"step{number}").write_text(f"{number:040d}")
        (repository / "snapshots" / f"{number:040d}").mkdir(parents=True)
        shutil.copy(tiny_models[0] / "config.json", repository / "snapshots" / f"{number:040d}")
    config = {
        "genome": {"models": ["org/tiny@step1000", "org/tiny@step2000"]},
        "tasks": ["x"],
        "merge3": {"space": "weights"},
    }
    (tmp_path / "config.yml").write_text(yaml.safe_dump(config))
    rehearsal = rehearse(load_config(tmp_path / "config.yml"), Flags())
    assert (rehearsal.outline.n_layers, rehearsal.outline.dtype_name) == (2, "float32")
    assert [v.name for v in rehearsal.space.variables] == ["tiny@step1000.logit", "tiny@step2000.logit"]
