"""What a search finds for what it spends: every figure of docs/search.md.

    python benchmarks/search.py [FIGURE ...] [--seeds 5] [--first-seed 0] [--jobs 2] [--json FILE]
    python benchmarks/search.py --read FILE

FIGURE is among

    same        anchors against all items: as good a merge for a fiftieth of the search's item evaluations
    binary      the same where answers are only right or wrong
    fidelity    racing, halving and Hyperband against all anchors for every candidate, at equal cost
    optimizers  every strategy, mergekit-evolve's settings and random search, at as many candidates
    grid        strategies x spaces x estimators, or those that --optimizers, --spaces and --estimators name
    quickstart  the same on the quickstart's models, which are trained for it
    soup        one weight for each of 16 checkpoints against soups that need no search
    front       NSGA-II's front and ParEGO's against searches for one weighting each, by hypervolume

All but ``quickstart`` are measured in response worlds (response_world.py): models and answers are simulated, and
everything else of a run is real. There, seeds draw other worlds, and accuracies are on 20,000 items a task that no run
sees. In ``quickstart`` (quickstart_world.py) nothing is simulated, seeds draw other searches of the same models, and
accuracies are on nearly 600 items a task that neither search nor confirmation reads.

Accuracies are of the merge that a run ends with; a curve is that of the search's best so far by the item evaluations
that it spent. ``search`` counts those of the search alone, ``all`` those of parents, calibration and confirmation too.
``--read`` prints the tables of a file that ``--json`` has written.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from quickstart_world import CONFIG, Quickstart
from response_world import ResponseWorld, checkpoints, specialists
from search_runs import Measured, Plan, World, measure
from search_tables import report

CANDIDATES = 300
# Of one task of 1,000 search items, asked by a base and three specialists in four layers: 12 genes.
TASK_ARITHMETIC = {"base_model": "base", "merge_method": "task_arithmetic", "layer_granularity": 1}
# Less than a fiftieth of 1,000 items, for the best so far is scored on every generation's anchors too.
FEW = {"anchors": 17, "auto_merges": 1}
FEW_NAME = f"{FEW['anchors']} anchors"
WEIGHTINGS = ((1.0, 0.0), (0.5, 0.5), (0.0, 1.0))


def one_task(seed: int) -> ResponseWorld:
    return specialists(seed, mixed=True)


def one_task_without_soft_scores(seed: int) -> ResponseWorld:
    return specialists(seed, mixed=True, soft=False)


def two_tasks(seed: int) -> ResponseWorld:
    return specialists(seed, n_models=2)


def block(base: Mapping[str, Any] = FEW, **search: Any) -> dict[str, Any]:
    """A ``merge3`` block: ``base``, and keys of its search; ``fidelity`` is a block of its own."""
    fidelity = search.pop("fidelity", {})
    return {**base, "search": {"max_fevals": CANDIDATES, **search}, "fidelity": fidelity}


def same(world: Callable[[int], ResponseWorld] = one_task, more: int = 30) -> list[Plan]:
    """All search items, a fiftieth of them, and ``more`` anchors."""
    everything = block({"anchors": 1000, "auto_merges": 0})
    return [
        Plan(name, world, merge3, TASK_ARITHMETIC)
        for name, merge3 in (
            ("all items", everything),
            (FEW_NAME, block()),
            (f"{more} anchors", block({**FEW, "anchors": more})),
        )
    ]


def binary() -> list[Plan]:
    return same(one_task_without_soft_scores, 100)


def fidelity() -> list[Plan]:
    """At the cost of 100 candidates on 60 anchors each: what ends early leaves more for others."""
    base = {"anchors": 60, "auto_merges": 1}
    cost = {"max_items": 100 * 60, "max_fevals": 10 * CANDIDATES}
    return [
        Plan(
            f"{optimizer}, {strategy}",
            one_task,
            block(base, optimizer=optimizer, fidelity={"strategy": strategy}, **cost),
            TASK_ARITHMETIC,
        )
        for optimizer in ("cma-es", "random")
        for strategy in ("fixed", "racing", "halving", "hyperband")
    ]


def optimizers() -> list[Plan]:
    # mergekit-evolve: plain means of the same items for all, sigma0 1/6 and cma's own population.
    upstream = {"anchors": 20, "auto_merges": 0, "anchor_method": "random", "estimator": "mean"}
    return [
        *(
            Plan(name, one_task, block(optimizer=name), TASK_ARITHMETIC)
            for name in ("cma-es", "lq-cma-es", "ga", "de", "tpe", "random")
        ),
        Plan("as mergekit-evolve", one_task, block(upstream, fidelity={"fresh": False}), TASK_ARITHMETIC),
    ]


def crossed(
    world: Callable[[int], World],
    optimizers: Sequence[str],
    known: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]],
    spaces: Sequence[str] | None,
    estimators: Sequence[str],
    base: Mapping[str, Any],
    **search: Any,
) -> list[Plan]:
    """Every optimizer in every one of these spaces (None: all) by every estimator.

    Spaces are ``known`` by their genome and their keys of ``merge3``.
    """
    if unknown := set(spaces or ()) - known.keys():
        sys.exit(f"--spaces: expected names among {', '.join(known)}; got {', '.join(sorted(unknown))}")
    return [
        Plan(
            f"{optimizer}, {space}, {estimator}",
            world,
            block({**base, **keys, "estimator": estimator}, optimizer=optimizer, **search),
            genome,
        )
        for space, (genome, keys) in known.items()
        if not spaces or space in spaces
        for estimator in estimators
        for optimizer in optimizers
    ]


def grid(
    optimizers: Sequence[str] = ("cma-es", "ga", "random"),
    estimators: Sequence[str] = ("auto", "mean", "gmp-irt"),
    spaces: Sequence[str] | None = None,
) -> list[Plan]:
    known = {
        "12 genes": TASK_ARITHMETIC,
        "6 genes smooth": {**TASK_ARITHMETIC, "layer_granularity": 2, "smooth": True},
        "3 genes": {**TASK_ARITHMETIC, "layer_granularity": 0},
    }
    alone = {name: (genome, {}) for name, genome in known.items()}
    return crossed(one_task, optimizers, alone, spaces, estimators, FEW)


def quickstart(
    folder: Path,
    optimizers: Sequence[str] = ("cma-es", "tpe", "random"),
    estimators: Sequence[str] = ("auto", "mean"),
    spaces: Sequence[str] | None = None,
) -> list[Plan]:
    world, example = Quickstart(folder), CONFIG["genome"]
    base = example["base_model"]
    known = {
        "genome": (example, {}),
        # Of either sign: a mean of these models has no more than a part of each task vector.
        "weights": (
            {"models": [base, *world.models]},
            {"space": {"kind": "weights", "transform": "normalised", "allow_negative": True}},
        ),
        "lfs": (
            {"base_model": base},
            {"space": {"kind": "lfs", "granularity": 2, "methods": ["linear", "task_arithmetic", "slerp"]}},
        ),
        "dis": ({}, {"space": {"kind": "dis", "max_layers": 5, "frozen_first": 1, "frozen_last": 1}}),
        "prune": ({"base_model": base}, {"space": {"kind": "prune", "remove": 1}}),
    }
    own = {**CONFIG["merge3"]["search"], "max_fevals": 100}
    few = {"anchors": 20, "auto_merges": 2}
    return crossed(world.at, optimizers, known, spaces, estimators, few, **own)


def soup() -> list[Plan]:
    base = {"anchors": 60, "auto_merges": 2, "space": "weights", "baselines": True}
    return [
        Plan(f"{optimizer} over 16 weights", checkpoints, block(base, optimizer=optimizer))
        for optimizer in ("cma-es", "random")
    ]


def pareto() -> list[Plan]:
    """NSGA-II, ParEGO over CMA-ES, and as many candidates shared among searches for one weighting each."""
    base = {"anchors": 30, "auto_merges": 2}
    share = CANDIDATES // len(WEIGHTINGS)
    return [
        Plan("nsga2", two_tasks, block(base, optimizer="nsga2"), TASK_ARITHMETIC, front=True),
        Plan("parego", two_tasks, block(base, scalarisation="parego"), TASK_ARITHMETIC, front=True),
        *(
            Plan(
                f"{optimizer}, {a:g} : {b:g}",
                two_tasks,
                block(base, optimizer=optimizer, max_fevals=share),
                TASK_ARITHMETIC,
                (a, b),
                front=True,
            )
            for optimizer in ("cma-es", "ga")
            for a, b in WEIGHTINGS
        ),
    ]


FIGURES: dict[str, Callable[[], list[Plan]]] = {
    "same": same,
    "binary": binary,
    "fidelity": fidelity,
    "optimizers": optimizers,
    "soup": soup,
    "front": pareto,
}
NOTES = {
    "same": "300 candidates on 1,000 items or on few anchors, whose answers have option probabilities",
    "binary": "300 candidates on 1,000 items or on few anchors, whose answers are only right or wrong",
    "fidelity": "6,000 item evaluations each",
    "optimizers": f"300 candidates on {FEW_NAME} each",
    "grid": f"300 candidates on {FEW_NAME} each",
    "quickstart": "100 candidates on 20 anchors of each of three tasks",
    "soup": "300 candidates on 60 anchors of each of three tasks",
    "front": "300 candidates on 30 anchors of each of two tasks, together",
}
LONG = ("grid", "quickstart")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=f"of {', '.join(NOTES)}  [all but the long ones]")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0, help="settings are chosen on other seeds than reported")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time  [2]")
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="the quickstart's models  [demo-out]")
    parser.add_argument(
        "--optimizers", nargs="+", metavar="NAME", help="of grid and quickstart, in place of three each"
    )
    parser.add_argument("--estimators", nargs="+", metavar="NAME", help="of grid and quickstart, in place of their own")
    parser.add_argument("--spaces", nargs="+", metavar="NAME", help="of grid and quickstart, not all of theirs")
    parser.add_argument("--json", type=Path, help="write every run with its curve")
    parser.add_argument("--read", type=Path, metavar="FILE", help="print the tables of such a file, and run nothing")
    options = parser.parse_args()
    if options.read:
        for name, plans in read(options.read).items():
            report(name, NOTES[name], plans)
        return
    named = {"optimizers": options.optimizers, "estimators": options.estimators, "spaces": options.spaces}
    crossed_by = {key: names for key, names in named.items() if names}
    figures = {
        **FIGURES,
        "grid": partial(grid, **crossed_by),
        "quickstart": partial(quickstart, options.out, **crossed_by),
    }
    chosen = options.figures or [name for name in figures if name not in LONG]
    if unknown := set(chosen) - figures.keys():
        parser.error(f"expected figures among {', '.join(figures)}; got {', '.join(sorted(unknown))}")
    found: dict[str, dict[str, list[Measured]]] = {}
    with ProcessPoolExecutor(options.jobs) as pool:
        for name in chosen:
            seeds = range(options.first_seed, options.first_seed + options.seeds)
            futures = {plan.name: [pool.submit(measure, plan, seed) for seed in seeds] for plan in figures[name]()}
            found[name] = {plan: [future.result() for future in of] for plan, of in futures.items()}
            report(name, NOTES[name], found[name])
            if options.json:
                write(options.json, found)


def write(path: Path, found: Mapping[str, Mapping[str, Sequence[Measured]]]) -> None:
    """Every run so far with its curve, by figure and kind of run."""
    rows = {figure: {plan: [asdict(run) for run in runs] for plan, runs in of.items()} for figure, of in found.items()}
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def read(path: Path) -> dict[str, dict[str, list[Measured]]]:
    rows = json.loads(path.read_text(encoding="utf-8"))
    return {
        figure: {plan: [Measured(**run) for run in runs] for plan, runs in of.items()} for figure, of in rows.items()
    }


if __name__ == "__main__":
    main()
