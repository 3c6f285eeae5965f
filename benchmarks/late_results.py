"""What a strategy loses where several candidates are on the way: it draws the next before it has heard of those.

    python benchmarks/late_results.py [--optimizer cma-es] [--on-the-way 1 2 3 6 8 12] [--genes 8] [--candidates 150]
        [--noise 0.02] [--seeds 60]

Each candidate's value is minus its squared distance from a point of the unit cube that no strategy knows, with noise
of this standard deviation. Results are told in the order in which candidates were begun, as a search with several live
models does it. Figures are the noiseless values of the best seen and of the strategy's mean at the end, over the
seeds, with their standard errors; 0 would be the optimum.
"""

from __future__ import annotations

import argparse
from collections import deque

import numpy as np

from merge3_plugin.domain import FloatArray
from merge3_plugin.evolve.optimizers import Result, Settings, Trial, make_optimizer
from merge3_plugin.evolve.spaces.variables import Variable


def search(name: str, on_the_way: int, seed: int, options: argparse.Namespace) -> tuple[float, float]:
    """The values of the best seen and of the mean; NaN where the strategy has none."""
    variables = [Variable(f"x{gene}", 0.0, 1.0, 0.5) for gene in range(options.genes)]
    target, noise = np.random.default_rng([seed, 1]).uniform(0.2, 0.8, options.genes), np.random.default_rng([seed, 2])

    def value(vector: FloatArray) -> float:
        return -float(((vector - target) ** 2).sum())

    start, settings = np.full(options.genes, 0.5), Settings(options.candidates)
    strategy = make_optimizer(name, variables, start, settings, np.random.default_rng(seed))
    begun: deque[Trial] = deque()
    asked, best, seen = 0, start, -np.inf
    while True:
        while len(begun) < on_the_way and asked < options.candidates and (trials := strategy.ask(1)):
            begun.extend(trials)
            asked += 1
        if not begun:
            break
        trial = begun.popleft()
        found, other = value(trial.vector) + options.noise * noise.normal(size=2)
        if found > seen:
            best, seen = trial.vector, found
        strategy.tell([Result(trial.number, trial.vector, (found,), (options.noise**2,), ((found - other) / 2,))])
    mean = strategy.mean()
    return value(best), np.nan if mean is None else value(mean)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optimizer", nargs="+", default=["cma-es"])
    parser.add_argument("--on-the-way", type=int, nargs="+", default=[1, 2, 3, 6, 8, 12])
    parser.add_argument("--genes", type=int, default=8)
    parser.add_argument("--candidates", type=int, default=150)
    parser.add_argument("--noise", type=float, default=0.02)
    parser.add_argument("--seeds", type=int, default=60)
    options = parser.parse_args()
    for name in options.optimizer:
        for on_the_way in options.on_the_way:
            found = np.array([search(name, on_the_way, seed, options) for seed in range(options.seeds)])
            middle, error = found.mean(axis=0), found.std(axis=0) / np.sqrt(options.seeds)
            parts = [f"{what} {m:.4f} +- {e:.4f}" for what, m, e in zip(("best", "mean"), middle, error, strict=True)]
            print(f"{name:10} {on_the_way:3} on the way   {'   '.join(parts)}", flush=True)


if __name__ == "__main__":
    main()
