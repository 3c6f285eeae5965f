"""When passes are read, recorded and replayed. CUDA is a mock here: what a graph does is tested in test_gpu.py."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from merge3_plugin.harness import graphs
from merge3_plugin.harness.graphs import Graphs
from merge3_plugin.harness.packed_forward import Predictions
from merge3_plugin.harness.packing import Pack, Reading, make_packs


class Mock:
    """Of torch.cuda: a graph that, replayed, works out again what was read last while it was recorded."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.failure: str | None = None
        self._graph: SimpleNamespace | None = None

    def read(self, model: Any) -> Callable[[Pack], Predictions]:
        def of(targets: torch.Tensor) -> Predictions:
            self.log.append("read")
            return Predictions(model.weight[0, targets] * 1, model.weight[0, targets] > 0)

        def read(pack: Pack) -> Predictions:
            targets = pack.targets
            written = of(targets)
            if self._graph:
                self._graph.again = lambda: [was.copy_(new) for was, new in zip(written, of(targets), strict=True)]
            return written

        return read

    def CUDAGraph(self) -> SimpleNamespace:
        graph = SimpleNamespace()

        def replay() -> None:
            graph.again()
            self.log[-1] = "replayed"

        graph.replay = replay
        return graph

    @contextmanager
    def graph(self, graph: SimpleNamespace, pool: str, capture_error_mode: str) -> Iterator[None]:
        assert pool == "pool"
        self._graph = graph
        yield
        self._graph = None
        if self.failure:
            raise RuntimeError(self.failure)
        self.log[-1] = "recorded"

    def graph_pool_handle(self) -> str:
        return "pool"

    def current_stream(self) -> str:
        return "stream"

    def set_stream(self, stream: str) -> None:
        assert stream == "stream"
        self.log.append("stream restored")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Mock:
    mock = Mock()
    monkeypatch.setattr(graphs, "torch", SimpleNamespace(cuda=mock))
    return mock


def packs(n: int) -> list[Pack]:
    readings = [Reading((number, 7), (number,)) for number in range(n)]
    return [make_packs([reading], (64, 64), torch.float32, torch.device("cpu"))[0] for reading in readings]


@torch.no_grad()
def test_a_pack_is_read_then_recorded_then_replayed(cuda: Mock) -> None:
    model = torch.nn.Linear(4, 1, bias=False)
    passes = Graphs(model, cuda.read(model))
    one, other = packs(2)
    for number in range(4):
        model.weight.fill_(number)  # in place, as a merge does
        found = [passes.read(pack).log_likelihoods for pack in (one, other)]
        assert [float(value) for value in found] == [number, number]
    kept = passes.read(one).log_likelihoods
    model.weight.fill_(9)
    passes.read(one)
    assert float(kept) == 3, "what was read is overwritten by the next pass"
    assert cuda.log == ["read", "read", *["recorded", "replayed"] * 2, *["replayed"] * 6]


@torch.no_grad()
def test_weights_that_moved_are_recorded_anew(cuda: Mock) -> None:
    model = torch.nn.Linear(4, 1, bias=False)
    passes = Graphs(model, cuda.read(model))
    (pack,) = packs(1)
    for _ in range(3):
        passes.read(pack)
    model.weight = torch.nn.Parameter(torch.full((1, 4), 5.0))
    assert float(passes.read(pack).log_likelihoods) == 5
    passes.read(pack)
    assert cuda.log == ["read", "recorded", "replayed", "replayed", "read", "recorded", "replayed"]


@torch.no_grad()
def test_a_model_that_cannot_be_recorded_is_read(cuda: Mock, caplog: pytest.LogCaptureFixture) -> None:
    model = torch.nn.Linear(4, 1, bias=False)
    passes = Graphs(model, cuda.read(model))
    cuda.failure = "operation not permitted when stream is capturing"
    one, other = packs(2)
    with caplog.at_level(logging.INFO, "merge3_plugin"):
        for pack in (one, other, one, other, one):
            passes.read(pack)
    assert cuda.log == ["read", "read", "read", "stream restored", "read", "read", "read"]
    assert [record.message for record in caplog.records] == [
        "model: its passes are not recorded as CUDA graphs, so they take longer: " + cuda.failure
    ]


@torch.no_grad()
def test_what_was_recorded_goes_with_its_pack(cuda: Mock) -> None:
    model = torch.nn.Linear(4, 1, bias=False)
    passes = Graphs(model, cuda.read(model))
    found = packs(3)
    for _ in range(2):
        for pack in found:
            passes.read(pack)
    del found[1:], pack
    assert len(passes._recorded) == 1
