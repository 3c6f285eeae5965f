"""Which items a place has, with which chances, and what estimates from them are worth."""

import itertools
from collections import Counter, defaultdict
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from merge3_plugin.calibrate import build_calibration
from merge3_plugin.evolve.fidelity.ladder import Ladder, Place, share, steps_below
from merge3_plugin.evolve.objectives import Objective, Objectives
from merge3_plugin.evolve.population import Population
from merge3_plugin.harness.scoring import Scores
from merge3_plugin.testing import simulate_merges
from tests.estimate.worlds import on_anchors, quick_calibration, row, with_anchors

N_ITEMS, N = 300, 45


def world(seed=0):
    responses = simulate_merges(3, 24, N_ITEMS, rng=np.random.default_rng(seed))
    return responses, responses.models(["p0", "p1", "p2"])


def objective(calibration, parents, estimator="difference", name="t"):
    return Objective(name, 1.0, Population(calibration.item_ids, ()), calibration, parents, estimator)


@pytest.fixture(scope="module", params=["stratified", "neyman", "mixed"])
def drawn(request):
    responses, parents = world()
    calibration = quick_calibration(responses, N, method=request.param, parents=parents, dimensions=(1,))
    return objective(calibration, parents)


def test_rungs_are_nested_and_further_draws_add_items(drawn):
    ladder = Ladder([drawn], seed=1)
    assert ladder.lowest == -2
    sizes = []
    for batch in (0, 3):
        sets = [set(ladder.items(Place((batch,), rung))["t"]) for rung in range(-2, 9)]
        assert all(below < above for below, above in itertools.pairwise(sets) if len(above) < N_ITEMS)
        assert sets[-1] == set(drawn.calibration.item_ids), "up to all search items"
        sizes.append([len(each) for each in sets[:3]])
    assert sizes == [[5, 15, 45], [5, 15, 45]]
    assert ladder.anchors("t", Place()) is drawn.calibration.anchors
    both = ladder.items(Place((0, 3)))["t"]
    assert set(both) == set(ladder.items(Place((0,)))["t"]) | set(ladder.items(Place((3,)))["t"])
    assert ladder.items(Place((3,)))["t"] != ladder.items(Place((4,)))["t"]


def test_the_same_seed_gives_the_same_items_whatever_was_asked_before(drawn):
    places = [Place((2,), -1), Place((0, 5)), Place((1,), 2)]
    first, second = Ladder([drawn], seed=4), Ladder([drawn], seed=4)
    assert [first.items(place) for place in places] == [second.items(place) for place in places[::-1]][::-1]
    assert Ladder([drawn], seed=5).items(places[0]) != first.items(places[0])


@pytest.mark.parametrize("place", [Place((1,), -2), Place((1,)), Place((1, 2)), Place((1,), 1)])
def test_every_item_is_there_as_often_as_its_probability_says(drawn, place):
    """So that the weighted sum of any scores is unbiased over the draws (Horvitz and Thompson)."""
    repeats, counts, stated, sums = 150, Counter(), {}, []
    scores = np.random.default_rng(0).random(N_ITEMS) ** 3
    truth = float(drawn.calibration.responses.item_weights @ scores)
    value = dict(zip(drawn.calibration.item_ids, scores / N_ITEMS, strict=True))
    for seed in range(repeats):
        anchors = Ladder([drawn], seed=seed).anchors("t", place)
        assert anchors.weights.sum() == pytest.approx(1.0)
        counts.update(anchors.item_ids)
        stated |= dict(zip(anchors.item_ids, anchors.inclusion, strict=True))
        sums.append(sum(value[i] / p for i, p in zip(anchors.item_ids, anchors.inclusion, strict=True)))
    observed = np.array([counts[item] / repeats for item in stated])
    chances = np.array(list(stated.values()))
    spread = np.sqrt(np.maximum(chances * (1 - chances), 1e-12) / repeats)
    assert np.abs((observed - chances) / spread).max() < 5 or (chances == 1).all()
    assert abs(np.mean(sums) - truth) < 4 * np.std(sums) / np.sqrt(repeats)


def test_spread_is_kept_below(drawn):
    """Each rung below spreads over the difficulty as the anchors do, which a random subset does not."""
    if drawn.calibration.anchors.method == "mixed":
        pytest.skip("a quarter of the anchors are chosen by another measure")
    difficulty = dict(zip(drawn.calibration.item_ids, drawn.calibration.responses.values.mean(axis=0), strict=True))
    rng, kept, chance = np.random.default_rng(0), [], []
    for seed in range(150):
        ladder = Ladder([drawn], seed=seed)
        anchors = ladder.items(Place())["t"]
        centre = np.mean([difficulty[i] for i in anchors])
        kept.append(np.mean([difficulty[i] for i in ladder.items(Place((0,), -2))["t"]]) - centre)
        chance.append(np.mean([difficulty[i] for i in rng.choice(anchors, 5, replace=False)]) - centre)
    assert np.std(kept) < 0.6 * np.std(chance)


def test_chosen_anchors_stay_in_every_batch_and_have_further_items_beside():
    responses, parents = world()
    calibration = quick_calibration(responses, N, method="stratified", parents=parents, dimensions=(1,))
    chosen = objective(with_anchors(calibration, calibration.anchors.item_ids), parents)
    ladder = Ladder([chosen], seed=0)
    assert ladder.batch(7) == 0 and ladder.items(Place((7,))) == ladder.items(Place())
    more = ladder.anchors("t", Place((0,), 2))
    assert len(more) == 3 * N and set(chosen.anchors) < set(more.item_ids) and more.inclusion is None
    weights = dict(zip(more.item_ids, more.weights, strict=True))
    beside = [weights[item] for item in more.item_ids if item not in chosen.anchors]
    assert beside == pytest.approx([1 / N_ITEMS] * (2 * N)), "what was not drawn stands for itself"
    below = ladder.anchors("t", Place((0,), -1))
    assert len(below) == 15 and below.inclusion is None


