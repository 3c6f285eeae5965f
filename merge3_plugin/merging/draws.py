"""Random thinning of deltas, as DARE and DELLA do it, by the draws that mergekit makes: bit by bit the same masks."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from merge3_plugin.merging.blocks import Blocks
from merge3_plugin.merging.kernels import Inputs
from merge3_plugin.merging.thinning import KEEP_ALL, KEEP_NONE, Thinning


def keep_random(inputs: Inputs, place: int, blocks: Blocks) -> Thinning | None:
    """Keep each element of the source's delta with the probability ``density``. None where that is left to mergekit."""
    density, tensor = inputs.own[place]["density"], inputs.tensors[place]
    if density >= 1:
        return KEEP_ALL
    if density < 0 or not draws_here(tensor):
        return None
    probability = torch.tensor(density, dtype=tensor.dtype).item()
    return Thinning(draws=inputs.uniform.next(tensor, blocks), probability=probability)


def keep_by_rank(inputs: Inputs, place: int, blocks: Blocks) -> Thinning | None:
    """Keep each element with a probability that grows with its rank by magnitude in its row of the delta.

    It goes from ``density - epsilon`` to ``density + epsilon``. None where that is left to mergekit.
    """
    density, epsilon = inputs.own[place]["density"], inputs.own[place]["epsilon"]
    tensor, base = inputs.tensors[place], inputs.base
    if density >= 1:
        return KEEP_ALL
    if density <= 0:
        return KEEP_NONE
    inside = epsilon < density < 1 - epsilon
    if base is None or not inside or len(inputs.shape) > 2 or inputs.shape[-1] < 2 or not draws_here(tensor):
        return None
    probabilities = _by_rank(inputs.shape[-1], density, epsilon, tensor.dtype)
    lost = torch.empty(tensor.shape, dtype=tensor.dtype)
    draws = inputs.uniform.next(tensor, blocks)
    rows = [whole.view(-1, inputs.shape[-1]) for whole in (tensor, inputs.tensors[base], draws, lost)]
    for one, other, drawn, part in _rows(rows, blocks):
        order = torch.argsort((one - other).abs_(), dim=1, descending=False)
        torch.ge(drawn, torch.empty_like(part).scatter_(1, order, probabilities.expand(order.shape)), out=part)
    return Thinning(draws=lost.view(-1), probability=0.5)


def draws_here(tensor: torch.Tensor) -> bool:
    """Whether draws by blocks are the draws by tensors: on the CPU, in the dtypes that mergekit draws in there."""
    return tensor.device.type == "cpu" and tensor.dtype != torch.float16


def _by_rank(n: int, density: float, epsilon: float, dtype: torch.dtype) -> torch.Tensor:
    """The probabilities by rank, from the smallest; in ``dtype``, as mergekit computes them."""
    ranks = torch.arange(n).to(dtype) + 1
    share = ((ranks - ranks.min()) / (ranks.max() - ranks.min())).clamp(0, 1)
    return (density - epsilon) + share * 2 * epsilon


def _rows(matrices: list[torch.Tensor], blocks: Blocks) -> Iterator[tuple[torch.Tensor, ...]]:
    """Blocks of whole rows of matrices of one shape, side by side."""
    n = max(1, blocks.size // matrices[0].shape[1])
    return zip(*(matrix.split(n) for matrix in matrices), strict=True)
