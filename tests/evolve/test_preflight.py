"""What a run needs of the machine, and that too little is found before anything big is loaded."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from merge3_plugin import machine
from merge3_plugin.config import load_config
from merge3_plugin.errors import RunError
from merge3_plugin.evolve import preflight
from merge3_plugin.evolve.preflight import Memory, check_memory, disk_needed, memory_needed, time_needed, workloads
from merge3_plugin.evolve.setup import Flags, load_tasks, rehearse
from merge3_plugin.harness.scoring import Scorer
from merge3_plugin.merging.merger import Merger
from merge3_plugin.merging.outline import read_outline
from merge3_plugin.merging.sketch import Sketch
from tests.evolve.world import evolve_here, make_world

GB = 10**9
WORK = [preflight.Workload(tokens=50.0, most=100), preflight.Workload(tokens=50.0, most=70, generated=40)]


@pytest.fixture(scope="module")
def config(tiny_models: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"), tiny_models)


def of_models(models: list[Path], dtype: str) -> Sketch:
    return read_outline([str(model) for model in models], None, dtype=dtype).sketch


def memory(
    monkeypatch: pytest.MonkeyPatch, sketch: Sketch, free: int, on_device: int | None = None, live_models: int = 1
) -> Memory:
    monkeypatch.setattr(preflight, "memory_available", lambda: free)
    monkeypatch.setattr(preflight, "device_memory_available", lambda device: on_device)
    device = "cpu" if on_device is None else "cuda"
    return memory_needed(sketch, device, WORK, batch_size=32, live_models=live_models)


def test_parents_in_their_own_dtype_stay_in_their_files(
    tiny_models: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = memory(monkeypatch, of_models(tiny_models, "float32"), GB)
    assert (own.mapped, own.copied) == (4 * own.live, 0)
    assert own.on_host == own.live + own.activations + own.spare
    assert own.spare == 4 * own.tensor and replace(own, tensor=own.live // 10).spare == int(0.1 * 5 * own.live)
    half = memory(monkeypatch, of_models(tiny_models, "bfloat16"), GB)
    assert (half.mapped, half.copied, half.live) == (0, 2 * own.live, own.live // 2)
    assert half.on_host == half.copied + half.live + half.activations + half.spare
    on_gpu = memory(monkeypatch, of_models(tiny_models, "bfloat16"), GB, on_device=GB)
    assert on_gpu.on_device == int(1.1 * half.live) + half.activations
    assert on_gpu.on_host == half.copied + on_gpu.spare and on_gpu.fits
    assert on_gpu.spare == int(0.1 * 5 * half.live)
    assert on_gpu.on_host + on_gpu.on_device > half.on_host


def test_too_little_memory_says_the_sizes_and_what_would_fit(
    tiny_models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sketch = of_models(tiny_models, "float32")
    need = memory(monkeypatch, sketch, GB).on_host
    with pytest.raises(RunError) as error:
        check_memory(memory(monkeypatch, sketch, need - 1), sketch, WORK, 32)
    assert str(error.value) == (
        "memory: expected 5.2 MB free (the live model 0.1 MB, a batch 5.1 MB, and 0.1 MB to merge with), got 5.2 MB; "
        "what would fit: eval.batch_size: 4 (0.8 MB), or dtype: bfloat16 (4.0 MB)"
    )
    with pytest.raises(RunError, match="got 0.0 MB; take smaller models or free some memory"):
        check_memory(memory(monkeypatch, sketch, 10), sketch, WORK, 32)
    with pytest.raises(RunError, match="memory of cuda: expected .* what would fit: .*device: cpu"):
        check_memory(memory(monkeypatch, sketch, GB, on_device=need // 2), sketch, WORK, 32)
    assert check_memory(memory(monkeypatch, sketch, GB), sketch, WORK, 32) is None
    note = check_memory(memory(monkeypatch, sketch, need + sketch.live), sketch, WORK, 32)
    assert note is not None and "too little for 0.4 MB of parents in the page cache" in note


def test_each_live_model_is_counted_and_fewer_are_a_way_out(
    tiny_models: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sketch = of_models(tiny_models, "float32")
    one, three = memory(monkeypatch, sketch, GB), memory(monkeypatch, sketch, GB, live_models=3)
    assert three.on_host == one.on_host + 2 * (one.live + one.activations) + three.spare - one.spare
    assert three.mapped == one.mapped and three.left == GB - three.on_host
    on_gpu = memory(monkeypatch, sketch, GB, on_device=10**7, live_models=3)
    assert on_gpu.on_device == 3 * (int(1.1 * one.live) + one.activations)
    assert on_gpu.on_host == on_gpu.spare and on_gpu.left == 10**7 - on_gpu.on_device
    two = memory(monkeypatch, sketch, GB, live_models=2).on_host
    for free, words in ((two, "2 live models"), (two - 1, "one live model")):
        with pytest.raises(RunError, match=rf"3 live models of .*, a batch for each .*; what would fit: {words} \("):
            check_memory(memory(monkeypatch, sketch, free, live_models=3), sketch, WORK, 32)
        assert memory(monkeypatch, sketch, free, live_models=3 - 1 - (free < two)).fits


def test_what_vllm_takes_is_counted_in_the_place_of_a_batch(
    tiny_models: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sketch = of_models(tiny_models, "float32")
    alone = memory(monkeypatch, sketch, GB, on_device=GB)
    served = memory_needed(sketch, "cuda", WORK, batch_size=32, served=GB // 2)
    assert served.on_device == alone.on_device - alone.activations + GB // 2 and served.on_host == alone.on_host
    monkeypatch.setattr(preflight, "device_memory_available", lambda device: GB // 2)
    served = memory_needed(sketch, "cuda", WORK, batch_size=32, served=GB // 2)
    with pytest.raises(RunError, match=r"\(the live model .*, vLLM .*; what would fit: half of eval.model_args.gpu"):
        check_memory(served, sketch, WORK, 32)


def test_several_devices_share_the_time(tiny_models: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "bytes_per_second", lambda device, source=None: 1e9)
    monkeypatch.setattr(preflight, "flops_per_second", lambda device, dtype: 1e9)
    sketch = of_models(tiny_models, "float32")
    found = [
        time_needed(
            sketch,
            memory_needed(sketch, "cpu", WORK, batch_size=32, devices=n),
            [(20, WORK[0])],
            evaluations=100,
            merges=3,
        )
        for n in (1, 4)
    ]
    for part in ("scoring_seconds", "merging_seconds"):
        assert found[0][part] == pytest.approx(4 * found[1][part])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_what_is_said_to_fit_does(tiny_models: list[Path], monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    sketch = of_models(tiny_models, dtype)
    need = memory(monkeypatch, sketch, GB).on_host
    for free in (need - 1, need * 3 // 4, need // 2):
        with pytest.raises(RunError) as error:
            check_memory(memory(monkeypatch, sketch, free), sketch, WORK, 32)
        said = str(error.value)
        if "dtype: auto" in said:
            assert memory(monkeypatch, of_models(tiny_models, "auto"), free).fits
        if "dtype: bfloat16" in said:
            assert memory(monkeypatch, of_models(tiny_models, "bfloat16"), free).fits
        for models in map(int, re.findall(r"(\d) parents \(", said)):
            assert memory(monkeypatch, of_models(tiny_models[:models], dtype), free).fits


def refused(config: Path, out: Path, monkeypatch: pytest.MonkeyPatch, words: str, **changes: Any) -> None:
    """The run ends with these words, and nothing is loaded."""

    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded")

    with monkeypatch.context() as patch:
        patch.setattr("merge3_plugin.merging.merger.load_family", load)
        with pytest.raises(RunError, match=words):
            evolve_here(config, out, **changes)


def test_a_run_that_cannot_fit_stops_before_it_loads_and_goes_on_when_it_can(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(preflight, "memory_available", lambda: 1000)
        refused(config, tmp_path / "out", monkeypatch, "memory: expected .* MB free")
    usage = type(shutil.disk_usage(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 10**6))
        refused(config, tmp_path / "out", monkeypatch, "out: expected 1[89] MB free to save the model, got 1 MB")
    assert evolve_here(config, tmp_path / "out", merge3__search__max_fevals=9)["state"] == "finished"


@pytest.mark.parametrize("shots", [0, 2])
def test_the_tokens_of_an_item_are_those_that_the_scorer_reads(
    config: Path, tiny_models: list[Path], shots: int
) -> None:
    read = load_config(config, {"num_fewshot": shots})
    flags = Flags(task_search_path=(str(config.parent / "tasks"),))
    benchmarks = load_tasks(read, flags)
    (work,) = workloads(read, rehearse(read, flags).outline.sketch, benchmarks).values()
    merger = Merger([str(tiny_models[0])], dtype="float32", device="cpu")
    scorer = Scorer(benchmarks, merger.model, merger.tokenizer, batch_size=8)
    first = benchmarks["tiny_sum"].item_ids[:32]
    assert work.tokens * len(first) == scorer.price({"tiny_sum": first}).tokens
    assert work.most >= work.tokens and work.generated == 0


def test_parents_that_do_not_stay_on_a_gpu_are_copied_for_every_merge(
    tiny_models: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Figures of a machine with a GPU, which are made up here."""
    rates = {"cpu": 1e6, None: 1e9}
    monkeypatch.setattr(preflight, "bytes_per_second", lambda device, source=None: rates[source])
    monkeypatch.setattr(preflight, "flops_per_second", lambda device, dtype: 1e9)
    sketch = of_models(tiny_models, "float32")
    n = len(tiny_models)

    def needed(free: int) -> tuple[int, float | None]:
        needs = memory(monkeypatch, sketch, GB, on_device=free)
        time = time_needed(sketch, needs, [(20, WORK[0])], evaluations=100, merges=3)
        return needs.streamed, time["merging_seconds"]

    plenty, seconds = needed(GB)
    assert plenty == 0 and seconds == pytest.approx(3 * (n + 1) * sketch.live / 1e9)
    on_device = memory(monkeypatch, sketch, GB, on_device=0).on_device
    few, seconds = needed(on_device + sketch.live)
    assert few == n * sketch.live - int(0.9 * sketch.live)
    assert seconds == pytest.approx(3 * ((n + 1) * sketch.live / 1e9 + few / 1e6))


def test_a_container_has_the_memory_of_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    whole = machine.memory_available()
    (tmp_path / "memory.current").write_text("3000000\n")
    (tmp_path / "memory.stat").write_text("anon 1000\ninactive_file 500000\n")
    (tmp_path / "memory.max").write_text("4000000\n")
    assert machine.memory_available() == 1_500_000
    assert machine.can_spare(1_000_000) and not machine.can_spare(1_200_000)
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.memory_available() == pytest.approx(whole, rel=0.5)


def test_a_run_needs_disk_for_its_model_and_its_record(tiny_models: list[Path]) -> None:
    sketch = of_models(tiny_models, "float32")
    assert disk_needed(sketch, 0, final_model=False)["final_model"] == 0
    more, less = (disk_needed(sketch, n, final_model=True, more_layers=n) for n in (10, 0))
    assert more["record"] - less["record"] == 700
    assert more["final_model"] - less["final_model"] == pytest.approx(10.2 * sketch.layer, abs=1)
