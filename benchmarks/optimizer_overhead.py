"""What a candidate costs before it is merged: the time that each search strategy takes to ask and be told of one.

    python benchmarks/optimizer_overhead.py [STRATEGY ...] [--genes 10 50 200] [--candidates 300] [--repeats 5]
        [--seconds 60] [--json FILE]

One at a time, on one thread, on a noisy sphere (for strategies of several objectives, two of them), so that strategies
which ask again do so. A run ends after ``--candidates``, or after ``--seconds`` of the strategy's own time, as models
of the results do at many genes; their cost grows with what they were told, so a run that ended early says too little.
Milliseconds are of processor time per candidate, the median over the repeats with their range. The last column is what
a candidate must cost for a strategy to add less than a tenth to it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from merge3_plugin.domain import FloatArray
from merge3_plugin.errors import ConfigError
from merge3_plugin.evolve.optimizers import Optimizer, Result, Settings, make_optimizer
from merge3_plugin.evolve.spaces.variables import Variable, start
from merge3_plugin.plugins import plugin_host

NOISE = 0.01  # standard deviation of a value; the sphere is 0.05 deep


@dataclass(frozen=True)
class Row:
    """Milliseconds a candidate of each repeat, and how many candidates the shortest of them had."""

    strategy: str
    genes: int
    milliseconds: tuple[float, ...]
    candidates: int

    @property
    def median(self) -> float:
        return float(np.median(self.milliseconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = plugin_host().optimizers()
    parser.add_argument("strategies", nargs="*", metavar="STRATEGY", help=f"of {', '.join(sorted(known))}  [all]")
    parser.add_argument("--genes", type=int, nargs="+", default=[10, 50, 200])
    parser.add_argument("--candidates", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60.0, help="of a run at most  [60]")
    parser.add_argument("--json", type=Path, help="write the rows")
    options = parser.parse_args()
    if unknown := set(options.strategies) - set(known):
        parser.error(f"expected strategies among {', '.join(sorted(known))}; got {', '.join(sorted(unknown))}")
    print(f"{'':12}{'genes':>7}{'ms a candidate (range)':>30}{'candidates':>12}{'a tenth of':>12}")
    rows = []
    threadpool_limits(1)
    for row in measured(options.strategies or list(known), options):
        if isinstance(row, str):
            print(row)
            continue
        rows.append(row)
        cells = f"{row.median:.2f} ({min(row.milliseconds):.2f}-{max(row.milliseconds):.2f})"
        print(f"{row.strategy:12}{row.genes:>7}{cells:>30}{row.candidates:>12}{row.median / 100:>10.2f} s", flush=True)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")


def measured(strategies: Sequence[str], options: argparse.Namespace) -> Iterator[Row | str]:
    """The rows; a line where a strategy refuses."""
    for name in strategies:
        for genes in options.genes:
            try:
                runs = [overhead(name, genes, options, seed) for seed in range(options.repeats)]
            except ConfigError as error:
                yield f"{name:12}{genes:>7}  {error}"
                continue
            yield Row(name, genes, tuple(ms for ms, _ in runs), min(candidates for _, candidates in runs))


def overhead(name: str, genes: int, options: argparse.Namespace, seed: int) -> tuple[float, int]:
    """Milliseconds a candidate of one run, and its candidates."""
    variables = [Variable(f"x{i}", 0.0, 1.0, 0.5) for i in range(genes)]
    objectives = 2 if plugin_host().optimizers()[name].several_objectives else 1
    settings = Settings(options.candidates, objectives=objectives)
    optimizer: Optimizer = make_optimizer(name, variables, start(variables), settings, np.random.default_rng(seed))
    optima, noise = np.linspace(0.3, 0.7, objectives), np.random.default_rng(seed)
    spent, done = 0.0, 0
    while done < options.candidates and spent < options.seconds and not optimizer.stop():
        begun = time.process_time()
        (trial,) = optimizer.ask(1)
        spent += time.process_time() - begun
        result = scored(trial.number, trial.vector, trial.level, optima, noise)
        begun = time.process_time()
        optimizer.tell([result])
        spent += time.process_time() - begun
        done += 1
    return 1000 * spent / done, done


def scored(number: int, vector: FloatArray, level: int, optima: FloatArray, noise: np.random.Generator) -> Result:
    """The surer, the higher its level."""
    variance = NOISE**2 / (level + 1)
    values = -((vector - optima[:, None]) ** 2).mean(axis=1) + np.sqrt(variance) * noise.standard_normal(len(optima))
    return Result(number, vector, tuple(values.tolist()), (variance,) * len(optima), items=20 * (level + 1), cost=20)


if __name__ == "__main__":
    main()
