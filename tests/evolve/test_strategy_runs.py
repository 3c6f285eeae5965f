"""Whole runs by strategies of pymoo and optuna: survivors are looked at again; a resumed run is the unbroken one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from merge3_plugin.evolve.setting import Watcher
from merge3_plugin.evolve.store import RunStore
from tests.evolve.world import canonical, evolve_here, make_world


class Impatient(Watcher):
    """Interrupts the search after so many candidates."""

    def __init__(self, patience: int) -> None:
        self._left = patience

    def scored(self, entry: Any) -> None:
        self._left -= 1

    def interrupted(self) -> bool:
        return self._left <= 0


@pytest.mark.parametrize(
    "package, search",
    [("pymoo", {"optimizer": "ga", "popsize": 4}), ("optuna", {"optimizer": "tpe", "options": {"startup": 4}})],
)
def test_a_resumed_run_is_the_unbroken_one(
    package: str, search: dict[str, Any], tiny_models: list[Path], tmp_path: Path
) -> None:
    pytest.importorskip(package)
    config = make_world(tmp_path, tiny_models, auto_merges=1, search={"max_fevals": 12, **search})
    assert evolve_here(config, tmp_path / "unbroken")["state"] == "finished"
    assert evolve_here(config, tmp_path / "out", Impatient(9))["state"] != "finished"
    assert evolve_here(config, tmp_path / "out")["state"] == "finished"
    assert canonical(tmp_path / "out") == canonical(tmp_path / "unbroken")

    store = RunStore.open(tmp_path / "out")
    told = [body for name, body in store.events() if name.startswith("tell")]
    store.close()
    again = [body for body in told if body["rung"] == 1]
    if package == "pymoo":
        first = {body["candidate"]: body for body in reversed(told) if body["rung"] == 0}
        assert again and all(body["items"] > first[body["candidate"]]["items"] for body in again)
        assert all(0 < body["paid"] < body["items"] for body in again if body["candidate"] not in ("parent:base",))
    else:
        assert not again
