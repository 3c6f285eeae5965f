"""Task arithmetic and its kin: deltas from the base, thinned out, weighted, and added to the base."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from mergekit.merge_methods.generalized_task_arithmetic import ConsensusMethod, GeneralizedTaskArithmeticMerge
from mergekit.sparsify import SparsificationMethod

from merge3_plugin.merging import fused
from merge3_plugin.merging.blocks import Blocks
from merge3_plugin.merging.draws import keep_by_rank, keep_random
from merge3_plugin.merging.kernels import Inputs, Step
from merge3_plugin.merging.thinning import KEEP_ALL, Thinning, keep_between, keep_largest, rescaled

# The sum of the weighted deltas of a block, in fp32 and in the dtype of the merge, and over their weights if so asked.
Sum = Callable[[Sequence[torch.Tensor], torch.Tensor], torch.Tensor]


def arithmetic(method: GeneralizedTaskArithmeticMerge, inputs: Inputs, blocks: Blocks) -> Step | fused.OnePass | None:
    """The kernel of a method of this kind; None where it has none for these parameters."""
    base, others, factor = inputs.base, inputs.others, inputs.shared["lambda"]
    thinnings = _thinnings(method, inputs, blocks)
    if base is None or not others or thinnings is None or method.consensus_method == ConsensusMethod.count:
        return None
    weights, divisor = _rounded(tuple([inputs.own[place]["weight"] for place in others]), inputs.tensors[0].dtype)
    if not all(map(math.isfinite, weights)):
        return None
    majority, normalize = bool(method.consensus_method), bool(inputs.shared["normalize"])
    divisor = divisor if normalize else 1.0
    if inputs.in_one_pass:
        of_sum = factor, 0.0 if majority and normalize else divisor
        return _in_one_pass(inputs, base, weights, thinnings, of_sum, majority)
    sum_ = _sum_of_majority(weights, normalize, blocks) if majority else _sum(divisor, blocks)
    parts = list(zip(others, weights, thinnings, strict=True))

    def step(sources: Sequence[torch.Tensor], out: torch.Tensor, start: int) -> None:
        deltas = []
        for place, weight, thinning in parts:
            delta = torch.sub(sources[place], sources[base], out=blocks.buffer(("delta", place), out))
            thinning.apply(delta, start, blocks)
            deltas.append(delta if weight == 1 else delta.mul_(weight))
        mixed = sum_(deltas, blocks.buffer("mixed", out))
        if factor != 1:
            mixed.mul_(factor)
        torch.add(sources[base], mixed, out=out)

    return step


def loops_of(method: GeneralizedTaskArithmeticMerge) -> list[fused.Loop]:
    """The loops of `fused` that merges by a method of this kind take, with the parameters that it has by itself."""
    by_size = method.sparsification_method in (SparsificationMethod.magnitude, SparsificationMethod.magnitude_outliers)
    thinned = "by_size" if by_size else None if method.sparsification_method is None else "drawn"
    rescaled, majority = bool(thinned and method.default_rescale), bool(method.consensus_method)
    before: list[fused.Loop] = [("count_magnitudes",), ("mark_equals",)] if by_size else []
    return [*before, *[("rescale", thinned)] * rescaled, ("arithmetic", thinned, rescaled, majority)]


@lru_cache
def _rounded(numbers: tuple[float, ...], dtype: torch.dtype) -> tuple[list[float], float]:
    """Numbers in this dtype, and what normalizes them: their sum, or 1 where that is next to nothing."""
    rounded = torch.tensor(numbers, dtype=dtype)
    total = rounded.sum(dim=0)
    return rounded.tolist(), 1.0 if total.abs() < 1e-8 else total.item()


def _in_one_pass(
    inputs: Inputs,
    base: int,
    weights: Sequence[float],
    thinnings: Sequence[Thinning],
    of_sum: Sequence[float],
    majority: bool,
) -> fused.OnePass:
    places = [inputs.addresses[place] for place in (base, *inputs.others)]
    drawn = any(thinning.draws is not None for thinning in thinnings)
    thinned = "drawn" if drawn else None if all(thinning == KEEP_ALL for thinning in thinnings) else "by_size"
    numbers = list(of_sum)
    for weight, thinning in zip(weights, thinnings, strict=True):
        numbers += weight, *thinning.for_loops()
    first = None if all(math.isnan(thinning.total) for thinning in thinnings) else ("rescale", thinned)
    rescaled = first is not None or any(thinning.ratio is not None for thinning in thinnings)
    loop = "arithmetic", thinned, rescaled, majority
    return fused.OnePass(loop, places, numbers, first, [(thin.draws, thin.kept.equals) for thin in thinnings])


_THINNINGS = {
    SparsificationMethod.magnitude: keep_largest,
    SparsificationMethod.magnitude_outliers: keep_between,
    SparsificationMethod.random: keep_random,
    SparsificationMethod.della_magprune: keep_by_rank,
}


def _thinnings(method: GeneralizedTaskArithmeticMerge, inputs: Inputs, blocks: Blocks) -> list[Thinning] | None:
    """How the delta of each source but the base is thinned out; None where that is left to mergekit."""
    if method.sparsification_method is None:
        return [KEEP_ALL for _ in inputs.others]
    make = _THINNINGS[method.sparsification_method]
    # What is left to mergekit after a draw for another source is what mergekit refuses.
    thinnings = []
    for place in inputs.others:
        thin = make(inputs, place, blocks)
        if thin is None:
            return None
        if inputs.shared["rescale"] and not thin.of_all:
            thin = rescaled(thin, inputs, place, blocks)
        thinnings.append(thin)
    return thinnings


def _sum(divisor: float, blocks: Blocks) -> Sum:
    def sum_(deltas: Sequence[torch.Tensor], out: torch.Tensor) -> torch.Tensor:
        out.copy_(_added(deltas, blocks))
        return out if divisor == 1 else out.div_(blocks.scalar(divisor, out.dtype))

    return sum_


def _sum_of_majority(weights: Sequence[float], normalize: bool, blocks: Blocks) -> Sum:
    """The sum of those deltas, element by element, whose sign is that of the sum of all."""

    def sum_(deltas: Sequence[torch.Tensor], out: torch.Tensor) -> torch.Tensor:
        wide = [blocks.widened(("wide", number), delta) for number, delta in enumerate(deltas)]
        # 1 where the sum is not negative, -1 elsewhere; by comparisons in fp32, for those to booleans are many times
        # slower. Times that, deltas of the majority are positive and the others are cut off at zero.
        sign = blocks.buffer("sign", out, torch.float32).copy_(wide[0])
        for delta in wide[1:]:
            sign.add_(delta)
        sign.ge_(0).mul_(2).sub_(1)
        result, divisor = (blocks.buffer(name, out, torch.float32).zero_() for name in ("result", "divisor"))
        for delta, weight in zip(wide, weights, strict=True):
            part = delta.mul_(sign).relu_()
            result.add_(part)
            if normalize:
                divisor.add_(part.gt_(0), alpha=weight)
        out.copy_(result.mul_(sign))
        if normalize:
            narrow = blocks.buffer("narrow", out).copy_(divisor)
            narrow.add_(torch.eq(narrow, 0, out=blocks.buffer("none", out)))
            out.div_(narrow)
        return out

    return sum_


def _added(tensors: Sequence[torch.Tensor], blocks: Blocks) -> torch.Tensor:
    """Their sum in fp32."""
    result = blocks.buffer("sum", tensors[0], torch.float32).copy_(tensors[0])
    for tensor in tensors[1:]:
        result.add_(blocks.term("term", tensor))
    return result
