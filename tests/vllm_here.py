"""The fixture ``vllm``: vLLM where it is installed, else a stand-in that says so."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def vllm() -> Iterator[None]:
    """From its first use on vLLM is there, for all tests that follow: lm-eval takes each of its models once."""
    with pytest.MonkeyPatch.context() as patch:
        if find_spec("vllm") is None:
            patch.syspath_prepend(Path(__file__).with_name("stand_ins"))
        yield
