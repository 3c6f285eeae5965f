"""What CMA-ES does about noise, and what its model spares: distances to a known optimum at equal cost.

    python benchmarks/noise.py [--genes 4 10 20 40] [--evaluations 300 1000] [--noise 0 0.01 0.03] [--seeds 15]
                               [--json FILE]

Each world is a quadratic over genes in [0, 1] with its optimum anywhere in the middle 80 %, turned at random against
the genes, of condition number 30. It is scaled so that the start is 0.1 (10 points of accuracy) below the optimum;
``noise`` is the standard deviation of a value, on the same scale, and so much do two halves of each result disagree.
The figure is how far the centre of the final distribution is below the optimum, in points, median over the seeds
(``--json`` has all of them).

    none       no handling of noise
    grow       the population grows while ranks are noise: what cma-es does
    again x4   no handling, each candidate evaluated four times and told the mean
    lq         lq-cma-es, which grows as well
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # read when numpy is imported

import numpy as np

from merge3_plugin.domain import FloatArray
from merge3_plugin.evolve.optimizers import Result, Settings, make_optimizer
from merge3_plugin.evolve.spaces.variables import Variable, start

CONDITION, DEPTH, POINTS = 30.0, 0.1, 100.0

# By name: strategy, its options, and how often each candidate is evaluated.
HANDLINGS: dict[str, tuple[str, dict[str, str], int]] = {
    "none": ("cma-es", {"noise": "none"}, 1),
    "grow": ("cma-es", {"noise": "grow"}, 1),
    "again x4": ("cma-es", {"noise": "none"}, 4),
    "lq": ("lq-cma-es", {}, 1),
}


def quadratic(genes: int, rng: np.random.Generator) -> Callable[[FloatArray], float]:
    """How far a vector is below the optimum: 0 there, DEPTH at the start."""
    optimum = rng.uniform(0.1, 0.9, genes)
    turn = np.linalg.qr(rng.standard_normal((genes, genes)))[0]
    hessian = turn @ np.diag(np.geomspace(1, CONDITION, genes)) @ turn.T
    scale = DEPTH / ((0.5 - optimum) @ hessian @ (0.5 - optimum))
    return lambda vector: float(scale * (vector - optimum) @ hessian @ (vector - optimum))


def distance(handling: str, genes: int, evaluations: int, noise: float, seed: int) -> float:
    """Points below the optimum at which a search of so many evaluations ends."""
    rng = np.random.default_rng(seed)
    below = quadratic(genes, rng)
    strategy, options, times = HANDLINGS[handling]
    variables = [Variable(f"gene {i}", 0.0, 1.0, 0.5) for i in range(genes)]
    settings = Settings(evaluations // times, options=options)
    optimizer = make_optimizer(strategy, variables, start(variables), settings, rng)
    for _ in range(evaluations // times):
        if optimizer.stop():
            break
        (trial,) = optimizer.ask(1)
        deviation = noise / times**0.5
        error, disagreement = deviation * rng.standard_normal(2)
        value = -below(trial.vector) + float(error)
        optimizer.tell([Result(trial.number, trial.vector, (value,), (deviation**2,), (float(disagreement),))])
    return POINTS * below(np.asarray(optimizer.mean()))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--genes", type=int, nargs="+", default=[4, 10, 20, 40])
    parser.add_argument("--evaluations", type=int, nargs="+", default=[300, 1000])
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0, 0.01, 0.03])
    parser.add_argument("--seeds", type=int, default=15)
    parser.add_argument("--json", type=Path, metavar="FILE")
    chosen = parser.parse_args(arguments)
    found = []
    print("evaluations  genes  noise  " + "".join(f"{name:>10}" for name in HANDLINGS))
    for evaluations in chosen.evaluations:
        for genes in chosen.genes:
            for noise in chosen.noise:
                line = f"{evaluations:11}  {genes:5}  {noise:5}  "
                for name in HANDLINGS:
                    ends = [distance(name, genes, evaluations, noise, seed) for seed in range(chosen.seeds)]
                    line += f"{np.median(ends):10.2f}"
                    found.append([name, evaluations, genes, noise, ends])
                print(line, flush=True)
    if chosen.json:
        columns = ("handling", "evaluations", "genes", "noise", "points_below_the_optimum")
        chosen.json.write_text(json.dumps([dict(zip(columns, row, strict=True)) for row in found], indent=1) + "\n")


if __name__ == "__main__":
    main()
