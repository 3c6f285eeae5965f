"""Offspring of whole numbers, choices and reals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merge3_plugin.evolve.optimizers.variation import Variation
from merge3_plugin.evolve.spaces.variables import Kind, Variable, draw

pytest.importorskip("pymoo")

COUNT = Variable("count", 0, 6, 3, Kind.INTEGER)
FLAG = Variable("flag", 0, 1, 0, Kind.INTEGER)
CHOICE = Variable("choice", 0, 4, 0, Kind.CATEGORICAL, tuple("abcde"))
SHARE = Variable("share", 0.0, 1.0, 0.5)


@st.composite
def any_variables(draw):
    found = []
    for i in range(draw(st.integers(1, 12))):
        kind = draw(st.sampled_from(Kind))
        if kind is Kind.CATEGORICAL:
            n = draw(st.integers(1, 5))
            found.append(Variable(f"v{i}", 0, n - 1, 0, kind, tuple("abcde"[:n])))
        elif kind is Kind.INTEGER:
            low = draw(st.integers(-5, 5))
            found.append(Variable(f"v{i}", low, low + draw(st.integers(0, 7)), low, kind))
        else:
            low = draw(st.sampled_from([-np.inf, -2.0, 0.0]))
            found.append(Variable(f"v{i}", low, draw(st.sampled_from([np.inf, 1.0])), 0.0))
    return found


def made(variables, seed=0, eta=20.0):
    return Variation(variables, np.random.default_rng(seed), eta)


def drawn(variables, n, seed=1):
    rng = np.random.default_rng(seed)
    return np.array([draw(variables, rng) for _ in range(n)])


@settings(max_examples=60, deadline=None)
@given(variables=any_variables(), seed=st.integers(0, 99), far=st.sampled_from([0.0, 3.0]))
def test_offspring_are_finite_settled_and_inside_all_limits(variables, seed, far):
    variation, population = made(variables, seed), drawn(variables, 40, seed)
    # Known points may lie where no draw does.
    open_ended = np.array([not np.isfinite(v.high) for v in variables])
    population[:10] += np.where(open_ended, far, 0.0)
    pairs = population.reshape(2, 20, -1)
    mated = variation.mated(pairs, 15.0)
    differed = variation.differed(population, np.array([population, population[::-1], np.roll(population, 7, 0)]), 0.9)
    for child in [*mated, *differed, *variation.mutated(population, 1.0)]:
        assert np.isfinite(child).all()
        assert child.tolist() == [v.settled(x) for v, x in zip(variables, child, strict=True)]


def test_whole_numbers_stay_whole_over_many_generations_and_reach_each_alike():
    variables = [COUNT, FLAG, SHARE, SHARE]
    variation, population = made(variables), drawn(variables, 500)
    for _ in range(20):  # 10,000 offspring of no selection
        population = variation.mated(population.reshape(2, 250, -1), 15.0)
        np.random.default_rng(len(population)).shuffle(population)
    assert (population[:, :2] == np.round(population[:, :2])).all()
    shares = np.bincount(population[:, 0].astype(int), minlength=7) / len(population)
    assert shares.min() > 0.05 and shares.max() < 0.3, "the ends are numbers like any other"


def test_a_mutation_of_a_whole_number_moves_it_though_it_is_shorter_than_a_step():
    variation = made([COUNT])
    before = np.full((4000, 1), 3.0)
    after = variation.mutated(before, 1.0)
    # Half of all mutate, as pymoo has it of one coordinate; none of those is rounded back to where it was.
    assert 0.45 < (after != before).mean() < 0.55
    assert {2.0, 4.0} <= set(after.ravel())


def test_choices_have_no_order():
    """A mutation leads to every other choice alike; a child of two has the choice of one of them, not one between."""
    variation = made([CHOICE])
    after = variation.mutated(np.full((8000, 1), 2.0), 1.0).ravel()
    others = np.bincount(after[after != 2.0].astype(int), minlength=5)
    assert others[2] == 0 and others[[0, 1, 3, 4]].min() > 0.9 * others[[0, 1, 3, 4]].max()

    many = [Variable(f"c{i}", 0, 4, 0, Kind.CATEGORICAL, tuple("abcde")) for i in range(200)]
    parents = np.array([np.zeros((200, 200)), np.full((200, 200), 4.0)])
    children = made(many).mated(parents, 15.0)
    assert np.isin(children, [0.0, 4.0]).mean() > 0.99, "but for the mutation of about one in 200"
    differed = made(many).differed(parents[0], np.array([parents[1], parents[0], parents[1]]), 0.5)
    assert np.isin(differed, [0.0, 4.0]).all() and 0.2 < (differed == 4.0).mean() < 0.45


def test_the_greater_eta_the_nearer_is_the_offspring():
    parents = np.array([np.full((2000, 1), 0.4), np.full((2000, 1), 0.6)])

    def moved(eta):
        children = made([SHARE], eta=eta).mated(parents, eta)
        return np.abs(children - np.where(children < 0.5, 0.4, 0.6)).mean()

    assert moved(50.0) < 0.5 * moved(3.0)
