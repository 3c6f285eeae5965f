"""What one candidate costs, merged and scored: against mergekit and lm-eval, and against what the machine could do.

    python benchmarks/candidate.py [--size S M L] [--items 20 100] [--fewshot 0] [--method linear task_arithmetic ties]
        [--parents 3] [--peer-batch 1 32] [--repeats 3] [--threads 2] [--device cpu] [--json FILE]

Random Llama models (S 5.3, M 60.8, L 346.1 million parameters; XS to try this out, 1B for a GPU) in bfloat16, a base
and so many parents, and a multiple-choice task of four options. In turns, in one run:

    ours    a recipe of other weights each time, merged in memory into the live model, scored, and recorded
    peer    the same recipe by mergekit to disk, and lm-eval's hf model on it, with the TaskManager shared
    limit   reading all parents and writing the result at the speed of a copy, and the multiplications that the layers
            need for every token (questions once) and the output layer for scored ones, at the speed of a large product

Seconds are medians over the repeats, ratios medians of the ratios in each turn, with their range. ``rest`` is what is
neither the merge nor the forward passes with the log-likelihoods. The first candidate counts apart: from when the
models are in memory, which a run reads after its tasks, until it is scored, with what is computed once a process, so
that only the first row's is whole.
--memory measures the most memory in use above that of the process after its imports, against the bytes of parents and
live model.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import logging
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from random_models import SIZES, TASK, Size, write_models, write_task

from merge3_plugin.machine import bytes_per_second, flops_per_second

BYTES = 2  # of a bfloat16
# Methods that need no base model.
WITHOUT_BASE = ("linear", "slerp", "nuslerp")
FEW = ("slerp", "nuslerp")  # of two models


def recipe(method: str, models: Sequence[Path], rng: np.random.Generator, n_layers: int) -> dict[str, Any]:
    """Weights and densities drawn for each parent, as one slice; the first of ``models`` is the base."""
    base, *parents = map(str, models)
    parents = parents[:2] if method in FEW else parents
    sources: list[dict[str, Any]] = []
    for parent in parents:
        parameters = {"weight": float(rng.uniform(0.2, 0.6))}
        if method.startswith(("ties", "dare", "breadcrumbs", "della")):
            parameters["density"] = float(rng.uniform(0.3, 0.9))
        sources.append({"model": parent, "layer_range": [0, n_layers], "parameters": parameters})
    found: dict[str, Any] = {"merge_method": method, "dtype": "bfloat16"}
    if method not in WITHOUT_BASE:
        sources.append({"model": base, "layer_range": [0, n_layers]})
        found["base_model"] = base
    if method == "slerp":
        found |= {"base_model": parents[0], "parameters": {"t": float(rng.uniform(0.2, 0.8))}}
        sources = [{key: value for key, value in source.items() if key != "parameters"} for source in sources]
    return {**found, "slices": [{"sources": sources}]}


@dataclass
class Clock:
    """Seconds by what they went into, of the candidate at hand."""

    device: str
    spent: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def of(self, what: str) -> Iterator[None]:
        begun = self.now()
        yield
        self.spent[what] = self.spent.get(what, 0.0) + self.now() - begun

    def now(self) -> float:
        if self.device != "cpu":
            import torch

            torch.cuda.synchronize()
        return time.perf_counter()


class Ours:
    """Merger, scorer and record as in a run."""

    def __init__(
        self, models: Sequence[Path], tasks: Path, fewshot: int, device: str, folder: Path, first: Mapping[str, Any]
    ) -> None:
        from merge3_plugin.evolve.evaluate import Evaluator
        from merge3_plugin.evolve.store import RunStore
        from merge3_plugin.evolve.workers import Worker, Workers
        from merge3_plugin.harness.benchmark import load_benchmarks
        from merge3_plugin.harness.scoring import Scorer
        from merge3_plugin.merging.merger import Merger

        base, *parents = map(str, models)
        self.clock = Clock(device)
        benchmarks = load_benchmarks({TASK: None}, include_paths=[tasks], num_fewshot=fewshot)
        self.merger = Merger(parents, base, device=device)
        self.begun = time.perf_counter()
        self.merger.prepare(first)
        self.item_ids = benchmarks[TASK].item_ids
        self.scorer = Scorer(benchmarks, self.merger.model, self.merger.tokenizer)
        self._timed_forward()
        folder.mkdir()
        self._store = RunStore(folder)
        self._evaluator = Evaluator(self._store, Workers([Worker(self, self.scorer)]), self.scorer, lambda _: None)
        self._number = 0

    def merge(self, recipe: Mapping[str, Any]) -> None:
        with self.clock.of("merge"):
            self.merger.merge(recipe)

    def load_parent(self, name: str) -> None:
        self.merger.load_parent(name)

    def candidate(self, recipe: Mapping[str, Any], item_ids: Sequence[str]) -> dict[str, float]:
        """Seconds of merge, forward and rest."""
        from merge3_plugin.evolve.evaluate import Candidate

        self._number += 1
        self.clock.spent = {}
        with self.clock.of("total"):
            found = self._evaluator.evaluate(Candidate(f"c{self._number}", recipe), "search", {TASK: item_ids})
        if found.error:
            raise RuntimeError(found.error)
        spent = {"merge": 0.0, "forward": 0.0, **self.clock.spent}
        return {**spent, "rest": spent["total"] - spent["merge"] - spent["forward"]}

    def work(self, item_ids: Sequence[str]) -> tuple[int, int]:
        """Tokens that the layers read, and tokens that the output layer scores."""
        scored = 0
        tokens = self.scorer.price({TASK: item_ids}).tokens

        def count(module: Any, args: Any, found: Any) -> None:
            nonlocal scored
            scored += found.shape[-2]

        handle = self.merger.model.get_output_embeddings().register_forward_hook(count)
        self.scorer.score(TASK, item_ids)  # the first time with the trial
        scored = 0
        self.scorer.score(TASK, item_ids)
        handle.remove()
        return tokens, scored

    def close(self) -> None:
        self._store.close()

    def _timed_forward(self) -> None:
        _, live = self.scorer.live(TASK)
        score = live.score

        def timed(plan: Any) -> Any:
            with self.clock.of("forward"):
                return score(plan)

        live.score = timed  # type: ignore[method-assign]


class Peer:
    """mergekit to disk, and lm-eval on what lies there."""

    def __init__(self, tasks: Path, fewshot: int, device: str, folder: Path) -> None:
        from lm_eval.tasks import TaskManager

        self._manager = TaskManager(include_path=str(tasks), include_defaults=False)
        self._fewshot, self._device, self._folder = fewshot, device, folder

    def candidate(self, recipe: Mapping[str, Any], places: Sequence[int], batch_size: int) -> dict[str, float]:
        """Seconds of merge and of the evaluation."""
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM

        clock = Clock(self._device)
        with clock.of("total"), redirect_stderr(io.StringIO()):  # its progress bars
            with clock.of("merge"):
                merge_to(recipe, self._folder, self._device)
            model = HFLM(str(self._folder), dtype="bfloat16", batch_size=batch_size, device=self._device)
            simple_evaluate(
                model,
                tasks=[TASK],
                num_fewshot=self._fewshot,
                samples={TASK: list(places)},
                task_manager=self._manager,
                bootstrap_iters=0,
                log_samples=False,
            )
        shutil.rmtree(self._folder)
        return clock.spent


def merge_to(recipe: Mapping[str, Any], folder: Path, device: str) -> None:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    options = MergeOptions(device=device, quiet=True, write_model_card=False, random_seed=0)
    run_merge(MergeConfiguration.model_validate(recipe), str(folder), options)


@dataclass(frozen=True)
class Machine:
    """Bytes a second of a copy (read and written), and floating-point operations a second of a large product."""

    bandwidth: float
    flops: float

    @classmethod
    def measured(cls, device: str) -> Machine:
        return cls(bytes_per_second(device, size=2**27), flops_per_second(device, "bfloat16", size=2048))

    def merge(self, size: Size, n_inputs: int) -> float:
        return BYTES * size.parameters * (n_inputs + 1) / self.bandwidth

    def forward(self, size: Size, tokens: int, scored: int) -> float:
        return 2 * (size.body * tokens + size.head * scored) / self.flops


def measure(
    name: str, method: str, n_items: int, fewshot: int, options: argparse.Namespace, root: Path, n_parents: int
) -> dict[str, Any]:
    """One row: every turn's seconds, and their ratios."""
    size, rng = SIZES[name], np.random.default_rng([n_items, fewshot])
    models, tasks = _written(root, name, n_parents)
    first = recipe(method, models, rng, size.layers)
    ours = Ours(models, tasks, fewshot, options.device, Path(tempfile.mkdtemp(dir=root)) / "run", first)
    peer = Peer(tasks, fewshot, options.device, root / "merged")
    places = sorted(rng.choice(len(ours.item_ids), n_items, replace=False).tolist())
    item_ids = [ours.item_ids[place] for place in places]
    ours.candidate(first, item_ids)  # with what is computed once a run
    first_seconds = time.perf_counter() - ours.begun
    tokens, scored = ours.work(item_ids)
    turns: list[dict[str, Any]] = []
    for _ in range(options.repeats):
        machine = Machine.measured(options.device)
        drawn = recipe(method, models, rng, size.layers)
        n_inputs = len(drawn["slices"][0]["sources"])
        turns.append(
            {
                "ours": ours.candidate(drawn, item_ids),
                **{f"peer_bs{size_}": peer.candidate(drawn, places, size_) for size_ in options.peer_batch},
                "limit": {
                    "merge": machine.merge(size, n_inputs),
                    "forward": machine.forward(size, tokens, scored),
                },
            }
        )
    ours.close()
    return {
        "size": name, "method": method, "parents": n_parents, "items": n_items, "fewshot": fewshot,
        "tokens": tokens, "scored_tokens": scored, "first_seconds": first_seconds,
        **_figures(turns, options.peer_batch),
    }  # fmt: skip


