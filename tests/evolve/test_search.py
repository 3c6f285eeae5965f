"""The loop: order, replay, budgets and ends, on a toy; whole searches of real models are in test_run."""

import contextlib
import itertools

import numpy as np
import pytest

from merge3_plugin.errors import RunError
from merge3_plugin.evolve.evaluate import Candidate
from merge3_plugin.evolve.fidelity.ladder import Place
from merge3_plugin.evolve.objectives import Assessment
from merge3_plugin.evolve.search import Scored, ranked
from merge3_plugin.evolve.setting import Watcher
from merge3_plugin.evolve.store import RunStore
from tests.evolve.toy import KNOWN, N_ANCHORS, N_ITEMS, TOKENS, Model, Shuffled, Toy, in_batches, in_one_batch

STRATEGIES = ["fixed", "racing", "halving", "hyperband"]


def scored(number, fitness, tie_breaker=0.0, rung=0):
    assessment = None if fitness is None else Assessment({}, {}, fitness, 0.0, tie_breaker)
    return Scored(Candidate(str(number)), np.zeros(1), assessment, Place((0,), rung))


def test_ranked_names_every_candidate_once_best_first():
    entries = [scored(0, 0.5, 0.2), scored(1, 0.5, 0.9), scored(2, None), scored(1, 0.5, 0.9), scored(3, 0.6)]
    assert [s.candidate.id for s in ranked([*entries, scored(4, 0.5, 0.2)])] == ["3", "1", "0", "4"]


def test_ranked_believes_what_was_scored_last_and_on_all_anchors():
    entries = [scored(0, 0.5), scored(1, 0.9, rung=-1), scored(2, 0.8), scored(2, 0.4), scored(3, 0.7), scored(3, None)]
    assert [s.candidate.id for s in ranked(entries)] == ["0", "2"]
    assert [s.candidate.id for s in ranked([scored(0, 0.5, rung=-2), scored(1, 0.9, rung=-1)])] == ["1", "0"]


class Killed(BaseException):
    """Ends a process at once: nothing in the search may catch it."""


def fatal(write: int, *, before: bool):
    """A record under which the process ends at its n-th write: before that is on the disk, or after."""

    class Fatal(RunStore):
        left = write

        def __init__(self, folder):
            super().__init__(folder)
            self._known = {name for name, _ in self.events()}

        def add(self, evaluation):
            self._write(lambda: super(Fatal, self).add(evaluation))

        def event(self, name, body):
            if name in self._known:
                return super().event(name, body)
            return self._write(lambda: super(Fatal, self).event(name, body))

        def _write(self, step):
            self.left -= 1
            if before and self.left == 0:
                raise Killed
            found = step()
            if self.left == 0:
                raise Killed
            return found

    return Fatal


@pytest.mark.parametrize(("strategy", "workers"), [("fixed", 1), *((name, 3) for name in STRATEGIES)])
def test_a_search_killed_anywhere_goes_on_as_if_it_had_not_been(tmp_path, strategy, workers):
    settings = {"search": {"max_fevals": 14}, "fidelity": {"strategy": strategy}, "recalibrate": 4}
    unbroken = Toy(tmp_path / "unbroken", **settings)
    executor = Shuffled(workers)
    expected = unbroken.search(executor, in_batches)
    assert executor.most == workers
    steps = [name for name, _ in unbroken.store.events()]
    told = [int(name.split()[1]) for name in steps if name.startswith("tell")]
    assert (told == sorted(told)) == (workers == 1) and "recalibration 2" in steps
    writes = len(steps) + int(unbroken.store.spent()["search"]["evaluations"])
    for write in range(1, writes, 13):
        folder = tmp_path / f"{write}"
        with pytest.raises(Killed):
            Toy(folder, store=fatal(write, before=write % 2 == 0), **settings).search(Shuffled(workers), in_batches)
        with contextlib.suppress(Killed):  # and once more soon after it was taken up again
            Toy(folder, store=fatal(9, before=True), **settings).search(Shuffled(workers), in_batches)
        resumed = Toy(folder, **settings)
        found = resumed.search(Shuffled(workers), in_batches)
        assert resumed.record() == unbroken.record()
        assert [(s.candidate.id, s.rank, s.place) for s in found.scored] == [
            (s.candidate.id, s.rank, s.place) for s in expected.scored
        ]
        assert found.reason == expected.reason and resumed.spent == unbroken.spent
        resumed.store.close()


