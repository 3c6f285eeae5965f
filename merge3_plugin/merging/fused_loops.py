# mypy: disallow-untyped-defs=False, disallow-untyped-decorators=False, disallow-untyped-calls=False
"""The loops of `fused`, in the part of Python that numba compiles; their tests are those of the methods.

Each merge takes for each tensor, a row, the ``places`` in memory of its sources and of what to write, its ``numbers``
and where its ``masks`` lie; ``likes``, for each source an element like its own; ``spans``, rows of a tensor's number
and of the first and last element to write; and the place of some ``room``. It returns whether all that it wrote is
finite.
Elements are computed in fp32 and, as torch does, rounded to their type after each step that torch has an operation for.
An element of all sources at a time stays in registers until it is merged.
"""

from __future__ import annotations

from functools import cache

from numba import float32, float64, uint8, uint32

from merge3_plugin.merging.fused_elements import (
    INFINITE,
    added,
    agreeing,
    between,
    compiled,
    differences,
    inner,
    magnitude_bits,
    part,
    parts,
    parts_of_flags,
    rounded,
    singles,
    stored,
    times,
    weighted_sum,
    where_drawn,
    widened,
)
from merge3_plugin.merging.fused_order import mark_equals as mark_equals

# So many elements' magnitudes are summed up side by side; a loop needs room for as many fp32.
_CHUNK = ROOM = 1024
# And that many of them one after the other in fp32, before that loses anything.
_ROUNDS = 16
# How many numbers of `arithmetic` belong to each source but the base.
_OWN = 6


@inner
def _row(rows, number):
    """Where a row of an array lies in memory."""
    return rows.ctypes.data + number * rows.strides[0]


@compiled
def linear(places, numbers, masks, likes, spans, room):
    """The sum of the sources times their weights, over the last of the ``numbers``."""
    k, like, most = len(likes), likes[0], uint32(0)
    for span in range(len(spans)):
        tensor, at, n = spans[span, 0], spans[span, 1], spans[span, 2] - spans[span, 1]
        sources, weights = parts(_row(places, tensor), 1, at, likes), singles(_row(numbers, tensor), 1, likes)
        written, total = part(places[tensor, k], at, like), numbers[tensor, k]
        for i in range(n):
            element = stored(weighted_sum(sources, weights, i) / total, like)
            written[i] = element
            most = max(most, magnitude_bits(element))
    return most < INFINITE


@compiled
def chord(places, numbers, masks, likes, spans, room):
    """The sum of two sources times their weights; products are rounded, in fp32."""
    like, most = likes[0], uint32(0)
    for span in range(len(spans)):
        tensor, at, n = spans[span, 0], spans[span, 1], spans[span, 2] - spans[span, 1]
        a, b, written = (
            part(places[tensor, 0], at, like),
            part(places[tensor, 1], at, like),
            part(places[tensor, 2], at, like),
        )
        for_a, for_b = numbers[tensor, 0], numbers[tensor, 1]
        for i in range(n):
            element = stored(widened(a[i]) * for_a + widened(b[i]) * for_b, like)
            written[i] = element
            most = max(most, magnitude_bits(element))
    return most < INFINITE


@cache
def rescale(thinned):
    """Write to ``numbers`` of `arithmetic`, for whole tensors, the ratios of deltas that are to keep a total."""
    left_over = _drawn if thinned == "drawn" else _large

    @compiled
    def loop(places, numbers, masks, likes, spans, room):
        like, sums = likes[0], part(room, 0, float32(0))
        for span in range(len(spans)):
            tensor, size = spans[span, 0], spans[span, 2]
            for j in range(len(likes) - 1):
                own = 2 + _OWN * j
                total = numbers[tensor, own + 2]
                if total >= 0:
                    left = rounded(float32(left_over(places, numbers, masks, like, tensor, j, size, sums)), like)
                    ratio = float32(1) if total < 1e-7 or left < 1e-7 else rounded(total / left, like)
                    numbers[tensor, own + 1] = ratio
        return True

    return loop


