"""tinyBenchmarks' published parameters (arXiv 2402.14992, ``tinyBenchmarks.pkl``) as calibrations, one a scenario.

The file holds, for each benchmark (lb, mmlu, helm_lite, alpaca): ``seen_examples`` (the anchors),
``examples_weights[scenario]``, ``irt_parameters`` ``A`` and ``B`` of shape (1, D or 1, items), ``optimal_lambdas``,
``scenarios_position`` and ``subscenarios_position``. Positions count all items of the benchmark, one scenario after the
other. There are no texts: item ``k`` of a calibration is the k-th position (from 0) of its scenario, so the items of a
task are matched by giving their ids in the order in which the scenario lists them.

Three conventions of the logit are about, and B does not say which one it is made for. With our "a.theta - b", one
difficulty b an item, they are:

- ``"tinybenchmarks"``, sum_d (A_d theta_d - B_d): what tinyBenchmarks' own code computes with the published file, and
  so the default. b = sum_d B_d, and where B has one row for all dimensions, which numpy repeats for each, b = D B.
- ``"a.theta-b"``, A . theta - B: the paper's formula, B with one row. b = B.
- ``"py-irt"``, sum_d A_d (theta_d - B_d): upstream py-irt. b = sum_d A_d B_d.

tinyBenchmarks cuts each A_d theta_d - B_d to [-30, 30]; that is left out, for it changes no probability that matters.
It fits abilities by maximum likelihood without a prior, and the scale of its abilities is not ours: the calibrations
therefore say an ``ability_precision`` next to 0, just enough to keep abilities finite where all answers are right.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from merge3_plugin import __version__
from merge3_plugin.domain import LOGIT_CONVENTION, AnchorSet, Calibration, FloatArray, ItemParameters, ResponseMatrix
from merge3_plugin.errors import ConfigError, DataError, nearest
from merge3_plugin.extract.plain_pickle import read_plain_pickle

CONVENTIONS = ("tinybenchmarks", "a.theta-b", "py-irt")
METHOD = "tinybenchmarks"
ABILITY_PRECISION = 1e-6


def read_tinybenchmarks(
    path: str | os.PathLike[str],
    *,
    benchmark: str | None = None,
    scenario: str | None = None,
    convention: str = CONVENTIONS[0],
    item_ids: Sequence[str] | None = None,
) -> dict[tuple[str, str], Calibration]:
    """Calibrations by (benchmark, scenario), of all of them or of those named.

    Anchors keep the order of ``seen_examples``, so that tinyBenchmarks' vector of answers belongs to them one by one.
    Sub-scenarios are item groups, and their balance weights N_scenario / (n_subs n_i) the responses' ``balance``.
    The responses hold no models. ``provenance`` keeps the convention, the prior's ``ability_precision``, and the
    published lambda as ``gp_irt_weight``, the weight of the answers in gp-IRT. ``item_ids`` name the items of the one
    scenario that is read, in its order. Raises ConfigError for names that are not there, DataError for a file that is
    not laid out like this or holds anything but numpy arrays and plain containers.
    """
    if convention not in CONVENTIONS:
        raise ConfigError(f"convention: expected a known one, got {convention!r}{nearest(convention, CONVENTIONS)}")
    content, sha256 = read_plain_pickle(path)
    published = _mapping(content, str(path))
    source = {"name": Path(path).name, "sha256": sha256}
    benchmarks = [_Benchmark(name, published[name], str(path)) for name in _chosen(benchmark, published, "benchmark")]
    holding = [b for b in benchmarks if scenario is None or scenario in b.scenarios]
    if not holding:
        known = [s for b in benchmarks for s in b.scenarios]
        raise ConfigError(f"scenario: expected one of the file's, got {scenario!r}{nearest(str(scenario), known)}")
    found = {
        (b.name, one): b.calibration(one, convention, {"files": [source]})
        for b in holding
        for one in b.scenarios
        if scenario in (None, one)
    }
    return found if item_ids is None else _with_ids(found, item_ids)


class _Benchmark:
    """One benchmark's entry in the file; every part of it is checked when it is read."""

    def __init__(self, name: str, entry: Any, path: str) -> None:
        self.name, self.where = name, f"{path}: benchmark {name!r}"
        self.entry = _mapping(entry, self.where)
        parameters = _mapping(self.part("irt_parameters"), f"{self.where}: irt_parameters")
        self.a, self.b = (_parameters(parameters.get(key), f"{self.where}: {key}") for key in "AB")
        if self.b.shape[1] != self.a.shape[1] or len(self.b) not in (1, len(self.a)):
            wanted = f"(1, {len(self.a)} or 1, {self.a.shape[1]})"
            raise DataError(f"{self.where}: expected B of shape {wanted} as A, got {(1, *self.b.shape)}")
        self.seen = _positions(self.part("seen_examples"), self.n_items, f"{self.where}: seen_examples")
        self.scenarios = _mapping(self.part("scenarios_position"), f"{self.where}: scenarios_position")

    @property
    def n_items(self) -> int:
        return self.a.shape[1]

    def part(self, name: str, scenario: str | None = None) -> Any:
        found = self.entry if scenario is None else _mapping(self.part(name), f"{self.where}: {name}")
        key = name if scenario is None else scenario
        if key not in found:
            raise DataError(f"{self.where}: expected {key!r}{f' in {name}' if scenario else ''}, got none")
        return found[key]

    def calibration(self, scenario: str, convention: str, provenance: Mapping[str, Any]) -> Calibration:
        where = f"{self.where}, scenario {scenario!r}"
        places = _positions(self.scenarios[scenario], self.n_items, f"{where}: scenarios_position")
        if len(set(places.tolist())) < len(places):
            raise DataError(f"{where}: expected each item once, got one twice in scenarios_position")
        within = {place: str(k) for k, place in enumerate(places.tolist())}
        ids = tuple(within.values())
        groups, balance = self.balance(scenario, within, where)
        return Calibration(
            item_ids=ids,
            items=_item_parameters(self.a[:, places], self.b[:, places], convention, where),
            anchors=self.anchors(scenario, within, where),
            responses=ResponseMatrix(np.empty((0, len(ids))), (), ids, groups, balance=balance),
            provenance={
                "task": f"{self.name}/{scenario}",
                **provenance,
                "models": [],
                "version": __version__,
                "convention": {"file": convention, "here": LOGIT_CONVENTION},
                "ability_precision": ABILITY_PRECISION,
                "gp_irt_weight": self.gp_irt_weight(scenario, where),
            },
        )

    def anchors(self, scenario: str, within: Mapping[int, str], where: str) -> AnchorSet:
        """In the order of ``seen_examples``; an item seen twice has the weight of both."""
        seen = [within[place] for place in self.seen.tolist() if place in within]
        weights = _numbers(self.part("examples_weights", scenario), f"{where}: examples_weights")
        if len(weights) != len(seen):
            raise DataError(f"{where}: expected a weight for each of {len(seen)} seen examples, got {len(weights)}")
        if not (len(seen) and (weights >= 0).all() and abs(weights.sum() - 1.0) < 1e-3):
            raise DataError(f"{where}: expected seen examples with weights of sum 1, got {weights.sum():g}")
        shares = dict.fromkeys(seen, 0.0)
        for item, weight in zip(seen, weights / weights.sum(), strict=True):
            shares[item] += float(weight)
        return AnchorSet(tuple(shares), np.array(list(shares.values())), METHOD)

    def balance(
        self, scenario: str, within: Mapping[int, str], where: str
    ) -> tuple[list[str] | None, FloatArray | None]:
        """Sub-scenario and balance weight of each item; None and None where the scenario has at most one."""
        subs = _mapping(self.part("subscenarios_position", scenario), f"{where}: subscenarios_position")
        if len(subs) < 2:
            return None, None
        group_of: dict[str, str] = {}
        sizes = {}
        for sub, positions in subs.items():
            places = _positions(positions, self.n_items, f"{where}: sub-scenario {sub!r}").tolist()
            sizes[sub] = len(places)
            group_of |= {within.get(place, ""): sub for place in places}
        if group_of.keys() != set(within.values()) or sum(sizes.values()) != len(within):
            raise DataError(
                f"{where}: expected each item in one sub-scenario, got other items in subscenarios_position"
            )
        groups = [group_of[item] for item in within.values()]
        return groups, np.array([len(within) / (len(subs) * sizes[sub]) for sub in groups])

    def gp_irt_weight(self, scenario: str, where: str) -> float:
        weight = self.part("optimal_lambdas", scenario)
        if not (isinstance(weight, int | float) and 0 <= weight <= 1):
            raise DataError(f"{where}: expected a number in [0, 1] in optimal_lambdas, got another")
        return float(weight)