def test_what_is_in_flight_follows_the_record_and_then_goes_on_live(tmp_path):
    """Under another executor the recorded part stays, whatever order that one would have had."""
    first = Toy(tmp_path / "out", search={"max_fevals": 8})
    first.search(Shuffled(3), in_batches)
    before = [step for step in first.store.events() if step[0].split()[0] in ("ask", "tell")]
    first.store.close()
    more = Toy(tmp_path / "out", search={"max_fevals": 16})
    more.search(Shuffled(2), in_batches)
    after = [step for step in more.store.events() if step[0].split()[0] in ("ask", "tell")]
    assert after[: len(before)] == before and len(after) > len(before)
    assert {name for name, _ in after} == {f"{kind} {n}" for kind in ("ask", "tell") for n in range(len(after) // 2)}


def test_a_record_that_went_otherwise_is_noticed(tmp_path):
    toy = Toy(tmp_path / "out", search={"max_fevals": 6})
    toy.search(Shuffled(3), in_batches)
    with pytest.raises(RunError, match="'ask 1' to go as recorded"):
        Toy(tmp_path / "out", seed=1, search={"max_fevals": 6}).search(Shuffled(3), in_batches)
    toy.store._db.execute("UPDATE events SET name = 'tell 77' WHERE name = 'tell 2'")
    with pytest.raises(RunError, match="step 77 .*went otherwise"):
        Toy(tmp_path / "out", search={"max_fevals": 6}).search(Shuffled(3), in_batches)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("workers", [1, 3])
def test_no_budget_is_ever_passed(tmp_path, strategy, workers):
    limits = [
        ("items", "item evaluations", range(N_ANCHORS - 1, 9 * N_ANCHORS, 23)),
        ("tokens", "tokens", range(TOKENS, 900, 131)),
    ]
    for unit, words, budgets in limits:
        for budget in budgets:
            settings = {"search": {f"max_{unit}": budget, "max_fevals": 99}, "fidelity": {"strategy": strategy}}
            toy = Toy(tmp_path / f"{unit} {budget}", **settings)
            found = toy.search(Shuffled(workers), in_batches)
            spent = toy.store.spent().get("search", {unit: 0})[unit]
            assert spent == getattr(toy.spent, unit) <= budget
            assert f"the budget of {budget:,} {words} is spent" in found.reason
            # Nothing that would have fitted is left out, but for what others in flight were thought to take.
            assert budget - spent < N_ANCHORS * (1 if unit == "items" else TOKENS) * (1 + 2 * workers)
            toy.store.close()


@pytest.mark.parametrize("workers", [1, 3])
def test_candidates_in_flight_count_against_their_budget(tmp_path, workers):
    toy = Toy(tmp_path / "out", search={"max_fevals": 7}, fidelity={"strategy": "racing"})
    found = toy.search(Shuffled(workers), in_batches)
    assert len(found.scored) == 7 and found.reason.startswith("the budget of 7 candidates is spent")


def test_more_budget_goes_on_with_the_same_search(tmp_path):
    """Of any kind; and where the first one ended is not to be seen in what the search does then."""
    records = []
    for unit, few, many in (("items", 90, 260), ("tokens", 600, 1800), ("fevals", 6, 18), ("patience", 3, 9)):
        base = {} if unit in ("fevals", "patience") else {"max_fevals": 99}
        name = unit if unit == "patience" else f"max_{unit}"
        block = {"fidelity": {"strategy": "racing"}, "recalibrate": 5}
        for limit in (few, many):
            toy = Toy(tmp_path / unit, search={**base, name: limit}, **block)
            toy.search(strategy=in_batches)
        once = Toy(tmp_path / f"{unit} at once", search={**base, name: many}, **block)
        once.search(strategy=in_batches)
        steps = [[step for step in each.store.events() if step[0] != "search budget"] for each in (toy, once)]
        assert steps[0] == steps[1]
        records.append(len(steps[0]))
    assert min(records) > 20


def test_the_incumbent_is_judged_anew_on_the_anchors_of_each_batch(tmp_path):
    toy = Toy(tmp_path / "out", search={"max_fevals": 33})
    found = toy.search(strategy=in_batches)
    steps = dict(toy.store.events())
    again = [(name, body) for name, body in steps.items() if name.startswith("ask") and body["again"]]
    assert len(again) >= 6, "eight batches, and the best of a batch need not go to it"
    for name, body in again:
        told = steps[name.replace("ask", "tell")]
        assert told["items"] > N_ANCHORS >= told["paid"] > 0 and len(told["batches"]) == len(body["batches"]) > 1
    best = found.ranked()[0]
    assert best.rank == max(entry.rank for entry in found.scored)
    assert [i.best.candidate.id for i in toy.improvements][-1] == best.candidate.id
    fixed = Toy(tmp_path / "fixed", search={"max_fevals": 33}, fidelity={"fresh": False})
    fixed.search(strategy=in_batches)
    assert fixed.store.spent()["search"]["items"] == N_ANCHORS * 33


def test_judging_the_incumbent_anew_makes_its_estimate_honest(tmp_path):
    """The best of many noisy estimates is a lucky one; on further items its luck is gone."""
    optimism = {}
    for fresh in (False, True):
        errors = []
        for seed in range(8):
            toy = Toy(tmp_path / f"{fresh} {seed}", seed=seed, search={"max_fevals": 49}, fidelity={"fresh": fresh})
            best = toy.search(strategy=in_batches).ranked()[0]
            errors.append(best.assessment.fitness - toy.model.answers(best.vector).mean())
            toy.store.close()
        optimism[fresh] = float(np.mean(errors))
    assert optimism[False] > 0.08 and optimism[True] < 0.6 * optimism[False]


def test_a_streak_of_failures_ends_the_search_and_the_best_stays(tmp_path):
    toy = Toy(tmp_path / "out", Model(breaks=0.15), search={"max_fevals": 99, "max_failures": 6})
    found = toy.search(strategy=in_batches)
    assert found.reason.startswith("6 candidates in a row failed")
    again = {name.split()[1] for name, body in toy.store.events() if name.startswith("ask") and body["again"]}
    steps = [(*name.split(), body) for name, body in toy.store.events() if name.startswith("tell")]
    told = [body["values"] for _, number, body in steps if number not in again]
    assert told[-6:] == [None] * 6 and told[0] is not None
    assert np.array_equal(found.ranked()[0].vector, KNOWN[0]) and "overflow" in toy.store.last_error("search")


def test_a_streak_is_broken_by_a_success(tmp_path):
    toy = Toy(tmp_path / "out", Model(breaks=0.7), search={"max_fevals": 40, "max_failures": 6})
    found = toy.search(strategy=in_batches)
    failed = [entry.assessment is None for entry in found.scored]
    longest = max(len(list(run)) for is_failed, run in itertools.groupby(failed) if is_failed)
    assert sum(failed) > 6 > longest and found.reason == "the budget of 40 candidates is spent"


def test_patience_counts_candidates_without_a_better_one(tmp_path):
    toy = Toy(tmp_path / "out", search={"max_fevals": 99, "patience": 5})
    found = toy.search(strategy=in_one_batch)
    assert found.reason == "none of the last 5 candidates was better than the best before"
    assert len(found.scored) == toy.improvements[-1].number + 5


@pytest.mark.parametrize(("slope", "ends"), [(0.0, True), (6.0, False)])
def test_noise_ends_a_search_where_there_is_nothing_else(tmp_path, slope, ends):
    toy = Toy(tmp_path / "out", Model(slope), search={"max_fevals": 90, "stop_at_noise": True})
    found = toy.search(strategy=in_batches)
    assert ("no improvement is detectable" in found.reason) is ends
    assert (len(found.scored) < 90) is ends and len(found.scored) >= 40


@pytest.mark.parametrize("strategy", ["halving", "hyperband", "racing"])
def test_only_what_was_scored_on_all_anchors_can_win(tmp_path, strategy):
    toy = Toy(tmp_path / "out", Model(slope=6.0), search={"max_fevals": 30}, fidelity={"strategy": strategy})
    found = toy.search(strategy=in_one_batch)
    rungs = {entry.rung for entry in found.scored}
    assert min(rungs) < 0 <= max(rungs)
    assert all(entry.complete for entry in found.ranked()) and all(i.best.complete for i in toy.improvements)
    assert found.scored[0].complete, "known points are scored on all anchors"
    assert toy.spent.items < (1.0 if strategy == "racing" else 0.8) * 30 * N_ANCHORS
    told = [body for name, body in toy.store.events() if name.startswith("tell")]
    by_trial = {body["trial"]: body for body in told}
    assert all(
        b["items"] == sum(o["paid"] for o in told if o["candidate"] == b["candidate"]) for b in by_trial.values()
    )


def test_the_best_own_merge_is_completed_where_none_was(tmp_path):
    """Two candidates of the lowest rung: halving has nobody to promote yet."""
    settings = {"fidelity": {"strategy": "halving"}}
    toy = Toy(tmp_path / "out", search={"max_fevals": 3}, **settings)
    found = toy.search(strategy=in_one_batch)
    assert found.reason.endswith("; the best of its merges was scored on all anchors then")
    own = [entry for entry in found.scored if entry.candidate.id != found.scored[0].candidate.id]
    assert sorted(entry.rung for entry in own) == [-2, 0]
    poor = Toy(tmp_path / "poor", search={"max_fevals": 3, "max_items": N_ANCHORS + 5}, **settings)
    assert poor.search(strategy=in_one_batch).reason.endswith("; none of its merges could be scored on all anchors")
    assert poor.spent.items <= N_ANCHORS + 5
    more = Toy(tmp_path / "out", search={"max_fevals": 20}, **settings)
    more.search(strategy=in_one_batch)
    once = Toy(tmp_path / "once", search={"max_fevals": 20}, **settings)
    once.search(strategy=in_one_batch)
    told = [[body["values"] for name, body in t.store.events() if name.startswith("tell")] for t in (more, once)]
    assert told[0] == told[1]


def test_an_interrupted_search_begins_nothing_more(tmp_path):
    class Stop(Watcher):
        seen = 0

        def scored(self, entry):
            self.seen += 1

        def stop_reason(self):
            return "the timeout of 3 s has passed" if self.seen >= 5 else None

    toy = Toy(tmp_path / "out", search={"max_fevals": 30}, fidelity={"strategy": "halving"})
    toy.watcher = Stop()
    found = toy.search(Shuffled(3), in_one_batch)
    assert found.reason.startswith("the timeout of 3 s has passed")
    # What was in flight is finished: it is paid for.
    assert len(toy.store.scored("search")) == 7 and len(found.scored) <= 7


@pytest.mark.parametrize("level", [1, 3, 20])
def test_a_level_asks_for_further_items(tmp_path, level):
    def asked_again(config, variables, rng, *, budget, known):
        strategy = in_one_batch(config, variables, rng, budget=budget, known=known)
        ask, first = strategy.ask, []

        def twice(n):
            (trial,) = ask(n)
            first.append(trial.vector)
            return [type(trial)(trial.number, first[0], level if len(first) > 1 else 0)]

        strategy.ask = twice
        return strategy

    toy = Toy(tmp_path / "out", search={"max_fevals": 3})
    found = toy.search(strategy=asked_again)
    _, entry = found.scored
    assert entry.rung == level and entry.complete
    if level == 20:
        truth = toy.model.answers(entry.vector).mean()
        assert entry.n_items == N_ITEMS and entry.assessment.fitness == pytest.approx(truth)
        assert entry.assessment.standard_error == pytest.approx(0.0, abs=1e-9)
    else:
        assert N_ANCHORS < entry.n_items <= N_ANCHORS * (level + 1)
    paid = [body["paid"] for name, body in toy.store.events() if name.startswith("tell")]
    assert sum(paid[1:]) == entry.n_items
