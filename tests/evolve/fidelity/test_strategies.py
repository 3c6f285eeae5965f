"""Who goes up a rung."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from merge3_plugin.config.search import FidelityConfig
from merge3_plugin.estimate.paired import PairedDifference
from merge3_plugin.evolve.evaluate import Candidate
from merge3_plugin.evolve.fidelity.brackets import brackets, by_rank, halving, hyperband
from merge3_plugin.evolve.fidelity.ladder import Ladder, Place
from merge3_plugin.evolve.fidelity.strategies import MISSED, Promotion, Racing
from merge3_plugin.evolve.front import by_fronts
from merge3_plugin.evolve.objectives import Assessment, Objective, Objectives
from merge3_plugin.evolve.optimizers import Trial
from merge3_plugin.evolve.population import Population
from merge3_plugin.evolve.search import Scored
from merge3_plugin.evolve.searching import make_fidelity
from merge3_plugin.harness.scoring import Scores
from merge3_plugin.testing import simulate_merges
from tests.estimate.worlds import on_anchors, quick_calibration


def entry(fitness, rung=0, violation=0.0, batch=0, values=()):
    failed = fitness is None or values is None
    assessment = None if failed else Assessment({}, {}, fitness, 0.1, 0.0, values, violation=violation)
    return Scored(Candidate(f"{fitness} {values}"), np.zeros(1), assessment, Place((batch,), rung))


def trial(number):
    return Trial(number, np.zeros(1))


def test_hyperbands_table():
    """100 to 1,000 items, eta 3 (H1 of the specification), and 1 to 81, the table of the paper."""
    assert brackets(2, 3) == [[9, 3, 1], [5, 1], [3]]
    assert brackets(4, 3) == [[81, 27, 9, 3, 1], [34, 11, 3, 1], [15, 5, 1], [8, 2], [5]]
    assert brackets(0, 3) == [[1]]


def test_fixed_promotes_nobody():
    fixed = make_fidelity(FidelityConfig(), Ladder([], seed=0), lambda first, second, confidence: None, several=False)
    assert fixed.start(trial(0), 0) == 0
    fixed.hear(0, entry(0.9), None)
    assert fixed.promote() is None


@given(st.lists(st.one_of(st.none(), st.integers(0, 6)), min_size=1, max_size=40), st.integers(2, 4))
def test_halving_promotes_the_best_share_of_each_rung_once(values, eta):
    """Told in any order, who goes up was among the best 1 / eta of the rung when it went, and all that are due go."""
    asha = halving(-2, eta, by_rank)
    heard, gone = {-2: {}, -1: {}, 0: {}}, {-2: [], -1: []}
    rank = {n: (-math.inf if value is None else value, -n) for n, value in enumerate(values)}
    for number, value in enumerate(values):
        assert asha.start(trial(number), 0) == -2
        heard[-2][number] = rank[number]
        asha.hear(number, entry(value, -2), None)
        while (due := asha.promote()) is not None:
            below = due.rung - 1
            better = sum(other > rank[due.trial] for other in heard[below].values())
            assert better < len(heard[below]) // eta and due.trial not in gone[below]
            assert values[due.trial] is not None
            gone[below].append(due.trial)
            heard[due.rung][due.trial] = rank[due.trial]
            asha.hear(due.trial, entry(values[due.trial], due.rung), None)
        for rung, known in gone.items():
            best = sorted(heard[rung], key=lambda n: heard[rung][n], reverse=True)[: len(heard[rung]) // eta]
            assert {n for n in best if values[n] is not None} <= set(known)


def test_halving_compares_within_a_batch():
    asha = halving(-1, 2, by_rank)
    for number, (batch, value) in enumerate([(1, 0.9), (2, 0.1), (2, 0.2), (1, 0.8)]):
        asha.start(trial(number), batch)
        asha.hear(number, entry(value, -1, batch=batch), None)
    assert {asha.promote(), asha.promote()} == {Promotion(0, 0), Promotion(2, 0)} and asha.promote() is None


@pytest.mark.parametrize("order", [by_rank, by_fronts])
@pytest.mark.parametrize("size", [2, 4, 11])
def test_small_batches_get_to_all_anchors_in_their_share(order, size):
    """A third from each rung, however few a batch has, and a few who were among the best for a while; none twice."""
    asha, rng = halving(-4, 3, order), np.random.default_rng(0)
    values, heard, gone = rng.random(400), dict.fromkeys(range(-4, 1), 0), []
    for number, value in enumerate(values):
        batch = number // size
        going = Promotion(number, asha.start(trial(number), batch))
        while going is not None:
            heard[going.rung] += 1
            batch, value = going.trial // size, values[going.trial]
            asha.hear(going.trial, entry(value, going.rung, batch=batch, values=(value, -value)), None)
            going = asha.promote()
            gone.append(going)
    promoted = [going for going in gone if going is not None]
    assert len(set(promoted)) == len(promoted)
    assert all(heard[rung] // 3 <= heard[rung + 1] < heard[rung] / 2 for rung in (-4, -3, -2, -1))


def test_what_batches_leave_of_their_rungs_share_goes_to_the_best_of_all():
    asha = halving(-1, 3, by_rank)
    for number, (batch, value) in enumerate([(1, 0.2), (1, 0.4), (2, None), (2, 0.3), (3, 0.5), (3, 0.1)]):
        asha.start(trial(number), batch)
        asha.hear(number, entry(value, -1, batch=batch), None)
        expected = {2: Promotion(1, 0), 5: Promotion(4, 0)}.get(number)
        assert [asha.promote(), asha.promote()] == [expected, None]


def test_halving_of_several_objectives_promotes_front_by_front_well_spread():
    """Of eight, the two ends of the first front; then, as more come, its midst before what it dominates."""
    asha = halving(-1, 4, by_fronts)
    first = [(0.2, 0.2), (0.9, 0.0), (0.5, 0.5), (0.1, 0.1), None, (0.0, 0.9), (0.4, 0.4), (0.55, 0.45)]
    for number, values in enumerate(first):
        assert asha.start(trial(number), 0) == -1
        asha.hear(number, entry(0.0, -1, values=values), None)
    assert set(iter(asha.promote, None)) == {Promotion(1, 0), Promotion(5, 0)}
    for number in range(8, 16):
        asha.start(trial(number), 0)
        asha.hear(number, entry(0.0, -1, values=(0.3, 0.3)), None)
    assert {asha.promote(), asha.promote(), asha.promote()} == {Promotion(2, 0), Promotion(7, 0), None}


def test_higher_rungs_go_first():
    asha = halving(-2, 2, by_rank)
    for number, rung in enumerate([-2, -2, -2, -2, -1, -1]):
        asha.start(trial(number), 0)
        asha.hear(number, entry(0.1 * number, rung), None)
    assert asha.promote() == Promotion(5, 0)


def test_hyperband_gives_every_bracket_its_share():
    found = [hyperband_starts([0] * 170), hyperband_starts([n // 10 for n in range(1, 1701)])]
    for starts, scale in zip(found, (10, 100), strict=True):
        counts = [starts.count(rung) / scale for rung in (-2, -1, 0)]
        assert counts == pytest.approx([9, 5, 3], abs=0.2 if scale == 10 else 0.7)
    grouped = [set(found[1][n : n + 10]) for n in range(9, 1689, 10)]
    assert all(len(rungs) == 1 for rungs in grouped), "a batch is compared within itself, so it goes to one bracket"


def hyperband_starts(batches):
    strategy = hyperband(-2, 3, by_rank)
    return [strategy.start(trial(number), batch) for number, batch in enumerate(batches)]


def test_brackets_are_halved_apart():
    strategy = hyperband(-1, 2, by_rank)
    starts = {number: strategy.start(trial(number), 0) for number in range(12)}
    for number, rung in starts.items():
        strategy.hear(number, entry(number / 12, rung), None)
    promoted = set(iter(strategy.promote, None))
    lower = [number for number, rung in starts.items() if rung == -1]
    assert promoted == {Promotion(number, 0) for number in sorted(lower)[-(len(lower) // 2) :]}


def difference_of(values):
    """Differences with these intervals, by the fitness of the first."""

    def difference(first, second, confidence):
        low, high = values[first.assessment.fitness]
        return PairedDifference((low + high) / 2, 0.1, (low, high), confidence, 10)

    return difference


def test_racing_goes_on_until_a_win_is_excluded():
    difference = difference_of({0.1: (-0.3, -0.01), 0.2: (-0.3, 0.01), 0.3: (0.1, 0.2)})
    racing = Racing(-2, difference, lambda entry: 0.0)
    best = entry(0.5)
    assert racing.start(trial(0), 0) == -2
    for number, fitness in enumerate((0.1, 0.2, 0.3, None)):
        racing.hear(number, entry(fitness, -2), best)
    assert [racing.promote() for _ in range(3)] == [Promotion(1, -1), Promotion(2, -1), None]
    racing.hear(1, entry(0.2, -1), best)
    racing.hear(1, entry(0.2, -1), best)  # known anew: the same look
    racing.hear(2, entry(0.3, 0), best)
    assert [racing.promote() for _ in range(2)] == [Promotion(1, 0), None]


def test_what_is_known_of_all_anchors_narrows_the_interval():
    difference = difference_of({0.1: (-0.3, 0.1)})
    for share, goes_on in ((0.0, True), (0.74, True), (0.76, False)):
        racing = Racing(-1, difference, lambda entry, share=share: share)
        racing.hear(0, entry(0.1, -1), entry(0.5))
        assert (racing.promote() is not None) is goes_on


def test_racing_gives_up_nobody_for_an_incumbent_that_breaks_constraints_or_is_none():
    racing = Racing(-1, difference_of({0.1: (-0.3, -0.2)}), lambda entry: 0.0)
    racing.hear(0, entry(0.1, -1), entry(0.5, violation=0.01))
    racing.hear(1, entry(0.1, -1), None)
    assert [racing.promote(), racing.promote()] == [Promotion(0, 0), Promotion(1, 0)]


def test_racing_keeps_who_would_win_and_gives_up_who_is_far_behind():
    """With real intervals: of candidates a little better than the incumbent few are lost, of poor ones most go."""
    lost, poor = [], []
    rng = np.random.default_rng(0)
    for seed in range(6):
        responses = simulate_merges(3, 40, 400, rng=np.random.default_rng(seed))
        parents = responses.models(["p0", "p1", "p2"])
        train = responses.models(["p0", "p1", "p2", *(f"m{k}" for k in range(10))])
        calibration = quick_calibration(train, 90, method="stratified", parents=parents, dimensions=(1,))
        one = Objective("t", 1.0, Population(calibration.item_ids, ()), calibration, parents, "difference")
        objectives, ladder = Objectives([one], {}, {"t": "t"}), Ladder([one], seed=seed)

        def scored(answers, place, one=one, ladder=ladder):
            there = Objectives([one.on(ladder.anchors("t", place))], {}, {"t": "t"})
            known = dict(zip(one.calibration.item_ids, answers, strict=True))
            found = there.assess({"t": Scores(on_anchors(there.items[0].calibration, known), {})}, {})
            return Scored(Candidate("c"), np.zeros(1), found, place)

        def difference(first, second, confidence, objectives=objectives):
            return objectives.difference(first.assessment, second.assessment, confidence=confidence)

        best = responses.values[responses.accuracy().argmax()]
        incumbent = scored(best, Place())
        racing = Racing(ladder.lowest, difference, lambda entry, ladder=ladder: ladder.share(entry.place))
        assert ladder.lowest == -2
        for number in range(60):
            good = number % 2 == 0
            answers = best.copy()
            flipped = rng.random(400) < (0.2 if good else 0.5)
            answers[flipped] = rng.random(int(flipped.sum())) < (best.mean() + 0.03 if good else 0.1)
            rung = ladder.lowest
            while True:
                racing.hear(number, scored(answers, Place((0,), rung)), incumbent)
                if (going := racing.promote()) is None or going.rung == 0:
                    break
                rung = going.rung
            in_all = difference(scored(answers, Place()), incumbent, 0.95)
            if good and in_all.difference > 0:
                lost.append(going is None)
            elif not good:
                poor.append(going is None)
    assert len(lost) > 40 and np.mean(lost) <= MISSED
    assert np.mean(poor) > 0.3
