"""Several live models at work on one search: the record follows from the config, however fast each of them is."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager

import numpy as np
import pytest

from merge3_plugin.evolve.executor import InOrder
from merge3_plugin.evolve.optimizers import Trial
from merge3_plugin.evolve.setting import Watcher
from merge3_plugin.evolve.workers import Closed, Worker, Workers
from tests.evolve.test_search import STRATEGIES, Killed, fatal
from tests.evolve.toy import N_ANCHORS, Model, Toy, in_batches, in_one_batch
from tests.evolve.world import canonical, evolve_here, make_world


class Slow(Model):
    """Takes its time, now more and now less; all of one ``crew`` note what they are asked, and how many are at work."""

    def __init__(self, crew: Crew, seed: int) -> None:
        super().__init__(breaks=crew.breaks)
        self._crew, self._rng = crew, np.random.default_rng(seed)

    def merge(self, recipe):
        self._crew.at_work += 1
        self._crew.most = max(self._crew.most, self._crew.at_work)
        super().merge(recipe)

    def evaluate(self, items, whole):
        time.sleep(self._rng.choice([0.0, 0.001, 0.004]))
        self._crew.asked.update((tuple(self._point), item) for ids in items.values() for item in ids)
        found = super().evaluate(items, whole)
        self._crew.at_work -= 1
        return found


class Crew:
    def __init__(self, n: int, seed: int, breaks: float = 2.0) -> None:
        self.breaks, self.asked, self.at_work, self.most = breaks, Counter(), 0, 0
        models = [Slow(self, seed + number) for number in range(n)]
        self.workers = Workers([Worker(model, model) for model in models])


@contextmanager
def crew_of(toy: Toy, n: int = 3, seed: int = 0, breaks: float = 2.0) -> Iterator[Crew]:
    crew = Crew(n, seed, breaks)
    toy.workers = crew.workers
    with closing(crew.workers):
        yield crew


def threads() -> list[str]:
    """Of live models."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("live model")]


def steps(toy: Toy, kind: str) -> list[int]:
    return [int(name.split()[1]) for name, _ in toy.store.events() if name.startswith(kind)]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_search_by_several_is_the_same_however_long_each_takes(tmp_path, strategy):
    settings = {"search": {"max_fevals": 24}, "fidelity": {"strategy": strategy}, "recalibrate": 9}
    found = []
    for seed in (0, 10, 20):
        toy = Toy(tmp_path / f"{seed}", **settings)
        with crew_of(toy, seed=seed) as crew:
            toy.search(strategy=in_batches)
        assert 1 < crew.most <= 3 and not threads()
        assert steps(toy, "tell") == sorted(steps(toy, "tell")), "told in the order in which they were begun"
        found.append(toy.record())
    assert found[0] == found[1] == found[2]
    in_flight, most = 0, 0
    for name, _ in toy.store.events():
        in_flight += name.startswith("ask") - name.startswith("tell")
        most = max(most, in_flight)
    assert most == 4, "one more is begun than there are live models"


def test_one_live_model_needs_no_thread_and_searches_as_ever(tmp_path):
    alone = Toy(tmp_path / "alone", search={"max_fevals": 12})
    with crew_of(alone, 1) as crew:
        alone.search(strategy=in_batches)
        assert not threads() and crew.most == 1
    again = Toy(tmp_path / "again", search={"max_fevals": 12})
    again.search(InOrder(), in_batches)
    assert alone.record() == again.record()


def test_what_each_candidate_answers_does_not_depend_on_how_many_live_models_there_are(tmp_path):
    answers = []
    for n in (1, 3):
        toy = Toy(tmp_path / f"{n}", search={"max_fevals": 20, "optimizer": "random"})
        with crew_of(toy, n):
            toy.search()
        rows = [(row["candidate"], row["fitness"], row["tokens"]) for row in toy.store.rows()]
        answers.append([(*row, toy.store.known_answers(row[0], "t")) for row in rows])
    assert answers[0] == answers[1] and len(answers[0]) == 20


def test_equal_recipes_are_asked_once(tmp_path):
    """The strategy draws one of two vectors again and again: one on the way, the next waits for its answers."""

    def repeating(config, variables, rng, *, budget, known):
        strategy = in_one_batch(config, variables, rng, budget=budget, known=known)
        numbers = iter(range(99))
        strategy.ask = lambda n: [Trial(number := next(numbers), np.full(2, 0.25 * (number % 2)))]
        return strategy

    toy = Toy(tmp_path / "out", search={"max_fevals": 16}, fidelity={"strategy": "halving"})
    with crew_of(toy) as crew:
        found = toy.search(strategy=repeating)
    assert len(found.scored) == 3 and len(steps(toy, "tell")) >= 16
    assert set(crew.asked.values()) == {1}


@pytest.mark.parametrize("strategy", ["fixed", "racing"])
def test_budgets_hold_with_several_at_work(tmp_path, strategy):
    for budget in (N_ANCHORS, 5 * N_ANCHORS + 3, 150):
        settings = {"search": {"max_items": budget, "max_fevals": 99}, "fidelity": {"strategy": strategy}}
        records = []
        for seed in (0, 10):
            toy = Toy(tmp_path / f"{budget} {seed}", **settings)
            with crew_of(toy, seed=seed) as crew:
                assert "item evaluations is spent" in toy.search(strategy=in_batches).reason
            assert toy.spent.items == crew.asked.total() <= budget
            assert budget - toy.spent.items < 5 * N_ANCHORS
            records.append(toy.record())
        assert records[0] == records[1]