def test_all_search_items_leave_nothing_to_draw():
    responses, parents = world()
    calibration = quick_calibration(responses, N_ITEMS, method="stratified", parents=parents, dimensions=(1,))
    ladder = Ladder([objective(calibration, parents)], seed=0)
    assert ladder.batch(3) == 0 and len(ladder.items(Place((0,), 4))["t"]) == N_ITEMS
    assert len(ladder.items(Place((0,), -1))["t"]) == 100


def test_places_add_up():
    assert Place((0,)).joined(Place((2,), 1)) == Place((0, 2), 1)
    assert Place((0, 2), 3).joined(Place((0,))) == Place((0, 2), 3)
    assert Place((4, 1)).newest == 1, "the last that was added, not the greatest"
    assert Place((0,), -1).complete is False and Place((0,), 2).complete


@pytest.mark.parametrize(
    ("anchors", "fewest", "eta", "steps"),
    [
        ([1000], 100, 3, 2),
        ([1000], 111, 3, 2),
        ([1000], 112, 3, 1),
        ([243], 1, 3, 5),  # floor(log) without a guard says 4
        ([50], None, 3, 2),
        ([50, 9], None, 2, 2),
        ([50], 50, 3, 0),
        ([2], None, 3, 1),
        ([1], None, 3, 0),
        ([], None, 3, 0),
    ],
)
def test_how_many_rungs_there_are(anchors, fewest, eta, steps):
    assert steps_below(anchors, fewest, eta) == steps
    if anchors and fewest:
        assert share(min(anchors), eta, -steps) >= fewest


def test_tasks_have_rungs_of_their_own_sizes():
    responses, parents = world()
    tasks = [
        objective(quick_calibration(responses, n, method="stratified", dimensions=(1,)), parents, name=name)
        for n, name in ((40, "a"), (12, "b"))
    ]
    ladder = Ladder(tasks, seed=0, eta=2)
    sizes = [{task: len(of) for task, of in ladder.items(Place((0,), rung)).items()} for rung in (-2, -1, 0)]
    assert ladder.share(Place((0,), -2)) == 13 / 52 and ladder.share(Place((3,), 2)) == 1.0
    assert sizes == [{"a": 10, "b": 3}, {"a": 20, "b": 6}, {"a": 40, "b": 12}]


@cache
def calibrated(seed):
    """A world, its calibration by half of its merges, and the other half."""
    responses, parents = world(seed)
    known = responses.models([f"m{k}" for k in range(12)])
    return responses, parents, build_calibration(known, N, seed=seed, parents=parents), [f"m{k}" for k in range(12, 24)]


@pytest.mark.parametrize("estimator", ["auto", "difference", "gmp-irt"])
def test_intervals_hold_on_every_rung_and_so_do_those_of_differences(estimator):
    """Coverage of the accuracy and of paired differences, by merges that the calibration has not seen."""
    places = [Place((b,), rung) for b in (0, 1, 2) for rung in (-2, -1, 0)] + [Place((0, 1, 2)), Place((1,), 2)]
    single, paired, widths = defaultdict(list), defaultdict(list), defaultdict(list)
    for seed in range(4):
        responses, parents, calibration, new = calibrated(seed)
        one = objective(calibration, parents, estimator)
        objectives, ladder = Objectives([one], {}, {"t": "t"}), Ladder([one], seed=seed)
        truth = dict(zip(responses.model_ids, responses.accuracy(), strict=True))
        for place in places:
            there = Objectives([one.on(ladder.anchors("t", place))], {}, {"t": "t"})
            rung = place.rung if place.rung < 0 else len(place.batches) + place.rung
            found = {}
            for model in new:
                answers = on_anchors(there.items[0].calibration, row(responses, model))
                found[model] = there.assess({"t": Scores(answers, {})}, {})
                low, high = found[model].estimates["t"].interval
                single[rung].append(low <= truth[model] <= high)
                widths[rung].append(high - low)
            for first, second in zip(new[::2], new[1::2], strict=True):
                low, high = objectives.difference(found[first], found[second]).interval
                paired[rung].append(low <= truth[first] - truth[second] <= high)
    # 144 estimates a rung: three standard errors of 0.95 are 0.055, and more as those of one draw share its luck.
    assert min(np.mean(of) for of in single.values()) >= 0.87
    assert min(np.mean(of) for of in paired.values()) >= 0.85
    mean_widths = [float(np.mean(widths[rung])) for rung in sorted(widths)]
    assert mean_widths == sorted(mean_widths, reverse=True) and mean_widths[0] < 0.9


def test_what_was_measured_at_the_anchors_is_not_promised_to_shrink_above_them():
    """An estimator's own error, which no draw of anchors averages out, stays however many anchors there are."""
    responses, parents, calibration, new = calibrated(0)
    one = objective(calibration, parents, "p-irt")
    twice = one.on(Ladder([one], seed=0).anchors("t", Place((0, 1))))
    naive = replace(one, calibration=replace(calibration, anchors=twice.calibration.anchors))
    answers = on_anchors(twice.calibration, row(responses, new[0]))
    honest, other = (o.estimated(Scores(answers, {})).estimate.standard_error for o in (twice, naive))
    assert honest > other
