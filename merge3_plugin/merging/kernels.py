"""Merge methods block by block: mergekit's arithmetic in its order, on numbers that are in the cache.

A kernel makes a step from `Inputs`, and the step writes the output of one block; or, on a CPU, one pass of them all
(`fused`). It rounds to the dtype of the merge where mergekit rounds, and sums in fp32 where mergekit does, so that the
weights are mergekit's to the last bit, in half precision too. What torch leaves open is the order of some sums: over a
whole tensor of many blocks, and over more than four sources in fp32, where the last bit may differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import torch

from merge3_plugin.merging import fused
from merge3_plugin.merging.blocks import Blocks
from merge3_plugin.merging.constants import Constants, cosine_of_arc, cosine_of_deltas, cosine_of_units
from merge3_plugin.merging.uniform import Uniform

T = TypeVar("T")

# Write the output of one block, given that block of each source and the place where it starts.
Step = Callable[[Sequence[torch.Tensor], torch.Tensor, int], None]


@dataclass(frozen=True, eq=False)
class Inputs:
    """Flat ``tensors`` of one length, dtype and device; their ``shape``; the place of the ``base`` among them.

    ``addresses`` tell the parents' tensors apart. ``shared`` and ``own`` are the parameters by name, of the method and
    of each source. ``in_one_pass`` says whether the loops of `fused` merge them.
    """

    tensors: Sequence[torch.Tensor]
    addresses: Sequence[int]
    shape: torch.Size
    base: int | None
    shared: Mapping[str, Any]
    own: Sequence[Mapping[str, Any]]
    constants: Constants
    uniform: Uniform
    in_one_pass: bool = False

    @property
    def others(self) -> list[int]:
        """The places of those that are not the base."""
        return [place for place in range(len(self.tensors)) if place != self.base]

    def constant(self, function: Callable[..., T], *places: int) -> T:
        """What ``function`` says of the tensors in these places; computed once in a run."""
        tensors = [self.tensors[place] for place in places]
        return self.constants.of(function, tensors, [self.addresses[place] for place in places])


def linear(inputs: Inputs, blocks: Blocks) -> Step | fused.OnePass:
    """The sum of the weighted sources, each product added unrounded, over the sum of the weights."""
    weights, total = _in_single(tuple([own["weight"] for own in inputs.own]))
    total = total if inputs.shared["normalize"] else 1.0
    if inputs.in_one_pass:
        return fused.OnePass(("linear",), inputs.addresses, [*weights, total])
    divisor = blocks.scalar(total, torch.float32)
    first, *others = weights
    factor = blocks.factor(first)

    def step(sources: Sequence[torch.Tensor], out: torch.Tensor, start: int) -> None:
        result = blocks.buffer("sum", out, torch.float32)
        torch.mul(blocks.term("term", sources[0]), factor, out=result)
        for source, weight in zip(sources[1:], others, strict=True):
            result.add_(blocks.term("term", source), alpha=weight)
        if total != 1:
            result.div_(divisor)
        out.copy_(result)

    return step


@lru_cache
def _in_single(weights: tuple[float, ...]) -> tuple[list[float], float]:
    """Numbers in fp32, and their sum."""
    rounded = torch.tensor([weights], dtype=torch.float32)
    return rounded[0].tolist(), rounded.sum(dim=1).item()


def slerp(inputs: Inputs, blocks: Blocks) -> Step | fused.OnePass:
    """A point of the arc from the base to the other source, or of the chord where they are nearly collinear."""
    (other,) = inputs.others
    pair = (other if inputs.base is None else inputs.base, other)
    chord, angle, sine = inputs.constant(_arc, *pair)
    parts = _parts(inputs.shared["t"])
    shares = (parts if chord else torch.sin(parts * angle) / sine).tolist()
    if inputs.in_one_pass:
        return fused.OnePass(("chord",), [inputs.addresses[place] for place in pair], shares)
    weights = [blocks.factor(share) for share in shares]

    def step(sources: Sequence[torch.Tensor], out: torch.Tensor, start: int) -> None:
        a, b = (blocks.buffer(("term", place), out, torch.float32) for place in (0, 1))
        for term, place, weight in zip((a, b), pair, weights, strict=True):
            torch.mul(blocks.term("source", sources[place]), weight, out=term)
        torch.add(a, b, out=a)
        out.copy_(a)

    return step


def _arc(a: torch.Tensor, b: torch.Tensor) -> tuple[bool, torch.Tensor, torch.Tensor]:
    """Whether two flat tensors are nearly collinear, the angle between them, and its sine; in fp32."""
    cosine = cosine_of_arc(a, b)
    angle = torch.acos(cosine)
    return bool(cosine.abs() > 0.9995), angle, torch.sin(angle)


@lru_cache
def _parts(t: float) -> torch.Tensor:
    """``1 - t`` and ``t`` in fp32."""
    rounded = torch.tensor(t, dtype=torch.float32)
    return torch.stack((1 - rounded, rounded))


def nuslerp(inputs: Inputs, blocks: Blocks) -> Step | None:
    """Like `slerp` between two sources, or between their deltas from the base; all in the dtype of the merge.

    None for the variants that turn each row or column by an angle of its own.
    """
    if not inputs.shared["nuslerp_flatten"]:
        return None
    one, two = inputs.others
    weights = [inputs.own[place]["weight"] for place in (one, two)]
    t = 0.5 if abs(sum(weights)) < 1e-6 else weights[1] / sum(weights)
    if inputs.base is None:
        cosine, chord = inputs.constant(cosine_of_units, one, two)
    else:
        cosine, chord = inputs.constant(cosine_of_deltas, one, two, inputs.base)
    angle = torch.acos(cosine)
    coefficients = (1 - t, t) if chord else (torch.sin((1 - t) * angle), torch.sin(t * angle))
    sine = torch.sin(angle)

    def step(sources: Sequence[torch.Tensor], out: torch.Tensor, start: int) -> None:
        terms = [blocks.buffer(("term", place), out) for place in (0, 1)]
        for term, place, coefficient in zip(terms, (one, two), coefficients, strict=True):
            source = sources[place]
            if inputs.base is not None:
                source = torch.sub(source, sources[inputs.base], out=term)
            torch.mul(source, coefficient, out=term)
        result = terms[0].add_(terms[1])
        if not chord:
            result.div_(sine)
        if inputs.base is None:
            out.copy_(result)
        else:
            torch.add(sources[inputs.base], result, out=out)

    return step
