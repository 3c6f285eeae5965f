"""Threads that work together: torch's own, or others where these are not GNU's."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch

from merge3_plugin.merging import team
from merge3_plugin.merging.team import together


@pytest.fixture(params=["torch's", "own"])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "own":
        monkeypatch.setattr(team, "_team", lambda: None)
    elif team._team() is None:
        pytest.skip("torch's threads are not GNU's here")


def met(n: int) -> Callable[[int], tuple[int, int]]:
    """A part that ends only when all are at work."""
    barrier = threading.Barrier(n)

    def part(number: int) -> tuple[int, int]:
        barrier.wait(timeout=30)
        return number, threading.get_ident()

    return part


@pytest.mark.usefixtures("threads")
def test_all_parts_are_at_work_at_a_time_and_found_in_order() -> None:
    for n in (1, 2, 5):
        found = together(met(n), n)
        assert [number for number, _ in found] == list(range(n))
        assert len({thread for _, thread in found}) == n


@pytest.mark.usefixtures("threads")
def test_what_a_part_raises_reaches_who_asked() -> None:
    def part(number: int) -> int:
        if number == 1:
            raise KeyboardInterrupt
        return number

    with pytest.raises(KeyboardInterrupt):
        together(part, 3)
    assert together(lambda number: -number, 3) == [0, -1, -2]


@pytest.mark.usefixtures("threads")
def test_several_threads_may_ask_at_a_time_while_torch_works_in_others() -> None:
    found: dict[int, list[int]] = {}

    def ask(of: int) -> None:
        for _ in range(20):
            torch.ones(300, 300) @ torch.ones(300, 300)
            found[of] = together(lambda number: of + number, 2)

    asking = [threading.Thread(target=ask, args=(of,)) for of in (10, 20, 30)]
    for one in asking:
        one.start()
    for one in asking:
        one.join(timeout=60)
    assert found == {of: [of, of + 1] for of in (10, 20, 30)}
