"""Forward passes over packs as CUDA graphs: their thousand kernels, begun by one call instead of by a thousand."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch

from merge3_plugin.generators import TORCH_IN_USE
from merge3_plugin.harness.packed_forward import Predictions
from merge3_plugin.harness.packing import Pack

log = logging.getLogger(__name__)

# A pass that was recorded, and what it writes to whenever it is replayed.
Recorded = tuple[torch.cuda.CUDAGraph, Predictions]


class Graphs:
    """``read`` of packs by ``model``: as it is the first time, recorded the second time, and from then on replayed.

    A recorded pass reads the weights that are where those lay that it was recorded with, so other weights in the same
    place are read like others. When the model's weights move, what was recorded is forgotten. Models whose code waits
    for results on the way, as some mixtures of experts do, cannot be recorded; the log says so.
    """

    def __init__(self, model: Any, read: Callable[[Pack], Predictions]) -> None:
        self._model, self._read = model, read
        self._recorded: WeakKeyDictionary[Pack, Recorded | None] = WeakKeyDictionary()
        self._places: list[int] = []
        # Of all passes: what is left in it does not outlast one.
        self._pool: Any = None
        self._refused = False

    def read(self, pack: Pack) -> Predictions:
        """What the model predicts for the pack."""
        if self._refused:
            return self._read(pack)
        places = [tensor.data_ptr() for _, tensor in self._model.named_parameters(remove_duplicate=False)]
        if places != self._places:
            self._places = places
            self._recorded.clear()
        if pack not in self._recorded:
            self._recorded[pack] = None
            return self._read(pack)
        recorded = self._recorded[pack] or self._record(pack)
        if recorded is None:
            return self._read(pack)
        graph, written = recorded
        graph.replay()
        return Predictions(*(tensor.clone() for tensor in written))  # before another pass writes there

    def _record(self, pack: Pack) -> Recorded | None:
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        try:
            with TORCH_IN_USE, torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                written = self._read(pack)
        except RuntimeError as error:
            torch.cuda.set_stream(stream)  # torch stays in its own where a recording fails
            self._refused = True
            log.info("model: its passes are not recorded as CUDA graphs, so they take longer: %s", error)
            return None
        recorded = self._recorded[pack] = graph, written
        return recorded