def test_what_fails_in_a_thread_is_a_failed_candidate(tmp_path):
    toy = Toy(tmp_path / "out", search={"max_fevals": 24})
    with crew_of(toy, breaks=0.5):
        found = toy.search(strategy=in_batches)
    failed = [entry for entry in found.scored if entry.assessment is None]
    assert {entry.vector[0] > 0.5 for entry in failed} == {True} and len(found.scored) == 24
    error = next(row["error"] for row in toy.store.rows() if row["state"] == "FAILED")
    assert "in merge" in error and error.endswith("ValueError: these weights overflow\n")
    again = Toy(tmp_path / "again", Model(breaks=0.5), search={"max_fevals": 24, "optimizer": "random"})
    again.search()
    with crew_of(toy := Toy(tmp_path / "more", search={"max_fevals": 24, "optimizer": "random"}), breaks=0.5):
        toy.search()
    assert list(toy.store.rows())[3]["tokens"] == list(again.store.rows())[3]["tokens"]


@pytest.mark.parametrize("strategy", ["fixed", "hyperband"])
def test_a_search_by_several_that_is_killed_anywhere_goes_on_as_if_it_had_not_been(tmp_path, strategy):
    settings = {"search": {"max_fevals": 14}, "fidelity": {"strategy": strategy}, "recalibrate": 4}
    unbroken = Toy(tmp_path / "unbroken", **settings)
    with crew_of(unbroken):
        expected = unbroken.search(strategy=in_batches)
    writes = len(unbroken.store.events()) + int(unbroken.store.spent()["search"]["evaluations"])
    for write in range(1, writes, 19):
        broken = Toy(tmp_path / f"{write}", store=fatal(write, before=write % 2 == 0), **settings)
        with crew_of(broken, seed=write), pytest.raises(Killed):
            broken.search(strategy=in_batches)
        resumed = Toy(tmp_path / f"{write}", **settings)
        with crew_of(resumed, seed=write + 1):
            found = resumed.search(strategy=in_batches)
        assert resumed.record() == unbroken.record()
        assert found.reason == expected.reason and resumed.spent == unbroken.spent
        resumed.store.close()


def test_a_run_that_was_begun_by_several_goes_on_by_one_and_the_other_way_round(tmp_path):
    toy = Toy(tmp_path / "out", search={"max_fevals": 9})
    with crew_of(toy):
        toy.search(strategy=in_batches)
    kept = toy.store.events()
    for n, budget in ((1, 14), (2, 19)):
        toy = Toy(tmp_path / "out", search={"max_fevals": budget})
        with crew_of(toy, n):
            assert len(toy.search(strategy=in_batches).scored) == budget
        assert toy.store.events()[: len(kept)] == kept
        kept = toy.store.events()


def test_when_a_run_ends_at_once_its_threads_do_too(tmp_path):
    held = threading.Event()

    class Endless(Model):
        def evaluate(self, items, whole):
            held.set()
            while True:
                toy.workers.check()
                time.sleep(0.001)

    toy = Toy(tmp_path / "out", search={"max_fevals": 9})
    models = [Endless(), Endless()]
    toy.workers = Workers([Worker(model, model) for model in models])

    def second_ctrl_c(entry: object) -> None:
        raise KeyboardInterrupt

    wait: Future[None] = toy.workers.submit(lambda worker: held.wait() and None)
    toy.store.event = lambda name, body: body if name != "ask 2" else second_ctrl_c(body)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt), closing(toy.workers):
        toy.search(strategy=in_batches)
    assert not threads() and wait.done()
    assert toy.store.spent() == {}
    with pytest.raises(Closed):
        toy.workers.check()


def test_each_thread_enters_once_with_its_own_live_model():
    entered: list[tuple[str, int]] = []
    models = [Model(), Model()]

    def entering(name: str):
        return lambda: entered.append((name, threading.get_ident()))

    meet = threading.Barrier(2)
    with closing(Workers([Worker(m, m, entering(n)) for m, n in zip(models, "ab", strict=True)])) as workers:
        pieces = [
            workers.submit(lambda worker: (meet.wait(5), (id(worker.live), threading.get_ident()))[1]) for _ in range(8)
        ]
        seen = {piece.result() for piece in pieces}
    assert len(seen) == 2 and {live for live, _ in seen} == {id(model) for model in models}
    assert sorted(name for name, _ in entered) == ["a", "b"]
    assert {thread for _, thread in entered} == {thread for _, thread in seen}


def test_all_phases_of_a_run_are_shared_and_find_what_one_live_model_finds(tiny_models, tmp_path):
    """Of a strategy that learns nothing, for which the order makes no difference."""
    config = make_world(tmp_path, tiny_models, search={"max_fevals": 7, "optimizer": "random"}, baselines=True)
    found = []
    for device in ("cpu", ["cpu"] * 3):
        found.append(evolve_here(config, tmp_path / str(len(found)), merge3__device=device))
    assert not threads()
    assert found[0] == found[1]
    rows = [
        [line for line in canonical(tmp_path / name).splitlines() if line.startswith('{"answers"')] for name in "01"
    ]
    assert rows[0] == rows[1] and len(rows[0]) > 30


def test_a_person_who_stops_a_phase_gets_the_live_models_back(tiny_models, tmp_path):
    class Stop(Watcher):
        def phase(self, name, total):
            self.at = name

        def interrupted(self):
            return self.at == "confirmation"

    config = make_world(tmp_path, tiny_models, device=["cpu", "cpu"], search={"max_fevals": 9, "popsize": 4})
    assert evolve_here(config, tmp_path / "out", Stop())["state"] == "stopped before the confirmation"
    assert not threads()
    assert (tmp_path / "out" / "final_model" / "config.json").is_file()
