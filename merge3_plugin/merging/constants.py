"""What kernels need to know of the parents' tensors whatever the recipe: computed when first asked for, then kept."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import torch

T = TypeVar("T")


class Constants:
    """Values of functions of resident tensors, which are told apart by where they lie in memory."""

    def __init__(self) -> None:
        self._known: dict[Hashable, Any] = {}

    def of(self, function: Callable[..., T], tensors: Sequence[torch.Tensor], addresses: Sequence[int]) -> T:
        """``function`` of these tensors, whose originals lie at ``addresses``."""
        key = (function, *addresses)
        if key not in self._known:
            self._known[key] = function(*tensors)
        known: T = self._known[key]
        return known


def cosine_of_arc(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The cosine of the angle between two flat tensors, as mergekit's slerp computes it; on the CPU, in fp32.

    Sums go by parts of the length that mergekit takes, so that they are its own to the last bit.
    """
    parts = [part.split(2**20) for part in (a, b)]
    norms = []
    for tensor in parts:
        of_parts = torch.stack([torch.linalg.vector_norm(part.float()) for part in tensor])
        norm = torch.linalg.vector_norm(of_parts)
        norms.append(torch.where(norm > 1e-8, norm, 1))
    products = [((x.float() / norms[0]) * (y.float() / norms[1])).sum() for x, y in zip(*parts, strict=True)]
    return torch.stack(products).sum().clamp(-1, 1).cpu()


def cosine_of_units(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, bool]:
    """The cosine of the angle between two flat tensors, on the CPU, in their dtype; and whether they are collinear.

    As mergekit's nuslerp computes both.
    """
    units = [tensor / torch.norm(tensor, dim=-1, keepdim=True).clamp(min=1e-7) for tensor in (a, b)]
    cosine = torch.sum(units[0].mul_(units[1]), dim=-1).clamp(-1, 1).cpu()
    return cosine, bool((1 - cosine.square()) <= 1e-8**2)


def cosine_of_deltas(a: torch.Tensor, b: torch.Tensor, base: torch.Tensor) -> tuple[torch.Tensor, bool]:
    """`cosine_of_units` of what two flat tensors differ by from a third."""
    return cosine_of_units(a - base, b - base)
