"""The quickstart at several seeds: the evolved merge against the uniform merge and against random search.

    python benchmarks/quickstart_seeds.py [--seeds 0 1 2] [--out demo-out/seeds] [--json FILE]

For each seed the quickstart's models are trained (once), and its search is run: as it is, and with random search in
place of CMA-ES at the same cost in items, once with as many candidates on the same anchors, and once with 60 candidates
on more anchors each. All get the same confirmation. Differences are of the winners' accuracy on the held-out items,
paired, with 95 % intervals that hold jointly over the evolved run's finalists.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

QUICKSTART = Path(__file__).resolve().parents[1] / "examples" / "quickstart"
sys.path.insert(0, str(QUICKSTART))

import demo  # noqa: E402
from train import Settings, prepare  # noqa: E402

from merge3_plugin.estimate.paired import paired_difference  # noqa: E402
from merge3_plugin.evolve.store import RunStore  # noqa: E402

FEW = 60  # candidates
RIVALS = ("uniform", "random", f"random-{FEW}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("demo-out/seeds"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = [measure(options.out.resolve() / str(seed), seed) for seed in options.seeds]
    report(rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def report(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the table of all seeds, and what it says of each rival."""
    print("\nAccuracy on the held-out items in percent, and differences in points with their paired 95 % intervals.")
    print("".join([f"{'seed':>4}{'evolved':>9}", *(f"{name:>11}{'evolved - it':>22}" for name in RIVALS)]))
    for row in rows:
        print(line(row))
    for rival in RIVALS:
        differences = sorted((row["differences"][rival] for row in rows), key=lambda found: found["difference"])
        low, high = differences[len(rows) // 2]["interval"]
        worse = sum(found["difference"] < 0 for found in differences)
        print(f"{rival}: median seed [{100 * low:+.1f}, {100 * high:+.1f}]; evolved is worse at {worse} of {len(rows)}")


def measure(folder: Path, seed: int) -> dict[str, Any]:
    """All runs of a seed, and the evolved merge's differences from the uniform and the best random ones."""
    prepare(folder, Settings(seed=seed))
    demo.evolve(folder, seed)
    for name, config in random_configs().items():
        path = folder / f"{name}.yml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        demo.evolve(folder, seed, config=path, run_folder=name)
    return compare(folder, seed)


def random_configs() -> dict[str, Any]:
    """The quickstart's config with random search at equal cost: with as many candidates, and with few of them."""
    configs = {}
    for name, candidates in zip(RIVALS[1:], (None, FEW), strict=True):
        config = yaml.safe_load(demo.CONFIG.read_text(encoding="utf-8"))
        block = config["merge3"]
        block["search"]["optimizer"] = "random"
        if candidates is not None:
            block["anchors"] = block["anchors"] * block["search"]["max_fevals"] // candidates
            block["search"]["max_fevals"] = candidates
        configs[name] = config
    return configs


def compare(folder: Path, seed: int) -> dict[str, Any]:
    """The figures of the finished runs of a seed."""
    runs = {name: summary(folder / name) for name in ("run", *RIVALS[1:])}
    winners = {name: held_out(folder / name, run, run["verdict"]["winner"]) for name, run in runs.items()}
    evolved = winners.pop("run")
    rivals = {"uniform": held_out(folder / "run", runs["run"], "uniform"), **winners}
    finalists = sum(model["label"].startswith("best") or model["label"] == "mean" for model in runs["run"]["models"])
    how = {"weights": dict.fromkeys(evolved, 1.0), "confidence": 1 - 0.05 / finalists}
    return {
        "seed": seed,
        "candidates": {name: run["cost"]["candidates"] for name, run in runs.items()},
        "search_items": {name: run["cost"]["search_items"] for name, run in runs.items()},
        "accuracy": {name: overall(of) for name, of in {"evolved": evolved, **rivals}.items()},
        "differences": {name: asdict(paired_difference(evolved, of, **how)) for name, of in rivals.items()},
    }


def summary(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text(encoding="utf-8"))


def held_out(folder: Path, found: Mapping[str, Any], label: str) -> dict[str, dict[str, float]]:
    """The recorded answers of a confirmed model on the held-out items, by task."""
    candidate = next(model["candidate"] for model in found["models"] if model["label"] == label)
    store = RunStore.open(folder)
    try:
        items = {task: dict(store.events())[f"items {task}"]["held_out"] for task in found["tasks"]}
        known = {task: store.known_answers(candidate, task).right for task in items}
    finally:
        store.close()
    return {task: {item: known[task][item] for item in ids} for task, ids in items.items()}


def overall(answers: Mapping[str, Mapping[str, float]]) -> float:
    return sum(sum(scores.values()) / len(scores) for scores in answers.values()) / len(answers)


def line(row: Mapping[str, Any]) -> str:
    """A row of the table."""
    cells = [f"{row['seed']:4d}{100 * row['accuracy']['evolved']:9.1f}"]
    for name in RIVALS:
        low, high = row["differences"][name]["interval"]
        points = f"{100 * row['differences'][name]['difference']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
        cells.append(f"{100 * row['accuracy'][name]:11.1f}{points:>22}")
    return "".join(cells)


if __name__ == "__main__":
    main()
