"""What the runs of a figure say, as tables: accuracies with their range, curves, and paired differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from search_runs import Measured

from merge3_plugin.evolve.front import hypervolume

Runs = Mapping[str, Sequence[Measured]]

# Item evaluations of the search at which tables show the best so far, where they lie within it.
SHOWN = (300, 1_000, 3_000, 10_000, 30_000, 100_000)


def report(figure: str, note: str, plans: Runs) -> None:
    """The tables of a figure: each kind of run with its paired differences from the first one, and its curve."""
    print(f"\n{figure}: {note}", flush=True)
    print(f"{'':34}{'accuracy (range)':>22}{'search`s own best':>19}{'search':>10}{'all':>10}  less the first")
    first = next(iter(plans.values()))
    for name, runs in plans.items():
        print(_line(name, runs, first if runs is not first else None))
    _curves(plans)
    if all(name.count(", ") == 2 for name in plans):
        _factors(plans)
    if figure == "soup":
        _soups(plans)
    if figure == "front":
        _volumes(plans)


def _line(name: str, runs: Sequence[Measured], reference: Sequence[Measured] | None) -> str:
    cells = spread([run.accuracy for run in runs])
    best = f"{100 * np.median([run.best for run in runs]):.1f}"
    spent = [int(np.median([of(run) for run in runs])) for of in (lambda r: r.search, lambda r: r.all)]
    line = f"{name:34}{cells:>22}{best:>19}{spent[0]:>10,}{spent[1]:>10,}"
    if reference is None:
        return line
    shares = [np.median([of(r) for r in reference]) / s for of, s in zip(_COUNTS, spent, strict=True)]
    differences = points([a.accuracy - b.accuracy for a, b in zip(runs, reference, strict=True)])
    cost = f", 1/{shares[0]:.0f} and 1/{shares[0] * spent[0] / spent[1]:.0f} of its search" if shares[0] > 2 else ""
    return f"{line}  {differences}{cost}"


_COUNTS: tuple[Callable[[Measured], int], ...] = (lambda run: run.search, lambda run: run.all)


def _curves(plans: Runs) -> None:
    """The best so far at round numbers of item evaluations; a search that has ended keeps its best."""
    end = max(run.search for runs in plans.values() for run in runs)
    shown = [mark for mark in SHOWN if mark < end]
    print(f"  the best so far when the search has scored so many items:\n{'':34}", end="")
    print("".join(f"{mark:>20,}" for mark in shown) + f"{'its end':>20}")
    for name, runs in plans.items():
        print(f"{name:34}" + "".join(f"{spread([run.at(mark) for run in runs]):>20}" for mark in (*shown, end)))


def _factors(plans: Runs) -> None:
    """What each strategy and estimator is worth beside the first one, over all spaces and in each; and each space."""
    runs = {tuple(name.split(", ")): of for name, of in plans.items()}
    optimizers, spaces, estimators = (list(dict.fromkeys(levels)) for levels in zip(*runs, strict=True))
    print(f"  less the first, in the mean over all else:\n{'':34}" + "".join(f"{of:>22}" for of in ("all", *spaces)))
    for place, levels in enumerate((optimizers, spaces, estimators)):
        for level in levels[1:]:
            cells = [cell for cell in runs if cell[place] == level]
            gains = {
                cell: [
                    a.accuracy - b.accuracy
                    for a, b in zip(runs[cell], runs[*cell[:place], levels[0], *cell[place + 1 :]], strict=True)
                ]
                for cell in cells
            }
            within = [] if levels is spaces else [[gains[cell] for cell in cells if cell[1] == of] for of in spaces]
            columns = [list(gains.values()), *within]
            print(f"{level:34}" + "".join(f"{points(np.mean(of, axis=0)):>22}" for of in columns))


def spread(accuracies: Sequence[float]) -> str:
    """Median and range in percent."""
    values = 100 * np.asarray(accuracies)
    return "-" if np.isnan(values).any() else f"{np.median(values):.1f} ({values.min():.1f}-{values.max():.1f})"


def points(differences: Sequence[float]) -> str:
    """The mean difference with its interval, in points."""
    low, mean, high = (100 * value for value in interval(differences))
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def interval(differences: Sequence[float]) -> tuple[float, float, float]:
    """The 95 % interval of the mean difference over the seeds (Student), with the mean in its middle."""
    from scipy.stats import t

    values = np.asarray(differences)
    if len(values) < 2:
        return (-np.inf, float(values.mean()), np.inf)
    half = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return float(values.mean()) - half, float(values.mean()), float(values.mean()) + half


def _soups(plans: Runs) -> None:
    runs = next(iter(plans.values()))
    print("  the first less, by baseline:")
    for name in runs[0].rivals:
        print(f"    {name:24} {points([run.accuracy - run.rivals[name] for run in runs if name in run.rivals])}")


def _volumes(plans: Runs) -> None:
    """Hypervolumes above 0 of the fronts' true accuracies; searches of one weighting each are put together."""
    together: dict[str, list[list[list[float]]]] = {}
    for name, runs in plans.items():
        fronts = together.setdefault(name.split(",")[0], [[] for _ in runs])
        for members, run in zip(fronts, runs, strict=True):
            members += run.points
    volumes = {name: [hypervolume(np.array(of), np.zeros(2)) for of in fronts] for name, fronts in together.items()}
    first = next(iter(volumes))
    for name, of in volumes.items():
        low, mean, high = interval([a - b for a, b in zip(volumes[first], of, strict=True)])
        rest = "" if name == first else f"  {first} less it: {mean:+.4f} [{low:+.4f}, {high:+.4f}]"
        print(f"    hypervolume, {name:12} {np.median(of):.4f} ({min(of):.4f}-{max(of):.4f}){rest}")
