"""What a search finds for what it spends: every figure of docs/search.md.

    python benchmarks/search.py [FIGURE ...] [--seeds 5] [--first-seed 0] [--jobs 2] [--json FILE]

FIGURE is among

    same        anchors against all items: as good a merge for a fiftieth of the search's item evaluations
    binary      the same where answers are only right or wrong
    fidelity    racing, halving and Hyperband against all anchors for every candidate, at equal cost
    optimizers  every strategy, mergekit-evolve's settings and random search, at as many candidates
    grid        strategies x spaces x estimators
    soup        one weight for each of 16 checkpoints against soups that need no search
    front       NSGA-II's front and ParEGO's against searches for one weighting each, by hypervolume

All are measured in response worlds (response_world.py): models and answers are simulated, and everything else of a run
is real. Accuracies are of the merge that the run ends with, on 20,000 items a task that no run sees; a curve is that of
the search's best so far by the item evaluations spent. ``search`` counts the item evaluations of the search alone,
``all`` those of parents, calibration and confirmation too. Seeds draw other worlds.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from response_world import ResponseWorld, checkpoints, specialists, world_setting

from merge3_plugin.evolve.evaluate import Candidate
from merge3_plugin.evolve.front import front, hypervolume
from merge3_plugin.evolve.run import Run
from merge3_plugin.evolve.setting import Watcher
from merge3_plugin.evolve.store import RunStore

CANDIDATES = 300


@dataclass(frozen=True)
class Measured:
    """One run: ``accuracy`` is its winner's mean over the tasks; ``curve`` pairs items spent with the best's accuracy.

    ``best`` is the accuracy of what the search itself thought best, before any confirmation; ``rivals`` those of the
    baselines and of the parent that is truly the best, ``points`` those of the front's members by task.
    """

    seed: int
    accuracy: float
    best: float
    search: int
    all: int
    candidates: int
    curve: list[tuple[int, float]]
    rivals: dict[str, float] = field(default_factory=dict)
    points: list[list[float]] = field(default_factory=list)


@dataclass(frozen=True)
class Plan:
    """A kind of run: its name in a table, the world of a seed, the ``merge3`` block, the genome, the tasks' weights."""

    name: str
    world: Callable[[int], ResponseWorld]
    merge3: Mapping[str, Any]
    genome: Mapping[str, Any] = field(default_factory=dict)
    weights: Sequence[float] | None = None


def measure(plan: Plan, seed: int) -> Measured:
    """One run in the world of this seed."""
    world = plan.world(seed)
    config = {
        "genome": {"models": list(world.models), **plan.genome},
        "tasks": [
            {"name": name, "weight": weight}
            for name, weight in zip(world.tasks, plan.weights or [1.0] * len(world.tasks), strict=True)
        ],
        "merge3": {"seed": seed, "held_out": 0.1, **plan.merge3},
    }
    with tempfile.TemporaryDirectory() as folder:
        setting = world_setting(world, config, Path(folder))
        try:
            found = Run(setting, Watcher(), lambda best: None).execute()
            spent, curve = setting.store.spent(), _spending(setting.store)
        finally:
            setting.store.close()

    def accuracy(candidate: Any) -> float:
        return float(np.average(world.fresh(candidate), weights=plan.weights))

    several = front(found.result.scored) if len(world.tasks) > 1 else []
    return Measured(
        seed,
        accuracy(found.winner),
        accuracy(found.improvements[-1].best.candidate),
        int(spent["search"]["items"]),
        int(sum(row["items"] for row in spent.values())),
        len({entry.candidate.id for entry in found.result.scored}),
        [(curve[i.best.candidate.id], accuracy(i.best.candidate)) for i in found.improvements],
        {
            "best parent, truly": max(accuracy(Candidate(name, parent=name)) for name in world.models),
            **{each.baseline.name: accuracy(each.candidate) for each in found.baselines if each.candidate is not None},
        },
        [world.fresh(entry.candidate).tolist() for entry in several],
    )


def _spending(store: RunStore) -> dict[str, int]:
    """How many items the search had scored when it was through with each candidate."""
    total, found = 0, {}
    for candidate, items in store.scored("search"):
        total += items
        found[candidate] = total
    return found


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


def grid() -> list[Plan]:
    spaces = {
        "3 genes": {**TASK_ARITHMETIC, "layer_granularity": 0},
        "12 genes": TASK_ARITHMETIC,
        "6 genes, smooth": {**TASK_ARITHMETIC, "layer_granularity": 2, "smooth": True},
    }
    return [
        Plan(
            f"{optimizer}, {space}, {estimator}",
            one_task,
            block({**FEW, "estimator": estimator}, optimizer=optimizer),
            genome,
        )
        for space, genome in spaces.items()
        for estimator in ("auto", "mean", "gmp-irt")
        for optimizer in ("cma-es", "ga", "random")
    ]


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
        Plan("nsga2", two_tasks, block(base, optimizer="nsga2"), TASK_ARITHMETIC),
        Plan("parego", two_tasks, block(base, scalarisation="parego"), TASK_ARITHMETIC),
        *(
            Plan(
                f"{optimizer}, {a:g} : {b:g}",
                two_tasks,
                block(base, optimizer=optimizer, max_fevals=share),
                TASK_ARITHMETIC,
                (a, b),
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
    "grid": grid,
    "soup": soup,
    "front": pareto,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=f"of {', '.join(FIGURES)}  [all but grid]")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0, help="settings are chosen on other seeds than reported")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time  [2]")
    parser.add_argument("--json", type=Path, help="write every run with its curve")
    options = parser.parse_args()
    chosen = options.figures or [name for name in FIGURES if name != "grid"]
    if unknown := set(chosen) - FIGURES.keys():
        parser.error(f"expected figures among {', '.join(FIGURES)}; got {', '.join(sorted(unknown))}")
    found: dict[str, dict[str, list[Measured]]] = {}
    with ProcessPoolExecutor(options.jobs) as pool:
        for name in chosen:
            plans = FIGURES[name]()
            seeds = range(options.first_seed, options.first_seed + options.seeds)
            futures = {plan.name: [pool.submit(measure, plan, seed) for seed in seeds] for plan in plans}
            found[name] = {plan: [future.result() for future in of] for plan, of in futures.items()}
            report(name, found[name])
            if options.json:
                write(options.json, found)