def _written(root: Path, name: str, n_parents: int) -> tuple[list[Path], Path]:
    folder = root / f"{name}-{n_parents}"
    if not folder.exists():
        write_models(folder, SIZES[name], n_parents)
        write_task(folder / "tasks", SIZES[name], 1000)
    return [folder / "base", *(folder / f"parent{n}" for n in range(1, n_parents + 1))], folder / "tasks"


def _figures(turns: Sequence[Mapping[str, Any]], peer_batch: Sequence[int]) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def put(key: str, values: Sequence[float]) -> None:
        found[key], found[f"{key}_range"] = float(np.median(values)), [min(values), max(values)]

    put("seconds", [turn["ours"]["total"] for turn in turns])
    for part in ("merge", "forward", "rest"):
        put("overhead_seconds" if part == "rest" else f"{part}_seconds", [turn["ours"][part] for turn in turns])
    for part in ("merge", "forward"):
        put(f"{part}_ratio_to_limit", [turn["ours"][part] / turn["limit"][part] for turn in turns])
    put("ratio_to_limit", [turn["ours"]["total"] / sum(turn["limit"].values()) for turn in turns])
    for size in peer_batch:
        of = f"peer_bs{size}"
        put(f"{of}_seconds", [turn[of]["total"] for turn in turns])
        put(f"ratio_to_{of}", [turn[of]["total"] / turn["ours"]["total"] for turn in turns])
        put(f"merge_ratio_to_{of}", [turn[of]["merge"] / turn["ours"]["merge"] for turn in turns])
    return found


