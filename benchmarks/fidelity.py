"""Error of the estimated accuracy of models left out, as a multiple of that of a random sample of as many items.

    python benchmarks/fidelity.py [RESPONSES.npz] [--parents ID ...] [--seeds 3] [--json FILE]

RESPONSES.npz holds ``values`` (models, items) in [0, 1], NaN where not asked, ``model_ids`` and, if they are known,
``item_ids``. Without it, two simulated worlds are measured: unrelated models, and merges with their parents. With
``--parents`` only the other models are left out, as merges of those. Each seed makes its own folds and anchors; the
figures are means over the seeds, with their standard error; ``auto`` weighs by the errors on the other models alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from merge3_plugin.calibrate.build import dimensions, with_parents
from merge3_plugin.calibrate.crossval import CrossValidation, cross_validate, fit_folds
from merge3_plugin.calibrate.report import random_sample_error
from merge3_plugin.domain import Estimate, ResponseMatrix
from merge3_plugin.estimate.auto import AUTO, best
from merge3_plugin.extract.responses import read_npz
from merge3_plugin.testing import simulate_merges, simulate_responses

SIZES = (20, 50, 100)
METHODS = ("random", "stratified", "kd")


def main() -> None:
    options = _options()
    rows = []
    print(f"{'set':<22}{'anchors':<12}{'n':>4}  {'estimator':<10}{'ratio':>7}{'+-':>7}{'covered':>9}{'width':>8}")
    for name, responses, parents in _sets(options.responses, options.parents):
        for row in measure(name, responses, parents, range(options.seeds)):
            rows.append(row)
            print(
                f"{row['set']:<22}{row['anchors']:<12}{row['n']:>4}  {row['estimator']:<10}{row['ratio']:>7.3f}"
                f"{row['standard_error']:>7.3f}{row['coverage']:>9.3f}{row['width']:>8.3f}",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


def measure(name: str, responses: ResponseMatrix, parents: Sequence[str], seeds: range) -> Iterator[dict[str, Any]]:
    """A row for each number of anchors, way to choose them and estimator."""
    everyone, parent_ids = with_parents(responses, responses.models(parents) if parents else None)
    sizes = [n for n in SIZES if n < everyone.n_items]
    found: dict[tuple[int, str, str], list[tuple[float, float, float]]] = {}
    for seed in seeds:
        rng = np.random.default_rng(seed)
        folds = fit_folds(everyone, dimensions(everyone), rng, parent_ids)
        for n in sizes:
            for method in METHODS:
                outcome = cross_validate(
                    everyone, folds, n, method=method, rng=rng, parents=parent_ids, with_intervals=True
                )
                estimates = {**outcome.estimates, AUTO: _chosen(outcome, bool(parent_ids))}
                for estimator, by_model in estimates.items():
                    figures = _figures(outcome, by_model, n, everyone.n_items)
                    found.setdefault((n, method, estimator), []).append(figures)
    for (n, method, estimator), by_seed in found.items():
        ratio, coverage, width = np.mean(by_seed, axis=0)
        spread = np.std([r for r, _, _ in by_seed], ddof=1) / np.sqrt(len(by_seed)) if len(by_seed) > 1 else np.nan
        yield {
            "set": name,
            "anchors": method,
            "n": n,
            "estimator": estimator,
            "ratio": float(ratio),
            "standard_error": float(spread),
            "coverage": float(coverage),
            "width": float(width),
        }


def _chosen(outcome: CrossValidation, parents_known: bool) -> tuple[tuple[Estimate, ...], ...]:
    others = [outcome.findings(without=place).errors for place in range(len(outcome.model_ids))]
    names = [best(errors, parents_known=parents_known) for errors in others]
    return tuple(outcome.estimates[name][place] for place, name in enumerate(names))


def _figures(
    outcome: CrossValidation, estimates: tuple[tuple[Estimate, ...], ...], n: int, n_items: int
) -> tuple[float, float, float]:
    """Ratio of mean absolute errors, share of intervals that hold the truth, and mean width of the intervals."""
    pairs = [(e, truth) for draws, truth in zip(estimates, outcome.accuracies, strict=True) for e in draws]
    error = np.mean([abs(e.accuracy - truth) for e, truth in pairs])
    random_error = np.mean([random_sample_error(float(truth), n, n_items) for truth in outcome.accuracies])
    held = np.mean([e.interval[0] <= truth <= e.interval[1] for e, truth in pairs])
    return float(error / random_error), float(held), float(np.mean([e.interval[1] - e.interval[0] for e, _ in pairs]))


def _sets(path: Path | None, parents: Sequence[str]) -> list[tuple[str, ResponseMatrix, Sequence[str]]]:
    if path is None:
        return [
            ("simulated", simulate_responses(16, 1000, rng=np.random.default_rng(0), misfit=0.7), ()),
            ("merges", simulate_merges(3, 12, 1000, rng=np.random.default_rng(0)), ("p0", "p1", "p2")),
        ]
    return [(path.stem, read_npz(path, path.stem).matrix, parents)]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n")[0], epilog="See the head of this file for the format."
    )
    parser.add_argument("responses", nargs="?", type=Path, help="an .npz of responses; default: simulated worlds")
    parser.add_argument("--parents", nargs="+", default=(), metavar="ID", help="models that the others are merged from")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds (default 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
