"""What the tests of merging share."""

from __future__ import annotations

from typing import Any

import pytest
import torch


@pytest.fixture
def stable_sort(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch's sorts leave equal elements in their order, as large ones do on a GPU."""

    def stable(sort: Any) -> Any:
        def sorted_(tensor: torch.Tensor, *, dim: int = -1, descending: bool = False) -> Any:
            return sort(tensor, stable=True, dim=dim, descending=descending)

        return sorted_

    monkeypatch.setattr(torch, "argsort", stable(torch.argsort))
    monkeypatch.setattr(torch, "sort", stable(torch.sort))
