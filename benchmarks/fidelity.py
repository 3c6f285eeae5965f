"""Error, coverage and ranking of estimates of models that took no part in anything: every way to choose x to estimate.

    python benchmarks/fidelity.py [RESPONSES.npz] [--parents ID ...] [--calibrators K] [--merges] [--seeds 3] [--json F]

RESPONSES.npz holds ``values`` (models, items) in [0, 1], NaN where not asked, ``model_ids`` and, if they are known,
``item_ids``. Without it, two simulated worlds are measured: 200 models of which 20 calibrate, and merges. Models are
left out in folds, or all but ``--calibrators K`` random ones; with ``--parents`` only the others are, as merges of
those. ``--merges`` makes pseudo-merges: models whose answers lie near a mix of two others on a random half of the
items, measured on the other half. Everything a row rests on, ``auto``'s choice of anchors and estimator and all
intervals too, comes from the other models by an inner cross-validation. Figures are over all models and seeds:
``ratio`` of the mean absolute error to that of a random sample (analytic) with its standard error over seeds,
``covered`` by the 95 % interval with a bootstrap over models, mean ``width`` over that of the design-based interval,
Kendall's ``tau``, milliseconds of one estimate. The rows tinyBenchmarks and MERGE3 are their designs, as published.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from merge3_plugin.calibrate.folds import eligible, generator
from merge3_plugin.calibrate.report import random_sample_error
from merge3_plugin.calibrate.study import AUTO, Study, study
from merge3_plugin.domain import AnchorSet, Calibration, FloatArray, ResponseMatrix
from merge3_plugin.estimate.auto import resolve
from merge3_plugin.estimate.base import Evidence, run_estimator
from merge3_plugin.estimate.design import wilson_interval
from merge3_plugin.extract.responses import read_npz
from merge3_plugin.testing import simulate_merges, simulate_responses

SIZES = (20, 50, 100)
METHODS = ("random", "stratified", "kd", "mixed", "irt-clusters", "correctness-clusters")
OUTER_FOLDS = 6
MOST_MEASURED = 100
# Rows of the table that stand for others' designs.
TINY_BENCHMARKS, MERGE3 = "tinyBenchmarks", "MERGE3"
# Nearest share of the models that count as pseudo-merges.
NEAR = 0.4
BOOTSTRAP = 1000


class Split(NamedTuple):
    """Models to calibrate on, parents (or None) and the models to estimate, on the same items."""

    calibrators: ResponseMatrix
    parents: ResponseMatrix | None
    left_out: ResponseMatrix


class Trial(NamedTuple):
    """One estimate of one model: error, that of a random sample, whether covered, interval widths, seconds."""

    seed: int
    model: str
    truth: float
    estimate: float
    by_chance: float
    held: bool
    width: float
    design_width: float
    seconds: float


Key = tuple[str, str, int]


def main() -> None:
    options = _options()
    rows = []
    for name, responses, parents, calibrators in _sets(options):
        trials: dict[Key, list[Trial]] = defaultdict(list)
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            made = pseudo_merges(responses, seed, calibrators) if options.merges else None
            splits = list(made or _splits(responses, parents, calibrators, seed))
            for number, split in enumerate(splits):
                print(f"{name}: seed {seed}, part {number + 1} of {len(splits)}", file=sys.stderr, flush=True)
                for key, found in measured(split, seed, options.sizes):
                    trials[key].append(found)
        rows += [{"set": name, **row} for row in summarised(trials)]
        print(table(name, [row for row in rows if row["set"] == name]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


def _splits(responses: ResponseMatrix, parents: Sequence[str], calibrators: int | None, seed: int) -> Iterator[Split]:
    family = responses.models(parents) if parents else None
    rows = generator(seed, "left out").permutation(eligible(responses, tuple(parents)))
    if calibrators:
        parts = [rows[calibrators:][:MOST_MEASURED]]
        others = [*parents, *(responses.model_ids[row] for row in rows[:calibrators])]
        pool = responses.models(others)
    else:
        parts, pool = np.array_split(rows, min(OUTER_FOLDS, len(rows))), responses
    for part in parts:
        out = [responses.model_ids[row] for row in part]
        stay = [model for model in pool.model_ids if model not in out]
        yield Split(pool.models(stay), family, responses.models(out))


def pseudo_merges(responses: ResponseMatrix, seed: int, calibrators: int | None) -> Iterator[Split]:
    """Each model that lies near a mix of two others, with these as its parents, on items that did not choose them."""
    rng = generator(seed, "pseudo-merges")
    ids = np.array(responses.item_ids)[rng.permutation(responses.n_items)]
    choosing, measuring = ids[: len(ids) // 2].tolist(), ids[len(ids) // 2 :].tolist()
    rows = rng.permutation(eligible(responses))[: 3 * MOST_MEASURED]
    answers = np.nan_to_num(responses.models(responses.model_ids[r] for r in rows).items(choosing).values, nan=0.5)
    nearest = sorted(_nearest_mix(answers, place) for place in range(len(rows)))
    for _, place, pair in nearest[: min(round(NEAR * len(rows)), MOST_MEASURED)]:
        target, *family = (responses.model_ids[rows[p]] for p in (place, *pair))
        others = [m for m in responses.model_ids if m not in (target, *family)]
        kept = set(family) | set(rng.permutation(others)[:calibrators].tolist())
        items = responses.items(measuring)
        yield Split(
            items.models(m for m in responses.model_ids if m in kept), items.models(family), items.models([target])
        )


def _nearest_mix(answers: FloatArray, place: int) -> tuple[float, int, tuple[int, int]]:
    """Mean squared distance of a model's answers to the nearest mix of two others' answers, its place, and theirs."""
    own, others = answers[place], [p for p in range(len(answers)) if p != place]
    # |y - (s a + (1 - s) b)|^2 by inner products alone: all pairs at once.
    shifted = answers[others] - own
    gram = shifted @ shifted.T / len(own)
    norms = np.diag(gram)
    apart = norms[:, None] + norms[None, :] - 2 * gram
    share = np.clip(np.divide(norms[None, :] - gram, apart, out=np.full_like(gram, 0.5), where=apart > 1e-12), 0.2, 0.8)
    distance = share**2 * norms[:, None] + (1 - share) ** 2 * norms[None, :] + 2 * share * (1 - share) * gram
    np.fill_diagonal(distance, np.inf)
    i, j = np.unravel_index(int(distance.argmin()), distance.shape)
    return float(distance[i, j]), place, (others[int(i)], others[int(j)])


def measured(split: Split, seed: int, sizes: Sequence[int]) -> Iterator[tuple[Key, Trial]]:
    """A trial for each way to choose, each estimator, number of anchors and left-out model."""
    made = study(split.calibrators, seed=seed, parents=split.parents)
    for n in (n for n in sizes if n < split.left_out.n_items):
        for method, calibration, names in _ways(made, n, parents_known=split.parents is not None):
            for name in names:
                for trial in _trials(calibration, name, split, seed):
                    yield (method, name, n), trial


def _ways(made: Study, n: int, *, parents_known: bool) -> Iterator[tuple[str, Calibration, list[str]]]:
    """By design: its calibration, and the estimators to try on it."""
    for method in [*METHODS, *(["neyman"] if parents_known else [])]:
        calibration = made.calibration(n, method)
        yield method, calibration, [*calibration.errors, AUTO]
        if method == "correctness-clusters":
            yield TINY_BENCHMARKS, replace(calibration, anchors=_nearest_to_centres(made, n)), ["gp-irt"]
        if method == "random" and parents_known:
            yield MERGE3, calibration, ["gmp-irt-half"]
    yield AUTO, made.calibration(n), [AUTO]


def _nearest_to_centres(made: Study, n: int) -> AnchorSet:
    """tinyBenchmarks' anchors as published: whatever the clusters' sizes, without our fall-back to equal groups.

    Many items are equally close to a centre. Published is the first in the file: one draw, however many seeds; here any
    of them, so that the figures are the method's and not those of an order of items.
    """
    from sklearn.cluster import KMeans

    shuffled = generator(made.seed, "clusters", n).permutation(made.responses.n_items)
    vectors, shares = np.nan_to_num(made.responses.values.T, nan=0.5)[shuffled], made.responses.item_weights[shuffled]
    found = KMeans(n, n_init=1, random_state=made.seed).fit(vectors, sample_weight=shares)
    distances = found.transform(vectors)
    places = np.unique(distances.argmin(axis=0))
    owner = np.argmin(distances[places][:, found.labels_], axis=0)
    weights = np.bincount(owner, weights=shares, minlength=len(places))
    return AnchorSet([made.responses.item_ids[shuffled[place]] for place in places], weights, TINY_BENCHMARKS)


def _trials(calibration: Calibration, name: str, split: Split, seed: int) -> Iterator[Trial]:
    places = np.sort(calibration.anchor_positions())
    soft = split.left_out.soft
    estimator = resolve(name, calibration, parents_known=split.parents is not None, soft_known=soft is not None)
    parents = None if split.parents is None else split.parents.items(calibration.item_ids)
    known = zip(split.left_out.model_ids, split.left_out.values, split.left_out.accuracy(), strict=True)
    for row, (model, answers, truth) in enumerate(known):
        asked = places[~np.isnan(answers[places])]
        if not len(asked):
            continue
        evidence = Evidence(calibration, asked, answers[asked], parents, None if soft is None else soft[row, asked])
        started = time.perf_counter()
        found = run_estimator(estimator, evidence)
        seconds, (low, high) = time.perf_counter() - started, found.interval
        n, n_items, truth = len(asked), calibration.n_items, float(truth)
        design = wilson_interval(truth, n, n_items)
        yield Trial(
            seed,
            model,
            truth,
            found.accuracy,
            random_sample_error(truth, n, n_items),
            low <= truth <= high,
            high - low,
            design[1] - design[0],
            seconds,
        )


def summarised(trials: dict[Key, list[Trial]]) -> Iterator[dict[str, Any]]:
    """A row of figures for each key, and one for each way and estimator with all sizes pooled (n = 0)."""
    pooled: dict[Key, list[Trial]] = defaultdict(list)
    for (method, name, _), found in trials.items():
        pooled[method, name, 0] += found
    for (method, name, n), found in {**trials, **pooled}.items():
        yield {"anchors": method, "estimator": name, "n": n, **figures(found)}


def figures(trials: Sequence[Trial]) -> dict[str, float | None]:
    """The figures of the table over these trials; None where there is too little for one."""
    by_seed: dict[int, list[Trial]] = defaultdict(list)
    by_model: dict[str, list[bool]] = defaultdict(list)
    for trial in trials:
        by_seed[trial.seed].append(trial)
        by_model[trial.model].append(trial.held)
    held = np.array([np.sum(of_model) for of_model in by_model.values()])
    asked = np.array([len(of_model) for of_model in by_model.values()])
    drawn = np.random.default_rng(0).integers(len(held), size=(BOOTSTRAP, len(held)))
    low, high = np.quantile(held[drawn].sum(axis=1) / asked[drawn].sum(axis=1), [0.025, 0.975])
    ratios = [_ratio(found) for found in by_seed.values()]
    return {
        "ratio": _ratio(trials),
        "standard_error": float(np.std(ratios, ddof=1) / np.sqrt(len(ratios))) if len(ratios) > 1 else None,
        "covered": float(held.sum() / asked.sum()),
        "covered_low": float(low),
        "covered_high": float(high),
        "width": float(np.mean([t.width for t in trials]) / np.mean([t.design_width for t in trials])),
        "tau": _tau(by_seed.values()),
        "seconds": float(np.mean([t.seconds for t in trials])),
        "estimates": len(trials),
    }


def _ratio(trials: Sequence[Trial]) -> float:
    return float(np.mean([abs(t.estimate - t.truth) for t in trials]) / np.mean([t.by_chance for t in trials]))


def _tau(by_seed: Any) -> float | None:
    from scipy.stats import kendalltau

    found = [kendalltau([t.estimate for t in trials], [t.truth for t in trials]).statistic for trials in by_seed]
    known = [tau for tau in found if np.isfinite(tau)]
    return float(np.mean(known)) if known else None


def table(name: str, rows: Sequence[dict[str, Any]]) -> str:
    """The rows as lines of text; n = 0 is shown as all."""
    head = f"{name}\n{'anchors':<22}{'estimator':<14}{'n':>4}{'ratio':>8}{'+-':>7}"
    lines = [f"{head}{'covered':>9}{'(95 %)':>14}{'width':>7}{'tau':>6}{'ms':>7}"]
    for row in rows:
        error = "" if row["standard_error"] is None else f"{row['standard_error']:.3f}"
        tau = "" if row["tau"] is None else f"{row['tau']:.2f}"
        between = f"{row['covered_low']:.3f}-{row['covered_high']:.3f}"
        lines.append(
            f"{row['anchors']:<22}{row['estimator']:<14}{row['n'] or 'all':>4}{row['ratio']:>8.3f}{error:>7}"
            f"{row['covered']:>9.3f}{between:>14}{row['width']:>7.2f}{tau:>6}{1000 * row['seconds']:>7.2f}"
        )
    return "\n".join([*lines, ""])


def _sets(options: argparse.Namespace) -> list[tuple[str, ResponseMatrix, Sequence[str], int | None]]:
    """Name, responses, parents and number of calibrators (None: all but a fold) of each set to measure."""
    path, calibrators = options.responses, options.calibrators
    if path is not None:
        return [(path.stem, read_npz(path, path.stem).matrix, options.parents, calibrators)]
    rng = np.random.default_rng(0)
    return [
        ("simulated", simulate_responses(200, 1000, rng=rng, misfit=0.7), (), calibrators or 20),
        ("merges", simulate_merges(3, 12, 1000, rng=rng), ("p0", "p1", "p2"), None),
    ]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n")[0], epilog="See the head of this file for the format."
    )
    parser.add_argument("responses", nargs="?", type=Path, help="an .npz of responses; default: simulated worlds")
    parser.add_argument("--parents", nargs="+", default=(), metavar="ID", help="models that the others are merged from")
    parser.add_argument("--merges", action="store_true", help="measure pseudo-merges with their parents")
    parser.add_argument("--calibrators", type=int, metavar="K", help="calibrate on K random models, measure the others")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of anchors (default 20 50 100)")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds (default 3)")
    parser.add_argument("--first-seed", type=int, default=0, help="the first of them (default 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
