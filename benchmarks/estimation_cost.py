"""What estimating costs beside scoring: one estimate, the fit of an item response model, a whole calibration.

    python benchmarks/estimation_cost.py [--models 50] [--items 10000] [--anchors 100] [--repeats 12] [--json FILE]

Milliseconds of processor time on one thread, median and range over the repeats. An estimate's limit is to compute the
probability of a right answer to every item once, which each estimator by item response theory has to do; the ratio is
to that, measured in turns. The matrix is simulated, of merges of two parents, with soft scores.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from merge3_plugin.api import calibrate
from merge3_plugin.domain import AnchorSet, Calibration, ItemParameters, ResponseMatrix
from merge3_plugin.estimate.base import gather, run_estimator
from merge3_plugin.estimate.builtin import ESTIMATORS
from merge3_plugin.extract.fit import fit_items
from merge3_plugin.irt import probabilities
from merge3_plugin.testing import simulate_merges

Work = Callable[[], object]


def estimates(
    world: ResponseMatrix, n_models: int, n_anchors: int, rng: np.random.Generator
) -> Iterator[tuple[str, Work]]:
    """The limit, then an estimate by each estimator: of a model that is not among the calibration's."""
    n_items = len(world.item_ids)
    fits = [ItemParameters(rng.lognormal(0.0, 0.3, (n_items, d)), rng.normal(0.0, 1.3, n_items)) for d in (2, 1, 3)]
    chosen = world.item_ids[:: n_items // n_anchors][:n_anchors]
    share = np.full(n_anchors, 1 / n_anchors)
    models = world.models(world.model_ids[:n_models])
    calibration = Calibration(
        world.item_ids, fits[0], AnchorSet(chosen, share, "kd", share), models, alternatives=tuple(fits[1:])
    )
    places = [world.item_ids.index(item) for item in chosen]
    scores = dict(zip(chosen, world.values[n_models, places].tolist(), strict=True))
    soft = dict(zip(chosen, world.soft[n_models, places].tolist(), strict=True))
    parents = world.models(["p0", "p1"])
    yield "limit", lambda: probabilities(fits[0], np.zeros((1, 2)))
    for estimator in ESTIMATORS:
        yield estimator.name, lambda e=estimator: run_estimator(e, gather(calibration, scores, parents, soft))


def milliseconds(works: Mapping[str, Work], repeats: int) -> dict[str, list[float]]:
    """Of every work in turn, ``repeats`` times, after one that is not counted."""
    took: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(repeats + 1):
        for name, work in works.items():
            begun = time.process_time()
            work()
            if repeat:
                took[name].append(1000 * (time.process_time() - begun))
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=50)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--anchors", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--json", type=Path, help="write every time")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    plain = simulate_merges(options.models, 1, options.items, rng=rng)
    soft = 0.2 + 0.6 * rng.random(plain.values.shape)
    world = ResponseMatrix(plain.values, plain.model_ids, plain.item_ids, soft=soft)
    family = simulate_merges(3, 6, options.items, rng=rng)
    few = max(2, options.repeats // 4)
    with threadpool_limits(1):
        took = milliseconds(dict(estimates(world, options.models, options.anchors, rng)), options.repeats)
        slow: dict[str, Work] = {f"fit, {d} dimensions": lambda d=d: fit_items(plain, d) for d in (1, 2, 3)}
        slow["calibration of a search"] = lambda: calibrate(
            family, options.anchors, seed=0, parents=family.models(["p0", "p1", "p2"])
        )
        took |= milliseconds(slow, few)
    limit = float(np.median(took["limit"]))
    print(f"{options.models} models, {options.items:,} items, {options.anchors} anchors")
    print(f"{'':26}{'milliseconds (range)':>30}{'of the limit':>14}")
    for name, times in took.items():
        cells = f"{np.median(times):.2f} ({min(times):.2f}-{max(times):.2f})"
        print(f"{name:26}{cells:>30}" + (f"{np.median(times) / limit:>14.1f}" if name not in slow else ""))
    if options.json:
        options.json.write_text(json.dumps(took, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
