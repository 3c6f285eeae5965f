"""Runs that vLLM scores, or its stand-in: the same answers, one line where they cannot be, and the memory they take."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from merge3_plugin.config import RunConfig, load_config
from merge3_plugin.errors import ConfigError, ModelError
from merge3_plugin.evolve import serving
from merge3_plugin.evolve.evaluate import Candidate
from merge3_plugin.evolve.serving import check_vllm, vllm_memory
from merge3_plugin.evolve.setup import Flags, opened
from merge3_plugin.merging.merger import Merger
from tests.evolve.world import make_world

# vLLM itself has one engine in a process, and wants models with wider heads.
stand_in = pytest.mark.skipif(find_spec("vllm") is not None, reason="tests/harness/test_vllm_model.py asks vLLM itself")
VLLM = {"merge3.eval.model": "vllm", "merge3.eval.model_args.enforce_eager": True}


@pytest.fixture(scope="module")
def world(tiny_models: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"), tiny_models)


def answers(config: RunConfig, world: Path, out: Path) -> list[Any]:
    """Those of two parents and of two merges, in turns."""
    with opened(config, out, Flags(task_search_path=(str(world.parent / "tasks"),))) as setting:
        items = {"tiny_sum": list(setting.benchmarks["tiny_sum"].item_ids)[:30]}
        merges = [setting.space.decode(np.full(len(setting.space.variables), gene)) for gene in (0.2, 0.7)]
        asked = [
            candidate
            for name, recipe in zip(setting.parents.values(), merges, strict=False)
            for candidate in (Candidate(name, parent=name), Candidate(f"before {name}", recipe))
        ]
        found = [setting.evaluator.evaluate(candidate, "search", items) for candidate in asked]
    assert [evaluation.error for evaluation in found] == [None] * 4
    return [[evaluation.answers["tiny_sum"], evaluation.soft["tiny_sum"]] for evaluation in found]


@stand_in
def test_each_candidates_weights_come_to_vllm(world: Path, tmp_path: Path, vllm: None) -> None:
    expected = answers(load_config(world), world, tmp_path / "hf")
    found = answers(load_config(world, VLLM), world, tmp_path / "vllm")
    for (right, soft), (of_hf, soft_of_hf) in zip(found, expected, strict=True):
        assert right == of_hf
        assert soft == pytest.approx(soft_of_hf, abs=1e-4)
    assert len({str(sorted(soft.items())) for _, soft in found}) == 4


@stand_in
def test_a_run_ends_where_vllm_computes_something_else(
    world: Path, tmp_path: Path, vllm: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Merger, "tensors", {})
    with pytest.raises(ModelError, match="vLLM: expected a log-likelihood of .* write eval.model: hf"):
        answers(load_config(world, VLLM), world, tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"merge3.space": {"kind": "prune", "remove": 1}}, "with models of one depth, got space prune"),
        ({"merge3.device": ["cpu", "cpu"]}, "with one live model, got 2; name one device"),
        ({}, "to be installed, got none; pip install 'merge3-plugin[vllm]'"),
    ],
)
def test_where_vllm_cannot_score_is_one_line(
    changes: dict[str, Any], words: str, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as error:
        check_vllm(load_config(world, {**VLLM, **changes}))
    assert words in str(error.value) and "\n" not in str(error.value)
    check_vllm(load_config(world, changes))


def test_vllm_needs_a_device(world: Path, vllm: None, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(world, VLLM)
    check_vllm(config)
    monkeypatch.setattr(serving, "vllm_device", lambda: "")
    with pytest.raises(ConfigError, match="with a device that it supports, got none here"):
        check_vllm(config)


def test_settings_of_vllm_are_refused_without_it(world: Path) -> None:
    with pytest.raises(ConfigError, match="expected them with model: vllm, got them with hf"):
        load_config(world, {"merge3.eval.model_args.max_model_len": 512})


def test_its_memory_is_counted_where_it_takes_it(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "vllm_device", lambda: "cuda")
    monkeypatch.setattr(serving, "memory_total", lambda device: 1000)
    config = load_config(world, {**VLLM, "merge3.eval.model_args.gpu_memory_utilization": 0.3})
    assert [vllm_memory(config, device) for device in ("cuda", "cuda:0", "cuda:1", "cpu")] == [300, 300, 0, 0]
    assert vllm_memory(load_config(world), "cuda") == 0
