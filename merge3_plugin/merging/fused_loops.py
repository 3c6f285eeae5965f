# mypy: disallow-untyped-defs=False, disallow-untyped-decorators=False, disallow-untyped-calls=False
"""The loops of `fused`, in the part of Python that numba compiles; their tests are those of the methods.

Each merge takes for each tensor, a row, the ``places`` in memory of its sources and of what to write, its ``numbers``
and its ``turns``; ``likes``, for each source an element like its own; ``spans``, rows of a tensor's number and of the
first and last element to write; and the place of ``room`` for `tiles`. It returns whether all that it wrote is finite.
Elements are computed in fp32 and, as torch does, rounded to their type after each step that torch has an operation for.
What can be done with the elements of all sources at once stays in registers, and so passes memory as a copy does.
"""

from __future__ import annotations

import numpy as np
from numba import float32, float64, njit, uint32

from merge3_plugin.merging.fused_elements import (
    INFINITE,
    magnitude_bits,
    part,
    parts,
    rounded,
    singles,
    stored,
    weighted_differences,
    weighted_sum,
    widened,
)

# Elements that are worked on together: all tiles of a merge of eight sources fit into a second-level cache, those of
# two into the first.
_CHUNK = 1024
# How many numbers of `arithmetic` belong to each source but the base.
_OWN = 8
# In fp32 that many elements' magnitudes are summed up by a place of a tile before they lose anything.
_ROUNDS = 16


# Nothing of it is kept on the disk: numba would keep it as pickles.
_compiled = njit(nogil=True, error_model="numpy")
# What loops call is called from nowhere else.
_inner = njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)


def tiles(sources):
    """How many fp32 a merge of so many sources needs room for."""
    return _CHUNK * (4 + sources)


@_inner
def _tile(room, number):
    return part(room, number * _CHUNK, float32(0))


@_inner
def _row(rows, number):
    """Where a row of an array lies in memory."""
    return rows.ctypes.data + number * rows.strides[0]


@_compiled
def linear(places, numbers, turns, likes, spans, room):
    """The sum of the sources times their weights, over the last of the ``numbers``."""
    k, like, most = len(likes), likes[0], uint32(0)
    for span in range(len(spans)):
        tensor, at, n = spans[span, 0], spans[span, 1], spans[span, 2] - spans[span, 1]
        sources, weights = parts(_row(places, tensor), at, likes), singles(_row(numbers, tensor), likes)
        written, total = part(places[tensor, k], at, like), numbers[tensor, k]
        for i in range(n):
            element = stored(weighted_sum(sources, weights, i) / total, like)
            written[i] = element
            most = max(most, magnitude_bits(element))
    return most < INFINITE


@_compiled
def differences(places, numbers, turns, likes, spans, room):
    """The first source, and a factor times the sum of what the others differ by from it, over a divisor.

    ``numbers`` are the factor, the divisor, and the weights of the others.
    """
    k, like, most = len(likes), likes[0], uint32(0)
    for span in range(len(spans)):
        tensor, at, n = spans[span, 0], spans[span, 1], spans[span, 2] - spans[span, 1]
        factor, divisor = numbers[tensor, 0], numbers[tensor, 1]
        sources, weights = parts(_row(places, tensor), at, likes), singles(_row(numbers, tensor) + 8, likes[1:])
        base, written = part(places[tensor, 0], at, like), part(places[tensor, k], at, like)
        for i in range(n):
            total = weighted_differences(sources, weights, i)
            if divisor != 1:
                total = rounded(total, like) / divisor
            element = stored(widened(base[i]) + rounded(rounded(total, like) * factor, like), like)
            written[i] = element
            most = max(most, magnitude_bits(element))
    return most < INFINITE


@_compiled
def chord(places, numbers, turns, likes, spans, room):
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


@_inner
def _scale(delta, factor, n, like):
    if factor != 1:
        for i in range(n):
            delta[i] = rounded(delta[i] * factor, like)


@_inner
def _alike(turns, row, at, n):
    """How many of ``n`` elements from this place on have the same limits."""
    for place in range(turns.shape[1]):
        turn = turns[row, place]
        if place % 3 < 2 and at < turn < at + n:
            n = turn - at
    return n


@_inner
def _thinned(places, numbers, turns, like, tensor, j, at, n, wide, delta):
    """Write ``n`` elements of one delta from a place on, thinned out, where limits are the same for all of them."""
    own, turn, source = 3 + _OWN * j, 3 * j, part(places[tensor, j + 1], at, like)
    for i in range(n):
        delta[i] = rounded(widened(source[i]) - wide[i], like)
    low = numbers[tensor, own + 3 if at < turns[tensor, turn] else own + 4]
    high = numbers[tensor, own + 5 if at < turns[tensor, turn + 1] else own + 6]
    if low >= 0 or high < np.inf:
        for i in range(n):
            size = abs(delta[i])
            delta[i] = delta[i] if (size > low) & (size <= high) else float32(0)
    if turns[tensor, turn + 2] != 0:
        draws, probability = part(turns[tensor, turn + 2], at, like), numbers[tensor, own + 7]
        for i in range(n):
            delta[i] *= float32(1) if widened(draws[i]) < probability else float32(0)


@_compiled
def rescale(places, numbers, turns, likes, spans, room):
    """Write to ``numbers`` of `arithmetic`, for whole tensors, the ratios of deltas that are to keep a total."""
    like = likes[0]
    for span in range(len(spans)):
        tensor, size = spans[span, 0], spans[span, 2]
        for j in range(len(likes) - 1):
            total = numbers[tensor, 3 + _OWN * j + 2]
            if total >= 0:
                left = rounded(float32(_left(places, numbers, turns, like, tensor, j, size, room)), like)
                ratio = float32(1) if total < 1e-7 or left < 1e-7 else rounded(total / left, like)
                numbers[tensor, 3 + _OWN * j + 1] = ratio
    return True


