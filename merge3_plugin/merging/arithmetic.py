"""Task arithmetic and its kin, block by block: deltas from the base, thinned out, weighted, and added to the base."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mergekit.merge_methods.generalized_task_arithmetic import ConsensusMethod, GeneralizedTaskArithmeticMerge

from merge3_plugin.merging.blocks import Blocks
from merge3_plugin.merging.kernels import Inputs, Step


def arithmetic(method: GeneralizedTaskArithmeticMerge, inputs: Inputs, blocks: Blocks) -> Step | None:
    """The kernel of a method of this kind; None for one that counts signs."""
    dtype, base, others = inputs.tensors[0].dtype, inputs.base, inputs.others
    if base is None or not others or method.consensus_method == ConsensusMethod.count:
        return None
    if method.sparsification_method is not None or method.consensus_method is not None:
        return None
    shared = inputs.shared
    weights = torch.tensor([inputs.own[place]["weight"] for place in others], dtype=dtype)
    divisor = blocks.scalar(_divisor(weights), dtype)
    factors = weights.tolist()

    def weighted(number: int, sources: Sequence[torch.Tensor], out: torch.Tensor) -> torch.Tensor:
        # In fp32 the first is what the others are added to.
        delta = blocks.buffer(("delta", number > 0), out)
        torch.sub(sources[others[number]], sources[base], out=delta)
        return delta if factors[number] == 1 else delta.mul_(factors[number])

    def step(sources: Sequence[torch.Tensor], out: torch.Tensor) -> None:
        deltas = (weighted(number, sources, out) for number in range(len(others)))
        total = blocks.widened("sum", next(deltas))
        for delta in deltas:
            total.add_(blocks.widened("term", delta))
        mixed = blocks.buffer(("delta", True), out).copy_(total)
        if shared["normalize"]:
            mixed.div_(divisor)
        if shared["lambda"] != 1:
            mixed.mul_(shared["lambda"])
        torch.add(sources[base], mixed, out=out)

    return step


def _divisor(weights: torch.Tensor) -> float:
    total = weights.sum(dim=0)
    return 1.0 if total.abs() < 1e-8 else total.item()