# What a run over these models imports.
_IMPORTED = (
    "merge3_plugin.evolve.evaluate",
    "merge3_plugin.evolve.workers",
    "merge3_plugin.harness.anchor_task",
    "merge3_plugin.harness.live_model",
    "merge3_plugin.merging.merger",
    "merge3_plugin.merging.fused_loops",
    "transformers.models.llama.modeling_llama",
)


def memory(name: str, n_parents: int, device: str) -> dict[str, float]:
    """Bytes in use above those after the imports, at most, over three candidates: of this process, on a CPU."""
    root = Path(tempfile.mkdtemp())
    command = [sys.executable, __file__, "--size", name, "--parents", str(n_parents), "--measure-memory", str(root)]
    try:
        done = subprocess.run([*command, "--device", device], check=True, capture_output=True, text=True)
    finally:
        shutil.rmtree(root)
    return json.loads(done.stdout.splitlines()[-1])


def _measure_memory(root: Path, name: str, n_parents: int, device: str) -> None:
    """In a process of its own, in which nothing was written before: prints what `memory` returns."""
    _in_another_process(root, name, n_parents)
    models, tasks = _written(root, name, n_parents)
    import torch

    for module in _IMPORTED:
        importlib.import_module(module)
    idle = _resident()
    rng = np.random.default_rng(0)
    ours = Ours(models, tasks, 0, device, root / "run", recipe("linear", models, rng, SIZES[name].layers))
    for method in ("linear", "linear", "ties", "ties"):
        ours.candidate(recipe(method, models, rng, SIZES[name].layers), ours.item_ids[:20])
    peak = torch.cuda.max_memory_allocated() if device != "cpu" else _peak() - idle
    tensors = BYTES * SIZES[name].parameters * (n_parents + 2)
    print(json.dumps({"size": name, "peak_bytes": peak, "tensor_bytes": tensors, "ratio": peak / tensors}))


