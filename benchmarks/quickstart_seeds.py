"""The quickstart at several seeds: the evolved merge against the uniform merge and against random search.

    python benchmarks/quickstart_seeds.py [--seeds 0 1 2] [--out demo-out/seeds] [--json FILE]

For each seed the quickstart's models are trained (once), and its run is made twice: as it is, and with random search in
place of CMA-ES, which gets as many candidates, on the same anchors, and the same confirmation. Differences are of the
winners' accuracy on the held-out items, paired, with 95 % intervals that hold jointly over a run's finalists.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
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

RIVALS = ("uniform", "random")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("demo-out/seeds"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = [measure(options.out.resolve() / str(seed), seed) for seed in options.seeds]
    print("\nAccuracy on the held-out items in percent, and differences in points with their paired 95 % intervals.")
    print(f"{'seed':>4}{'candidates':>12}{'uniform':>10}{'random':>10}{'evolved':>10}", end="")
    print("".join(f"{'evolved - ' + rival:>26}" for rival in RIVALS))
    for row in rows:
        print(line(row))
    for rival in RIVALS:
        median = sorted(rows, key=lambda row: row["differences"][rival]["difference"])[len(rows) // 2]
        low, _ = median["differences"][rival]["interval"]
        worse = [row["seed"] for row in rows if row["differences"][rival]["difference"] < 0]
        print(
            f"Against {rival}: the median seed's interval is {'above 0' if low > 0 else 'NOT above 0'}; worse: {worse}"
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def measure(folder: Path, seed: int) -> dict[str, Any]:
    """Both runs of a seed, and the evolved merge's differences from the uniform and the best random one."""
    prepare(folder, Settings(seed=seed))
    config = yaml.safe_load(demo.CONFIG.read_text(encoding="utf-8"))
    config["merge3"]["search"]["optimizer"] = "random"
    rival = folder / "random.yml"
    rival.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    demo.evolve(folder, seed)
    demo.evolve(folder, seed, config=rival, run_folder="random")
    runs = {
        name: json.loads((folder / name / "summary.json").read_text(encoding="utf-8")) for name in ("run", "random")
    }
    evolved = runs["run"]["verdict"]["winner"]
    answers = {
        "evolved": held_out(folder / "run", runs["run"], evolved),
        "uniform": held_out(folder / "run", runs["run"], "uniform"),
        "random": held_out(folder / "random", runs["random"], runs["random"]["verdict"]["winner"]),
    }
    finalists = sum(model["label"].startswith("best") or model["label"] == "mean" for model in runs["run"]["models"])
    weights = dict.fromkeys(answers["evolved"], 1.0)
    return {
        "seed": seed,
        "candidates": runs["run"]["cost"]["candidates"],
        "search_items": {name: run["cost"]["search_items"] for name, run in runs.items()},
        "accuracy": {name: overall(of) for name, of in answers.items()},
        "differences": {
            rival: asdict(
                paired_difference(answers["evolved"], answers[rival], weights=weights, confidence=1 - 0.05 / finalists)
            )
            for rival in RIVALS
        },
    }


def summary(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text(encoding="utf-8"))


def held_out(folder: Path, found: Mapping[str, Any], label: str) -> dict[str, dict[str, float]]:
    """The recorded answers of a confirmed model on the held-out items, by task."""
    candidate = next(model["candidate"] for model in found["models"] if model["label"] == label)
    store = RunStore.open(folder)
    try:
        items = {task: dict(store.events())[f"items {task}"]["held_out"] for task in found["tasks"]}
        known = {task: store.known_answers(candidate, task) for task in items}
    finally:
        store.close()
    return {task: {item: known[task][item] for item in ids} for task, ids in items.items()}


def overall(answers: Mapping[str, Mapping[str, float]]) -> float:
    return sum(sum(scores.values()) / len(scores) for scores in answers.values()) / len(answers)


def line(row: Mapping[str, Any]) -> str:
    """A row of the table."""
    accuracies = "".join(f"{100 * row['accuracy'][name]:10.1f}" for name in (*RIVALS, "evolved"))
    cells = []
    for rival in RIVALS:
        low, high = row["differences"][rival]["interval"]
        cells.append(f"{100 * row['differences'][rival]['difference']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]")
    return f"{row['seed']:4d}{row['candidates']:12d}{accuracies}" + "".join(f"{cell:>26}" for cell in cells)


if __name__ == "__main__":
    main()