def write(path: Path, found: Mapping[str, Mapping[str, Sequence[Measured]]]) -> None:
    """Every run so far with its curve, by figure and kind of run."""
    rows = {figure: {plan: [asdict(run) for run in runs] for plan, runs in of.items()} for figure, of in found.items()}
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def report(figure: str, plans: Mapping[str, Sequence[Measured]]) -> None:
    """The table of a figure: each kind of run, and its paired differences from the first one."""
    print(f"\n{figure}: {FIGURE_NOTES[figure]}", flush=True)
    print(f"{'':34}{'accuracy (range)':>22}{'search`s own best':>19}{'search':>10}{'all':>10}  less the first")
    first = next(iter(plans.values()))
    for name, runs in plans.items():
        print(_line(name, runs, first if runs is not first else None))
    if figure == "soup":
        _soups(plans)
    if figure == "front":
        _volumes(plans)


FIGURE_NOTES = {
    "same": "300 candidates on 1,000 items or on few anchors, whose answers have option probabilities",
    "binary": "300 candidates on 1,000 items or on few anchors, whose answers are only right or wrong",
    "fidelity": "6,000 item evaluations each",
    "optimizers": f"300 candidates on {FEW_NAME} each",
    "grid": f"300 candidates on {FEW_NAME} each",
    "soup": "300 candidates on 60 anchors of each of three tasks",
    "front": "300 candidates on 30 anchors of each of two tasks, together",
}


def _line(name: str, runs: Sequence[Measured], reference: Sequence[Measured] | None) -> str:
    accuracies = 100 * np.array([run.accuracy for run in runs])
    cells = f"{np.median(accuracies):.1f} ({accuracies.min():.1f}-{accuracies.max():.1f})"
    best = f"{100 * np.median([run.best for run in runs]):.1f}"
    spent = [int(np.median([of(run) for run in runs])) for of in (lambda r: r.search, lambda r: r.all)]
    line = f"{name:34}{cells:>22}{best:>19}{spent[0]:>10,}{spent[1]:>10,}"
    if reference is None:
        return line
    shares = [np.median([of(r) for r in reference]) / s for of, s in zip(_COUNTS, spent, strict=True)]
    low, mean, high = interval([a.accuracy - b.accuracy for a, b in zip(runs, reference, strict=True)])
    cost = f", 1/{shares[0]:.0f} and 1/{shares[0] * spent[0] / spent[1]:.0f} of its search" if shares[0] > 2 else ""
    return f"{line}  {100 * mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]{cost}"


_COUNTS: tuple[Callable[[Measured], int], ...] = (lambda run: run.search, lambda run: run.all)


def interval(differences: Sequence[float]) -> tuple[float, float, float]:
    """The 95 % interval of the mean difference over the seeds (Student), with the mean in its middle."""
    from scipy.stats import t

    values = np.asarray(differences)
    if len(values) < 2:
        return (-np.inf, float(values.mean()), np.inf)
    half = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return float(values.mean()) - half, float(values.mean()), float(values.mean()) + half


def _soups(plans: Mapping[str, Sequence[Measured]]) -> None:
    runs = next(iter(plans.values()))
    print("  the first less, by baseline:")
    for name in runs[0].rivals:
        low, mean, high = interval([run.accuracy - run.rivals[name] for run in runs if name in run.rivals])
        print(f"    {name:24} {100 * mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]")


def _volumes(plans: Mapping[str, Sequence[Measured]]) -> None:
    """Hypervolumes above 0 of the fronts' true accuracies; searches of one weighting each are put together."""
    together: dict[str, list[list[list[float]]]] = {}
    for name, runs in plans.items():
        fronts = together.setdefault(name.split(",")[0], [[] for _ in runs])
        for points, run in zip(fronts, runs, strict=True):
            points += run.points
    volumes = {name: [hypervolume(np.array(of), np.zeros(2)) for of in fronts] for name, fronts in together.items()}
    first = next(iter(volumes))
    for name, of in volumes.items():
        low, mean, high = interval([a - b for a, b in zip(volumes[first], of, strict=True)])
        rest = "" if name == first else f"  {first} less it: {mean:+.4f} [{low:+.4f}, {high:+.4f}]"
        print(f"    hypervolume, {name:12} {np.median(of):.4f} ({min(of):.4f}-{max(of):.4f}){rest}")


if __name__ == "__main__":
    main()
