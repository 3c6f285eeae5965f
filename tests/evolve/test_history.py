"""What a record says of its search, against what it says by definition."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from merge3_plugin.config import parse_config
from merge3_plugin.evolve.history import History, Result, failures, read_history
from merge3_plugin.evolve.importance import FEWEST, design, importance, parts
from merge3_plugin.evolve.spaces.variables import Kind, Variable, When, described, read_variable
from merge3_plugin.evolve.store import RunStore
from merge3_plugin.report.history import render_importance, sparkline
from tests.evolve.test_store import SCHEMA_1

CONFIG = {"genome": {"models": ["a/m_1", "a/m_2"], "merge_method": "linear"}, "tasks": ["t"]}


def history(results, variables=(), vectors=None):
    return History(parse_config(CONFIG), results, variables, vectors or {}, {}, len(results), None)


@st.composite
def results(draw):
    """Results of few candidates, of which some fail, some are not complete, and some come again."""
    fitness = st.none() | st.integers(0, 4).map(float)
    values = st.tuples(st.integers(0, 3).map(float), st.integers(0, 3).map(float))
    one = st.builds(
        lambda name, fitness, complete, values, violation: Result(
            name, fitness, 0.1, {}, complete, 0, values, violation
        ),
        st.sampled_from("abcdefgh"),
        fitness,
        st.booleans(),
        values,
        st.sampled_from([0.0, 0.0, 0.5]),
    )
    return draw(st.lists(one, max_size=20))


@given(results())
def test_the_best_so_far_is_the_best_of_the_latest_results_by_then(results):
    series = {entry.candidates: entry.best for entry in history(results).best_so_far()}
    by_count = {}
    for end in range(1, len(results) + 1):
        latest = {result.candidate: result for result in results[:end]}
        counted = [r.rank for r in latest.values() if r.complete and r.fitness is not None]
        if counted:
            by_count[len(latest)] = max(counted)
    for count, rank in by_count.items():
        assert series[count].rank == rank


@given(results())
def test_the_front_is_what_no_other_dominates_among_those_that_break_constraints_least(results):
    known = history(results).ranked()
    least = min((r.violation for r in known), default=0.0)
    points = {r.values for r in known if r.violation == least}
    expected = {p for p in points if not any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in points)}
    front = history(results).front()
    assert {r.values for r in front} == expected and len(front) == len(expected)


def test_an_older_record_says_what_it_can(tmp_path):
    with sqlite3.connect(tmp_path / "run.sqlite") as db:
        db.executescript(SCHEMA_1)
        db.execute("INSERT INTO meta VALUES ('config', ?)", (json.dumps(CONFIG),))
        db.execute("INSERT INTO events VALUES (1, 'ask 0', '{\"vector\": [0.5], \"level\": 0}', 0.0)")
    db.close()
    store = RunStore.open(tmp_path)
    found = read_history(store)
    assert [(entry.candidates, entry.best.fitness) for entry in found.best_so_far()] == [(1, 0.7), (2, 0.7)]
    assert failures(store) == [("search", "boom", 1)]
    assert not found.vectors and importance(found).r_squared is None


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300))
def test_a_sparkline_goes_up_where_the_values_do(values):
    line = sparkline(values, width=60)
    assert len(line) == min(60, len(values))
    if len(values) <= 60:
        ordered = sorted(zip(values, line, strict=True))
        assert [bar for _, bar in ordered] == sorted(line)
    assert line[-1] == max(line) or values[-1] < max(values)


def tried(n, fitness, variables, seed=0, batches=1):
    """A history of ``n`` random candidates, whose fitness is that of their vectors with noise of variance 1."""
    rng = np.random.default_rng(seed)
    vectors = rng.random((n, len(variables)))
    noisy = [fitness(vector) + rng.standard_normal() for vector in vectors]
    found = [Result(str(i), float(y), 1.0, {}, True, i * batches // n) for i, y in enumerate(noisy)]
    return history(found, variables, {str(i): vector for i, vector in enumerate(vectors)})


def genes(number):
    return [Variable(f"m_{1 + i % 2}.weight[mlp] layers {i // 2}-{i // 2}", 0.0, 1.0, 0.5) for i in range(number)]


def test_the_gene_that_the_fitness_hangs_on_comes_first_with_how_well_it_is_predicted():
    # The variance of 6 x is 3, beside 1 of noise: nothing predicts more than three quarters.
    found = importance(tried(150, lambda x: 6 * x[3], genes(6)))
    assert found.told and 0.5 < found.r_squared < 0.8
    (first, lost), *others = found.genes.items()
    assert first == genes(6)[3].name and lost > 0.5 and all(abs(loss) < 0.1 for _, loss in others)
    assert found == importance(tried(150, lambda x: 6 * x[3], genes(6)))
    assert first in render_importance(asdict(found)) and "too noisy" not in render_importance(asdict(found))


def test_noise_is_called_noise():
    found = [importance(tried(40, lambda x: 0.0, genes(5), seed)) for seed in range(6)]
    assert sum(one.told for one in found) <= 1
    quiet = next(one for one in found if not one.told)
    assert "too noisy to tell" in render_importance(asdict(quiet)) and "R^2 lost" not in render_importance(
        asdict(quiet)
    )
    assert "too few to tell" in render_importance(asdict(importance(tried(FEWEST - 1, sum, genes(2)))))


def test_the_luck_of_a_batch_is_no_importance():
    rng = np.random.default_rng(1)
    luck, centres = 5 * rng.standard_normal(10), rng.random((10, 4))
    base = tried(100, lambda x: 0.0, genes(4), batches=10)
    shifted = [Result(r.candidate, r.fitness + luck[r.batch], 1.0, {}, True, r.batch) for r in base.results]
    vectors = {r.candidate: centres[r.batch] + 0.01 * base.vectors[r.candidate] for r in base.results}
    alone = [Result(r.candidate, r.fitness, 1.0, {}, True, 0) for r in shifted]
    assert importance(history(alone, base.variables, vectors)).told, "as one batch, it would be"
    assert not importance(history(shifted, base.variables, vectors)).told
    better = [Result(r.candidate, r.fitness + 600 * vectors[r.candidate][2], 1.0, {}, True, r.batch) for r in shifted]
    found = importance(history(better, base.variables, vectors))
    assert found.told and next(iter(found.genes)) == base.variables[2].name


def test_many_genes_are_shown_together_by_what_they_share():
    found = importance(tried(120, lambda x: 3 * sum(x[0:40:2]), genes(40)))
    assert found.told and set(found.groups) == {"model", "layers"}
    (first, most), (_, other) = found.groups["model"].items()
    assert first == "m_1" and most > 0.3 > abs(other)
    assert most > max(found.genes.values())


@pytest.mark.parametrize(
    ("name", "found"),
    [
        (
            "m_1.weight[mlp] layers 0-3",
            {"model": "m_1", "tensors": "mlp", "layers": "layers 0-3", "parameter": "weight"},
        ),
        ("ties: m_2.density", {"model": "m_2", "parameter": "ties: density"}),
        ("layer 3 m_1 place 2", {"model": "m_1", "layers": "layer 3", "parameter": "place 2"}),
        ("m_1.weight knot 2/4", {"model": "m_1", "layers": "knot 2/4", "parameter": "weight"}),
        ("t layers 0-7", {"layers": "layers 0-7", "parameter": "t"}),
        ("m_10.weight", {"parameter": "m_10.weight"}),
    ],
)
def test_the_parts_of_a_gene_s_name(name, found):
    assert parts(name, ["m_1", "m_2"]) == found


def test_a_gene_that_does_not_matter_is_at_its_start():
    chosen = When("method", frozenset({"ties"}))
    variables = [
        Variable("method", 0, 1, 0, Kind.CATEGORICAL, ("linear", "ties")),
        Variable("density", 0.0, 1.0, 0.5, when=chosen),
        Variable("copies", 0, 3, 1, Kind.INTEGER),
    ]
    vectors = np.array([[0.2, 0.9, 2.6], [0.9, 0.9, 7.0]])
    assert design(variables, vectors).tolist() == [[0, 0.5, 3], [1, 0.9, 3]]
    assert [read_variable(json.loads(json.dumps(described(variable)))) for variable in variables] == variables