@inner
def _drawn(places, numbers, masks, like, tensor, j, size, sums):
    """The sum of the magnitudes of a delta that are drawn."""
    source, base = part(places[tensor, j + 1], 0, like), part(places[tensor, 0], 0, like)
    draws, probability = part(masks[tensor, 2 * j], 0, like), numbers[tensor, 2 + _OWN * j + 5]
    total = float64(0)
    for begin in range(0, size, _ROUNDS * _CHUNK):
        for i in range(_CHUNK):
            sums[i] = float32(0)
        end = min(begin + _ROUNDS * _CHUNK, size)
        for at in range(begin, end, _CHUNK):
            for i in range(min(_CHUNK, end - at)):
                magnitude = abs(rounded(widened(source[at + i]) - widened(base[at + i]), like))
                sums[i] += magnitude if widened(draws[at + i]) < probability else float32(0)
        for i in range(_CHUNK):
            total += sums[i]
    return total


@inner
def _large(places, numbers, masks, like, tensor, j, size, sums):
    """The sum of the magnitudes of a delta that are kept by size."""
    source, base = part(places[tensor, j + 1], 0, like), part(places[tensor, 0], 0, like)
    flags, own = part(masks[tensor, 2 * j + 1], 0, uint8(0)), 2 + _OWN * j
    low, high, total = numbers[tensor, own + 3], numbers[tensor, own + 4], float64(0)
    for begin in range(0, size, _ROUNDS * _CHUNK):
        for i in range(_CHUNK):
            sums[i] = float32(0)
        end = min(begin + _ROUNDS * _CHUNK, size)
        for at in range(begin, end, _CHUNK):
            for i in range(min(_CHUNK, end - at)):
                magnitude = abs(rounded(widened(source[at + i]) - widened(base[at + i]), like))
                kept = ((magnitude > low) & (magnitude <= high)) | (flags[at + i] != 0)
                sums[i] += magnitude if kept else float32(0)
        for i in range(_CHUNK):
            total += sums[i]
    return total


@compiled
def count_magnitudes(source, base, like, size, counts):
    """Add to ``counts`` how often each value of the leading 15 bits of a magnitude occurs in a delta."""
    one, other = part(source, 0, like), part(base, 0, like)
    for i in range(size):
        counts[magnitude_bits(stored(widened(one[i]) - widened(other[i]), like)) >> uint32(16)] += 1


@cache
def arithmetic(thinned, rescaled, majority):
    """The base, the first source, and a factor times the sum of the others' deltas, thinned out and ``rescaled``.

    Deltas are thinned ``by_size``, ``drawn``, or not at all (None). The sum is over all, or over those of the
    ``majority`` alone, which have the sign of the sum of all, element by element. ``numbers`` begin with the factor and
    a divisor: where that is 0, it is the weights of those that are in the sum. For each of the others follow its weight
    and its numbers of `thinning.Thinning.for_loops`; its masks are its draws and its flags.
    """
    by_size, drawn = thinned == "by_size", thinned == "drawn"

    @compiled
    def loop(places, numbers, masks, likes, spans, room):
        k, like, others, most = len(likes), likes[0], likes[1:], uint32(0)
        for span in range(len(spans)):
            tensor, at, n = spans[span, 0], spans[span, 1], spans[span, 2] - spans[span, 1]
            factor, divisor = numbers[tensor, 0], numbers[tensor, 1]
            own = _row(numbers, tensor) + 4 * 2
            weights, ratios = singles(own, _OWN, others), singles(own + 4, _OWN, others)
            low, high = singles(own + 4 * 3, _OWN, others), singles(own + 4 * 4, _OWN, others)
            probabilities = singles(own + 4 * 5, _OWN, others)
            sources, written = parts(_row(places, tensor), 1, at, likes), part(places[tensor, k], at, like)
            base = part(places[tensor, 0], at, like)
            draws = parts(_row(masks, tensor), 2, at, others)
            flags = parts_of_flags(_row(masks, tensor) + 8, 2, at, others)
            for i in range(n):
                deltas = differences(sources, i)
                if by_size:
                    deltas = between(deltas, low, high, flags, i)
                if drawn:
                    deltas = where_drawn(deltas, draws, probabilities, i)
                if rescaled:
                    deltas = times(deltas, ratios, like)
                deltas = times(deltas, weights, like)
                total = added(deltas)
                if majority:
                    sign = float32(1) if total >= 0 else float32(-1)
                    total, of_these = agreeing(deltas, sign, weights)
                    total *= sign
                    if divisor == 0:
                        of_these = rounded(of_these, like)
                        total = rounded(total, like) / (of_these if of_these != 0 else float32(1))
                elif divisor != 1:
                    total = rounded(total, like) / divisor
                element = stored(widened(base[i]) + rounded(rounded(total, like) * factor, like), like)
                written[i] = element
                most = max(most, magnitude_bits(element))
        return most < INFINITE

    return loop