def _item_parameters(a: FloatArray, b: FloatArray, convention: str, where: str) -> ItemParameters:
    """Ours, from A (D, n) and B (D or 1, n)."""
    if convention == "a.theta-b" and len(b) > 1:
        raise ConfigError(
            f"{where}: expected B with one row for the convention 'a.theta-b', got {len(b)}; use 'tinybenchmarks'"
        )
    rows = {"tinybenchmarks": np.broadcast_to(b, a.shape), "a.theta-b": b, "py-irt": a * b}[convention]
    return ItemParameters(a.T, rows.sum(axis=0))


def _with_ids(
    found: Mapping[tuple[str, str], Calibration], item_ids: Sequence[str]
) -> dict[tuple[str, str], Calibration]:
    if len(found) > 1:
        raise ConfigError(f"item ids: expected one scenario, got {len(found)}; name it")
    ((key, calibration),) = found.items()
    if len(item_ids) != calibration.n_items:
        raise DataError(f"item ids: expected {calibration.n_items}, one for each item of {key[1]}, got {len(item_ids)}")
    responses, anchors = calibration.responses, calibration.anchors
    named = [item_ids[int(place)] for place in anchors.item_ids]
    return {
        key: replace(
            calibration,
            item_ids=tuple(item_ids),
            anchors=AnchorSet(tuple(named), anchors.weights, anchors.method),
            responses=ResponseMatrix(responses.values, (), item_ids, responses.item_groups, balance=responses.balance),
        )
    }


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    """``value``, a dict whose keys a person can read."""
    if not (isinstance(value, dict) and value and all(_is_name(key) for key in value)):
        raise DataError(f"{where}: expected names with values, as in tinyBenchmarks.pkl, got another content")
    return value


