"""Task arithmetic and its kin: deltas from the base, thinned out, weighted, and added to the base."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
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
    weights = torch.tensor([inputs.own[place]["weight"] for place in others], dtype=inputs.tensors[0].dtype)
    if not torch.isfinite(weights).all():
        return None
    majority, normalize = bool(method.consensus_method), bool(inputs.shared["normalize"])
    if fused.fits(inputs.tensors[0]):
        divisor = (0.0 if majority else _divisor(weights)) if normalize else 1.0
        return _in_one_pass(base, others, weights, thinnings, divisor, factor, majority)
    sum_ = (_sum_of_majority if majority else _sum)(weights, normalize, blocks)
    parts = list(zip(others, weights.tolist(), thinnings, strict=True))

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


def _in_one_pass(
    base: int, others: Sequence[int], weights: torch.Tensor, thinnings: Sequence[Thinning],
    divisor: float, factor: float, majority: bool,
) -> fused.OnePass:  # fmt: skip
    ratios = [1.0 if thinning.ratio is None else thinning.ratio.item() for thinning in thinnings]
    scales = np.array([ratios, weights.tolist()], dtype=np.float32).T.copy()
    thinned = [thinning is not KEEP_ALL for thinning in thinnings]
    limits, turns, drawn = zip(*(thinning.for_loops() for thinning in thinnings), strict=True)
    return fused.OnePass(
        "arithmetic", base, np.array(others), scales, np.array(thinned), np.array(limits, dtype=np.float32),
        np.array(turns), np.array(drawn), np.float32(divisor), np.float32(factor), majority,
        kept=[thinning.draws for thinning in thinnings],
    )  # fmt: skip


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


def _sum(weights: torch.Tensor, normalize: bool, blocks: Blocks) -> Sum:
    divisor = blocks.scalar(_divisor(weights), weights.dtype)

    def sum_(deltas: Sequence[torch.Tensor], out: torch.Tensor) -> torch.Tensor:
        result = _added(deltas, blocks)
        out.copy_(result)
        return out.div_(divisor) if normalize else out

    return sum_


def _divisor(weights: torch.Tensor) -> float:
    total = weights.sum(dim=0)
    return 1.0 if total.abs() < 1e-8 else total.item()


def _sum_of_majority(weights: torch.Tensor, normalize: bool, blocks: Blocks) -> Sum:
    """The sum of those deltas, element by element, whose sign is that of the sum of all."""
    factors = weights.tolist()

    def sum_(deltas: Sequence[torch.Tensor], out: torch.Tensor) -> torch.Tensor:
        wide = [blocks.widened(("wide", number), delta) for number, delta in enumerate(deltas)]
        # 1 where the sum is not negative, -1 elsewhere; by comparisons in fp32, for those to booleans are many times
        # slower. Times that, deltas of the majority are positive and the others are cut off at zero.
        sign = blocks.buffer("sign", out, torch.float32).copy_(wide[0])
        for delta in wide[1:]:
            sign.add_(delta)
        sign.ge_(0).mul_(2).sub_(1)
        result, divisor = (blocks.buffer(name, out, torch.float32).zero_() for name in ("result", "divisor"))
        for delta, weight in zip(wide, factors, strict=True):
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