@_inner
def _left(places, numbers, turns, like, tensor, j, size, room):
    """The sum of the magnitudes of a delta, once it is thinned out."""
    wide, delta, sums = _tile(room, 0), _tile(room, 1), _tile(room, 2)
    total, rounds, at = float64(0), 0, 0
    for i in range(_CHUNK):
        sums[i] = float32(0)
    while at < size:
        n = _alike(turns, tensor, at, min(_CHUNK, size - at))
        base = part(places[tensor, 0], at, like)
        for i in range(n):
            wide[i] = widened(base[i])
        _thinned(places, numbers, turns, like, tensor, j, at, n, wide, delta)
        for i in range(n):
            sums[i] += abs(delta[i])
        at, rounds = at + n, rounds + 1
        if rounds == _ROUNDS:
            total, rounds = total + _emptied(sums), 0
    return total + _emptied(sums)


@_inner
def _emptied(sums):
    total = float64(0)
    for i in range(_CHUNK):
        total += sums[i]
        sums[i] = float32(0)
    return total


@_compiled
def count_magnitudes(source, base, like, size, counts):
    """Add to ``counts`` how often each value of the leading 15 bits of a magnitude occurs in a delta."""
    one, other = part(source, 0, like), part(base, 0, like)
    for i in range(size):
        counts[magnitude_bits(stored(widened(one[i]) - widened(other[i]), like)) >> uint32(16)] += 1


@_compiled
def place_of_equal(source, base, like, size, magnitude, before):
    """The place in a delta of the element of these magnitude's bits that has so many before it; -1 if there is none."""
    for at in range(0, size, _CHUNK):
        one, other, found = part(source, at, like), part(base, at, like), uint32(0)
        for i in range(min(_CHUNK, size - at)):
            found += uint32(magnitude_bits(stored(widened(one[i]) - widened(other[i]), like)) == magnitude)
        if found > before:
            i = -1
            while before >= 0:
                i += 1
                before -= magnitude_bits(stored(widened(one[i]) - widened(other[i]), like)) == magnitude
            return at + i
        before -= found
    return -1


@_compiled
def arithmetic(places, numbers, turns, likes, spans, room):
    """The base, the first source, and a factor times the sum of the others' deltas, thinned out and rescaled.

    ``numbers`` begin with the factor, a divisor, and whether the sum is of those alone that have the sign of the sum of
    all, element by element. It is divided by the divisor; where that is 0, by the weights of those that are in it;
    where it is 1, by nothing. For each of the others follow its weight and its numbers of
    `thinning.Thinning.for_loops`, and ``turns`` are those of them all.
    """
    k, like, most = len(likes) - 1, likes[0], uint32(0)
    wide, result, signs, sums = _tile(room, 0), _tile(room, 1), _tile(room, 2), _tile(room, 3)
    for span in range(len(spans)):
        tensor, at = spans[span, 0], spans[span, 1]
        factor, divisor, majority = numbers[tensor, 0], numbers[tensor, 1], numbers[tensor, 2]
        while at < spans[span, 2]:
            n = _alike(turns, tensor, at, min(_CHUNK, spans[span, 2] - at))
            source = part(places[tensor, 0], at, like)
            for i in range(n):
                wide[i] = widened(source[i])
            for j in range(k):
                delta = _tile(room, 4 + j)
                _thinned(places, numbers, turns, like, tensor, j, at, n, wide, delta)
                _scale(delta, numbers[tensor, 3 + _OWN * j + 1], n, like)
                _scale(delta, numbers[tensor, 3 + _OWN * j], n, like)
            _add(room, k, result, n)
            if majority != 0:
                _add_majority(room, numbers, tensor, k, result, signs, sums, n)
            _finish(wide, result, sums, divisor, factor, n, like)
            written = part(places[tensor, k + 1], at, like)
            for i in range(n):
                element = stored(result[i], like)
                written[i] = element
                most = max(most, magnitude_bits(element))
            at += n
    return most < INFINITE


@_inner
def _add(room, k, result, n):
    first = _tile(room, 4)
    for i in range(n):
        result[i] = first[i]
    for j in range(1, k):
        delta = _tile(room, 4 + j)
        for i in range(n):
            result[i] += delta[i]


@_inner
def _add_majority(room, numbers, tensor, k, result, signs, sums, n):
    """From the sum in ``result`` the sum of those of its sign; in ``sums`` their weights."""
    for i in range(n):
        signs[i] = float32(1) if result[i] >= 0 else float32(-1)
        result[i] = sums[i] = float32(0)
    for j in range(k):
        delta, weight = _tile(room, 4 + j), numbers[tensor, 3 + _OWN * j]
        for i in range(n):
            agreeing = max(delta[i] * signs[i], float32(0))
            result[i] += agreeing
            sums[i] += weight if agreeing > 0 else float32(0)
    for i in range(n):
        result[i] *= signs[i]


@_inner
def _finish(wide, result, sums, divisor, factor, n, like):
    """Replace a sum by the base plus ``factor`` times the sum over a divisor (see `arithmetic`)."""
    if divisor == 0:
        for i in range(n):
            of_these = rounded(sums[i], like)
            result[i] = rounded(result[i], like) / (of_these if of_these != 0 else float32(1))
    elif divisor != 1:
        for i in range(n):
            result[i] = rounded(result[i], like) / divisor
    for i in range(n):
        result[i] = wide[i] + rounded(rounded(result[i], like) * factor, like)
