"""Candidates a minute with one live model and with several at work: whether a second one pays on this machine.

    python benchmarks/live_models.py [--size S M] [--method linear dare_ties] [--items 20] [--live-models 1 2]
        [--threads 1 2] [--candidates 12] [--repeats 3] [--device cpu] [--json FILE]

Models, task and recipes are those of candidate.py, three parents and a base. Candidates are begun, and their results
taken, as a search does it: in their order, half as many more begun as there are live models. Each turn measures every
number of live models once, one after another; figures are medians over the turns, ratios those within a turn, with
their range. ``threads`` are torch's, for each operation of each live model.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from candidate import _hush, _written, recipe
from random_models import SIZES, TASK


def crews(
    models: Sequence[Path], tasks: Path, numbers: Sequence[int], device: str, stack: ExitStack
) -> dict[int, Callable[[list[dict[str, Any]], int], float]]:
    """For each number of live models, what measures candidates a minute of these recipes on so many items."""
    from merge3_plugin.evolve.evaluate import Candidate, Evaluator
    from merge3_plugin.evolve.executor import InOrder
    from merge3_plugin.evolve.store import RunStore
    from merge3_plugin.evolve.workers import Worker, Workers
    from merge3_plugin.harness.benchmark import load_benchmarks
    from merge3_plugin.harness.scoring import Scorer
    from merge3_plugin.merging.merger import Merger

    base, *parents = map(str, models)
    first = Merger(parents, base, device=device)
    mergers = [first, *first.beside([device] * (max(numbers) - 1))]
    benchmarks = load_benchmarks({TASK: None}, include_paths=[tasks], num_fewshot=0)
    scorer = Scorer(benchmarks, first.model, first.tokenizer)
    workers = [Worker(each, Scorer(benchmarks, each.model, each.tokenizer, first=scorer)) for each in mergers]
    begun = iter(range(10**9))

    def made(n: int) -> Callable[[list[dict[str, Any]], int], float]:
        store = RunStore(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        crew = stack.enter_context(closing(Workers(workers[:n])))
        evaluator, executor = Evaluator(store, crew, scorer, lambda _: None), InOrder(n)

        def measure(recipes: list[dict[str, Any]], n_items: int) -> float:
            waiting, items = list(reversed(recipes)), {TASK: benchmarks[TASK].item_ids[:n_items]}
            started, done = time.perf_counter(), 0
            while done < len(recipes):
                while waiting and executor.free():
                    candidate = Candidate(f"c{next(begun)}", waiting.pop())
                    evaluator.begin(candidate, "search", items)
                    executor.submit(0, lambda c=candidate: evaluator.evaluate(c, "search", items))  # type: ignore[misc]
                _, found = executor.result()
                if found.error:  # type: ignore[attr-defined]
                    raise RuntimeError(found.error)  # type: ignore[attr-defined]
                done += 1
            return 60 * done / (time.perf_counter() - started)

        return measure

    return {n: made(n) for n in numbers}


def compare(name: str, method: str, threads: int, options: argparse.Namespace, root: Path) -> dict[str, Any]:
    """Candidates a minute by the number of live models: medians, and ratios to the first number within each turn."""
    import torch

    torch.set_num_threads(threads)
    models, tasks = _written(root, name, 3)
    rng, numbers = np.random.default_rng(0), options.live_models
    with ExitStack() as stack:
        measures = crews(models, tasks, numbers, options.device, stack)

        def drawn(n: int) -> list[dict[str, Any]]:
            return [recipe(method, models, rng, SIZES[name].layers) for _ in range(n)]

        for measure in measures.values():
            measure(drawn(2 * max(numbers)), options.items)  # what is computed once a run
        turns = []
        for _ in range(options.repeats):
            recipes = drawn(options.candidates)
            turns.append({n: measure(recipes, options.items) for n, measure in measures.items()})
    ratios = {n: [turn[n] / turn[numbers[0]] for turn in turns] for n in numbers}
    return {
        "size": name, "method": method, "items": options.items, "threads": threads,
        "per_minute": {n: float(np.median([turn[n] for turn in turns])) for n in numbers},
        "ratio": {n: [float(np.median(of)), min(of), max(of)] for n, of in ratios.items()},
    }  # fmt: skip


def _line(row: dict[str, Any]) -> str:
    figures = [
        f"{n}: {row['per_minute'][n]:8.1f} a minute, {middle:.2f} ({low:.2f}-{high:.2f})"
        for n, (middle, low, high) in row["ratio"].items()
    ]
    return f"{row['size']} {row['method']:10} {row['items']} items, {row['threads']} threads   {'   '.join(figures)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", choices=SIZES, default=["S", "M"])
    parser.add_argument("--method", nargs="+", default=["linear", "dare_ties"])
    parser.add_argument("--items", type=int, default=20)
    parser.add_argument("--live-models", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--candidates", type=int, default=12, help="in each turn  [12]")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write all figures")
    options = parser.parse_args()
    _hush()
    rows = []
    with tempfile.TemporaryDirectory() as root:
        for name in options.size:
            for method in options.method:
                for threads in options.threads:
                    rows.append(compare(name, method, threads, options, Path(root)))
                    print(_line(rows[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