def _is_name(key: Any) -> bool:
    return isinstance(key, str) and key.isprintable() and len(key) <= 200


def _chosen(name: str | None, known: Iterable[str], what: str) -> list[str]:
    names = list(known)
    if name is not None and name not in names:
        raise ConfigError(f"{what}: expected one of the file's, got {name!r}{nearest(name, names)}")
    return names if name is None else [name]


def _parameters(value: Any, where: str) -> FloatArray:
    """``value[0]`` of shape (rows, items)."""
    if not (isinstance(value, np.ndarray) and value.ndim == 3 and len(value) == 1 and value.dtype.kind in "fiu"):
        got = f"shape {value.shape}" if isinstance(value, np.ndarray) else "something else"
        raise DataError(f"{where}: expected an array of numbers of shape (1, dimensions, items), got {got}")
    if not np.isfinite(value).all():
        raise DataError(f"{where}: expected finite numbers, got NaN or infinity; fetch the file again")
    return value[0].astype(np.float64)


def _numbers(value: Any, where: str) -> NDArray[Any]:
    """One dimension of finite numbers, from an array, list or tuple."""
    if isinstance(value, list | tuple) and all(type(one) in (int, float) for one in value):
        value = np.array(value, dtype=np.float64 if any(type(one) is float for one in value) else None)
    if not (
        isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in "fiu" and np.isfinite(value).all()
    ):
        raise DataError(f"{where}: expected a list of finite numbers, got something else")
    return value


def _positions(value: Any, n_items: int, where: str) -> NDArray[np.intp]:
    found = _numbers(value, where)
    if found.dtype.kind not in "iu" or (len(found) and not 0 <= found.min() <= found.max() < n_items):
        raise DataError(f"{where}: expected positions of {n_items} items, got others")
    return found.astype(np.intp)
