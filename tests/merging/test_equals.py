"""What is kept of a delta by size, against torch's own sorts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from merge3_plugin.merging import blocks as blocks_module
from merge3_plugin.merging import equals as equals_module
from merge3_plugin.merging import fused
from merge3_plugin.merging.equals import Cut, Equals
from merge3_plugin.merging.magnitudes import Kept, Magnitudes

# Below and above what the sort inserts, what comparisons are made of at a time, and twice as much.
SIZES = [1, 2, 15, 16, 17, 63, 64, 65, 66, 128, 129, 130, 131, 200, 1541, 20_000]


def deltas(size: int, dtype: torch.dtype, seed: int) -> Iterator[torch.Tensor]:
    """Few values, so that most cuts fall among equal ones; fine-tuned weights'; and fp32 with the same leading bits."""
    generator = torch.Generator().manual_seed(seed)
    yield torch.randint(-4, 5, (size,), generator=generator).to(dtype)
    yield torch.randint(1, 3, (size,), generator=generator).to(dtype)
    base = (torch.randn(size, generator=generator) * 0.02).bfloat16()
    yield ((base.float() + torch.randn(size, generator=generator) * 0.002).bfloat16() - base).to(dtype)
    yield (1 + torch.randint(0, 1000, (size,), generator=generator) * 2.0**-20).to(dtype)
    yield torch.zeros(size, dtype=dtype)


def taken(kept: Kept, magnitudes: torch.Tensor) -> torch.Tensor:
    inside = (magnitudes > kept.low) & (magnitudes <= kept.high)
    return inside if kept.equals is None else inside | kept.equals.flags().bool()


def assert_taken(kept: Kept, magnitudes: torch.Tensor, expected: torch.Tensor) -> None:
    """But for zeros, which may be taken or not: they are added to what is merged."""
    mask = torch.zeros_like(magnitudes, dtype=torch.bool)
    mask[expected] = True
    assert torch.equal(taken(kept, magnitudes) & (magnitudes > 0), mask & (magnitudes > 0))


@pytest.fixture(params=["by loop", "by sorting", "without numba"])
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether loops merge; "by sorting" where torch's sort is another than the loops know (a mock)."""
    if request.param != "without numba":
        pytest.importorskip("numba")
    if request.param == "by sorting":
        monkeypatch.setattr(equals_module, "_sort_is_known", lambda: False)
    return bool(request.param != "without numba")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_what_is_kept_of_equal_elements_is_what_the_sort_puts_first(dtype: torch.dtype, how: bool) -> None:
    for size in SIZES:
        for delta in deltas(size, dtype, seed=size):
            in_one_pass = how and fused.takes(dtype)
            magnitudes = Magnitudes(delta, torch.zeros_like(delta), in_one_pass=in_one_pass)
            whole = delta.abs().float()
            down, up = (torch.argsort(whole, descending=largest) for largest in (True, False))
            for n in sorted({1, 2, size // 3, size // 2, size - 1, size} & set(range(1, size + 1))):
                assert_taken(magnitudes.largest(n), whole, down[:n])
                for begin in sorted({0, 1, n // 2, n - 1} & set(range(n))):
                    assert_taken(magnitudes.between(begin, n), whole, up[begin:n])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_places_beyond_32_bits_have_items_of_64(dtype: torch.dtype) -> None:
    pytest.importorskip("numba")
    for delta in deltas(1000, dtype, seed=2):
        order = torch.argsort(delta.abs().float(), descending=True)
        value = delta[order[400]].abs().item()
        flags = [torch.zeros(1000, dtype=torch.uint8) for _ in range(2)]
        with pytest.MonkeyPatch.context() as patch:
            for of in flags:
                pair = delta, torch.zeros_like(delta)
                assert fused.mark_equals(pair, value, 400, of, largest=True, before=True, mark=1)
                patch.setattr(fused, "_PLACES", 999)
        assert torch.equal(*flags) and (flags[0].any() or value != delta[order[399]].abs())


def test_where_medians_part_badly_the_sort_is_asked() -> None:
    """On Musser's sequence each median is next to the smallest, and the sort of GNU's library becomes a heap sort."""
    pytest.importorskip("numba")
    k, first = 500, 103
    odd = [number for i in range(1, k, 2) for number in (i, k + i)]
    delta = torch.tensor([*odd, *range(2, 2 * k + 1, 2)]).add(1).div(2, rounding_mode="floor").float()
    order, pair = torch.argsort(delta, descending=True), (delta, torch.zeros_like(delta))
    flags, value = torch.zeros(2 * k, dtype=torch.uint8), delta[order[first]].item()
    assert not fused.mark_equals(pair, value, first, flags, largest=True, before=True, mark=1)
    assert not flags.any()
    magnitudes = Magnitudes(*pair, in_one_pass=True)
    for n in range(first - 4, first + 4):
        assert_taken(magnitudes.largest(n), delta, order[:n])
    # At the second of two cuts, once the first is made.
    up, (begin, end) = torch.argsort(delta, descending=False), (301, 775)
    how: dict[str, Any] = {"largest": False, "before": True, "mark": 1}
    assert fused.mark_equals(pair, delta[up[begin]].item(), begin, flags, **how)
    assert not fused.mark_equals(pair, delta[up[end]].item(), end, flags, **how)
    assert_taken(magnitudes.between(begin, end), delta, up[begin:end])


@pytest.mark.parametrize("largest", [True, False])
def test_elsewhere_than_on_a_cpu_equal_elements_stay_in_their_order(
    largest: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By operations of torch that any device has; here those of the CPU."""
    monkeypatch.setattr(blocks_module, "_ELEMENTS", 37)

    def in_place(self: Equals) -> torch.Tensor:
        flags = torch.zeros(200, dtype=torch.uint8)
        self._flag_in_place(flags)
        return flags

    monkeypatch.setattr(Equals, "_find", in_place)
    for delta in deltas(200, torch.bfloat16, seed=3):
        whole, magnitudes = delta.abs().float(), Magnitudes(delta, torch.zeros_like(delta))
        order = torch.argsort(whole, descending=largest, stable=True)
        for n in (1, 2, 70, 199, 200):
            assert_taken(magnitudes.largest(n) if largest else magnitudes.between(n // 3, n), whole,
                         order[:n] if largest else order[n // 3 : n])  # fmt: skip


def test_whatever_torchs_sort_is_merges_follow_it(stable_sort: None, caplog: pytest.LogCaptureFixture) -> None:
    """A sort that leaves equals in their order, as that of another library may, is noticed and asked."""
    pytest.importorskip("numba")
    delta = next(deltas(5000, torch.bfloat16, seed=1))
    magnitudes, whole = Magnitudes(delta, torch.zeros_like(delta), in_one_pass=True), delta.abs().float()
    equals_module._sort_is_known.cache_clear()
    try:
        assert_taken(magnitudes.largest(2000), whole, torch.argsort(whole, descending=True)[:2000])
        assert not equals_module._sort_is_known()
        assert [record.getMessage() for record in caplog.records] == [
            "TIES and breadcrumbs wait for torch's sort, as in mergekit: it is another than GNU's here"
        ]
    finally:
        equals_module._sort_is_known.cache_clear()


def test_the_first_cut_is_not_the_last() -> None:
    """Of equal elements between two cuts neither those before the first are kept nor those after the last."""
    delta = torch.ones(100)
    equals = Equals(delta, torch.zeros(100), Cut(1.0, 20, 20), Cut(1.0, 70, 70), largest=False, in_one_pass=False)
    order = torch.argsort(delta)
    assert equals.flags().nonzero().flatten().tolist() == order[20:70].sort().values.tolist()
