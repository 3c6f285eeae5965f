# mypy: disallow-untyped-defs=False, disallow-untyped-decorators=False, disallow-untyped-calls=False
"""The loops of `fused`, in the part of Python that numba compiles; their tests are those of the methods.

Each merge takes for each tensor, a row, the ``places`` in memory of its sources and of what to write, its ``numbers``
and its ``turns``; an array whose type tensors have; and ``spans``, rows of a tensor's number and of the first and last
element to write; and returns whether all that it wrote is finite. Elements are computed in fp32 and, as torch does,
rounded to their type after each step that torch has an operation for.
"""

from __future__ import annotations

import numpy as np
from numba import float32, float64, njit, uint32

from merge3_plugin.merging.fused_elements import (
    INFINITE,
    inlined,
    magnitude_bits,
    multiply_add,
    part,
    rounded,
    stored,
    widened,
)

# Elements that are worked on together: all buffers of a merge of eight sources fit into a second-level cache, those of
# two into the first.
_CHUNK = 1024


# Nothing of it is kept on the disk: numba would keep it as pickles.
_compiled = njit(nogil=True, error_model="numpy")


@_compiled
def linear(places, numbers, turns, like, spans):
    """The sum of the sources times their weights, over the last of the ``numbers``."""
    result, end = np.empty(_CHUNK, np.float32), places.shape[1] - 2
    most = uint32(0)
    for span in range(len(spans)):
        tensor, first, last = spans[span]
        for at in range(first, last, _CHUNK):
            n = min(_CHUNK, last - at)
            result[:n] = 0
            for k in range(end):
                source, weight = part(places[tensor, k], at, n, like), numbers[tensor, k]
                for i in range(n):
                    result[i] = multiply_add(widened(source[i]), weight, result[i])
            source, weight, total = part(places[tensor, end], at, n, like), numbers[tensor, end], numbers[tensor, -1]
            written = part(places[tensor, -1], at, n, like)
            for i in range(n):
                element = stored(multiply_add(widened(source[i]), weight, result[i]) / total, like)
                written[i] = element
                most = max(most, magnitude_bits(element))
    return most < INFINITE


@_compiled
def chord(places, numbers, turns, like, spans):
    """The sum of two sources times their weights; products are rounded, in fp32."""
    most = uint32(0)
    for span in range(len(spans)):
        tensor, first, last = spans[span]
        weights = numbers[tensor]
        for at in range(first, last, _CHUNK):
            n = min(_CHUNK, last - at)
            a, b = part(places[tensor, 0], at, n, like), part(places[tensor, 1], at, n, like)
            written = part(places[tensor, 2], at, n, like)
            for i in range(n):
                element = stored(widened(a[i]) * weights[0] + widened(b[i]) * weights[1], like)
                written[i] = element
                most = max(most, magnitude_bits(element))
    return most < INFINITE


@inlined
def _delta(source, base, delta, like):
    for i in range(source.size):
        delta[i] = rounded(widened(source[i]) - base[i], like)


@inlined
def _keep_between(delta, low, high):
    """Leave what is above ``low`` and up to ``high`` in magnitude."""
    for i in range(delta.size):
        size = abs(delta[i])
        delta[i] = delta[i] if (size > low) & (size <= high) else float32(0)


@inlined
def _thin(delta, at, cut, turns, like):
    """Thin out a chunk of a delta that begins ``at`` this place of the tensor (see `thinning.Thinning.for_loops`)."""
    n, done, drawn = delta.size, 0, turns[2]
    while done < n:
        # Limits are others before and after a place of their own.
        below, above = at + done < turns[0], at + done < turns[1]
        low, high = cut[0] if below else cut[1], cut[2] if above else cut[3]
        end = n
        if below:
            end = min(end, turns[0] - at)
        if above:
            end = min(end, turns[1] - at)
        if low >= 0 or high < np.inf:
            _keep_between(delta[done:end], low, high)
        done = end
    if drawn != 0:
        draws, probability = part(drawn, at, n, like), cut[4]
        for i in range(n):
            delta[i] *= float32(1) if widened(draws[i]) < probability else float32(0)


@_compiled
def magnitude_left(places, like, cut, turns):
    """The sum of the magnitudes of a delta, once it is thinned out; ``like`` is one of its two tensors."""
    sums, delta, wide = np.zeros(_CHUNK, np.float32), np.empty(_CHUNK, np.float32), np.empty(_CHUNK, np.float32)
    total, rounds = float64(0), 0
    for at in range(0, like.size, _CHUNK):
        n = min(_CHUNK, like.size - at)
        source, base = part(places[0], at, n, like), part(places[1], at, n, like)
        for i in range(n):
            wide[i] = widened(base[i])
        _delta(source, wide, delta, like)
        _thin(delta[:n], at, cut, turns, like)
        for i in range(n):
            sums[i] += abs(delta[i])
        rounds += 1
        if rounds == 16:  # so that fp32 loses next to nothing
            total, rounds = total + _emptied(sums), 0
    return total + _emptied(sums)