def _in_another_process(root: Path, name: str, n_parents: int) -> None:
    code = "from candidate import _written; from pathlib import Path; import sys; "
    code += "_written(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))"
    subprocess.run(
        [sys.executable, "-c", code, str(root), name, str(n_parents)], check=True, cwd=Path(__file__).parent,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _peak() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    options = _options()
    _hush()
    import torch

    torch.set_num_threads(options.threads)
    if options.measure_memory:
        _measure_memory(options.measure_memory, options.size[0], options.parents[0], options.device)
        return
    rows = []
    print(_HEADER)
    with tempfile.TemporaryDirectory() as root:
        for name in options.size:
            for n_parents in options.parents:
                for method in options.method:
                    for fewshot in options.fewshot:
                        for n_items in options.items:
                            row = measure(name, method, n_items, fewshot, options, Path(root), n_parents)
                            rows.append(row)
                            print(_line(row, options.peer_batch), flush=True)
                shutil.rmtree(Path(root) / f"{name}-{n_parents}")
    used = [memory(name, options.parents[0], options.device) for name in options.size] if options.memory else []
    for row in used:
        print(
            f"memory at {row['size']}: {row['peak_bytes'] / 1e6:,.0f} MB above idle, {row['ratio']:.2f} of its tensors"
        )
    if options.json:
        options.json.write_text(json.dumps({"candidates": rows, "memory": used}, indent=1) + "\n", encoding="utf-8")


_HEADER = "\n".join(
    (
        f"{'':32}{'ms of':>9}{'':18}  ratio to the limit of{'':41}times faster than the peer at",
        f"{'':32}{'merge':>9}{'forward':>9}{'rest':>9}  {'merge':20}{'forward':20}{'both':22}a batch of",
    )
)


def _line(row: Mapping[str, Any], peer_batch: Sequence[int]) -> str:
    what = f"{row['size']}, {row['items']} items, {row['fewshot']}-shot, {row['parents']} x {row['method']}"
    parts = "".join(f"{1000 * row[key]:>9.1f}" for key in ("merge_seconds", "forward_seconds", "overhead_seconds"))

    def ratio(key: str) -> str:
        low, high = row[f"{key}_range"]
        return f"{row[key]:.2f} ({low:.2f}-{high:.2f})"

    limits = "".join(f"{ratio(f'{part}ratio_to_limit'):20}" for part in ("merge_", "forward_", ""))
    peers = "  ".join(f"{size}: {ratio(f'ratio_to_peer_bs{size}')}" for size in peer_batch)
    return f"{what:32}{parts}  {limits}  {peers}  (the first after {row['first_seconds']:.1f} s)"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", choices=SIZES, default=["S", "M"])
    parser.add_argument("--items", type=int, nargs="+", default=[20, 100])
    parser.add_argument("--fewshot", type=int, nargs="+", default=[0])
    parser.add_argument("--method", nargs="+", default=["linear", "task_arithmetic", "slerp", "ties"])
    parser.add_argument("--parents", type=int, nargs="+", default=[3])
    parser.add_argument("--peer-batch", type=int, nargs="*", default=[1, 32], help="lm-eval's batch sizes  [1 32]")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory", action="store_true", help="measure memory as well")
    parser.add_argument("--json", type=Path, help="write all figures")
    parser.add_argument("--measure-memory", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _hush() -> None:
    from datasets.utils.logging import disable_progress_bar as hush_datasets
    from transformers.utils.logging import disable_progress_bar as hush_transformers

    logging.disable(logging.WARNING)
    hush_datasets()
    hush_transformers()


if __name__ == "__main__":
    main()