@_compiled
def count_magnitudes(places, like, counts):
    """Add to ``counts`` how often each value of the leading 15 bits of a magnitude occurs in a delta."""
    for at in range(0, like.size, _CHUNK):
        n = min(_CHUNK, like.size - at)
        source, base = part(places[0], at, n, like), part(places[1], at, n, like)
        for i in range(n):
            counts[magnitude_bits(stored(widened(source[i]) - widened(base[i]), like)) >> uint32(16)] += 1


@_compiled
def place_of_equal(places, like, magnitude, before):
    """The place in a delta of the element of these magnitude's bits that has so many before it; -1 if there is none."""
    equal = np.empty(_CHUNK, np.uint8)
    for at in range(0, like.size, _CHUNK):
        n = min(_CHUNK, like.size - at)
        source, base = part(places[0], at, n, like), part(places[1], at, n, like)
        found = 0
        for i in range(n):
            equal[i] = magnitude_bits(stored(widened(source[i]) - widened(base[i]), like)) == magnitude
            found += equal[i]
        if found > before:
            for i in range(n):
                before -= equal[i]
                if before < 0:
                    return at + i
        before -= found
    return -1


@inlined
def _emptied(sums):
    total = float64(0)
    for i in range(sums.size):
        total += sums[i]
        sums[i] = 0
    return total


@_compiled
def arithmetic(places, numbers, turns, like, spans):
    """The base, the first source, and a factor times the sum of the others' deltas, thinned out or not (`_thin`).

    ``numbers`` begin with the factor, a divisor, and whether the sum is of those alone that have the sign of the sum of
    all, element by element. It is divided by the divisor; where that is 0, by the weights of those that are in it;
    where it is 1, by nothing. For each of the others follow its weight, the ratio that rescales what is left of its
    delta, and five that `_thin` asks for; ``turns`` say of it whether it is thinned, and three that `_thin` asks for.
    """
    k = places.shape[1] - 2
    deltas, wide = np.empty((k, _CHUNK), np.float32), np.empty(_CHUNK, np.float32)
    result, signs, sums = np.empty(_CHUNK, np.float32), np.empty(_CHUNK, np.float32), np.empty(_CHUNK, np.float32)
    most = uint32(0)
    for span in range(len(spans)):
        tensor, first, last = spans[span]
        factor, divisor, majority = numbers[tensor, 0], numbers[tensor, 1], numbers[tensor, 2]
        own, own_turns = numbers[tensor, 3:].reshape(k, 7), turns[tensor].reshape(k, 4)
        for at in range(first, last, _CHUNK):
            n = min(_CHUNK, last - at)
            source = part(places[tensor, 0], at, n, like)
            for i in range(n):
                wide[i] = widened(source[i])
            for j in range(k):
                delta, other = deltas[j], part(places[tensor, j + 1], at, n, like)
                weight, ratio = own[j, 0], own[j, 1]
                if own_turns[j, 0]:
                    _delta(other, wide, delta, like)
                    _thin(delta[:n], at, own[j, 2:], own_turns[j, 1:], like)
                    if ratio != 1:
                        for i in range(n):
                            delta[i] = rounded(delta[i] * ratio, like)
                    for i in range(n):
                        delta[i] = rounded(delta[i] * weight, like)
                else:
                    for i in range(n):
                        delta[i] = rounded(rounded(widened(other[i]) - wide[i], like) * weight, like)
            _add(deltas, result, n)
            if majority:
                _add_majority(deltas, own, result, signs, sums, n, like)
            if divisor == 0:
                for i in range(n):
                    result[i] = rounded(result[i], like) / sums[i]
            elif divisor != 1:
                for i in range(n):
                    result[i] = rounded(result[i], like) / divisor
            written = part(places[tensor, -1], at, n, like)
            for i in range(n):
                element = stored(wide[i] + rounded(rounded(result[i], like) * factor, like), like)
                written[i] = element
                most = max(most, magnitude_bits(element))
    return most < INFINITE


@inlined
def _add(deltas, result, n):
    for i in range(n):
        result[i] = deltas[0, i]
    for j in range(1, len(deltas)):
        delta = deltas[j]
        for i in range(n):
            result[i] += delta[i]


@inlined
def _add_majority(deltas, own, result, signs, sums, n, like):
    """From the sum in ``result`` the sum of those of its sign; in ``sums`` their weights, 1 where there is none."""
    for i in range(n):
        signs[i] = float32(1) if result[i] >= 0 else float32(-1)
        result[i] = sums[i] = 0
    for j in range(len(deltas)):
        delta, weight = deltas[j], own[j, 0]
        for i in range(n):
            agreeing = max(delta[i] * signs[i], float32(0))
            result[i] += agreeing
            sums[i] += weight if agreeing > 0 else float32(0)
    for i in range(n):
        result[i] *= signs[i]
        of_these = rounded(sums[i], like)
        sums[i] = of_these if of_these != 0 else float32(1)
