# mypy: disallow-untyped-defs=False, disallow-untyped-decorators=False, disallow-untyped-calls=False
"""The loops of `fused`, in the part of Python that numba compiles; their tests are those of the methods.

Each takes the ``places`` of the sources in memory, the array to write, the place in the tensor where that begins, and
which of its elements to write; and returns whether all that it wrote is finite. Elements are computed in fp32 and, as
torch does, rounded to the type of the array after each step that torch has an operation for.
"""

from __future__ import annotations

import llvmlite.ir as ir
import numpy as np
from numba import carray, float32, float64, njit, types, uint16, uint32
from numba.extending import intrinsic, overload

# Elements that are worked on together: all buffers of a merge of eight sources fit into a second-level cache, those of
# two into the first.
_CHUNK = 1024


# Nothing of it is kept on the disk: numba would keep it as pickles.
_compiled = njit(nogil=True, error_model="numpy")


@intrinsic
def _as_float(context, bits):
    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return float32(uint32), generate


@intrinsic
def _as_bits(context, number):
    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(32))

    return uint32(float32), generate


@intrinsic
def _multiply_add(context, a, b, c):
    """a * b + c, rounded once, as torch adds multiples."""

    def generate(context, builder, signature, arguments):
        return builder.fma(*arguments)

    return float32(float32, float32, float32), generate


@intrinsic
def _pointer(context, place):
    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.int64), generate


@njit(inline="always", error_model="numpy")
def _bits_of_bfloat16(number):
    """Those of the nearest bfloat16, of two the even one."""
    bits = _as_bits(number)
    return uint32(bits + uint32(0x7FFF) + ((bits >> uint32(16)) & uint32(1)))


def _wide(element): ...


def _stored(number, like): ...


def _rounded(number, like): ...


def _magnitude(element): ...


@overload(_wide, inline="always")
def _wide_of(element):
    """An element in fp32."""
    if element == uint16:
        return lambda element: _as_float(uint32(uint32(element) << uint32(16)))
    return lambda element: element


@overload(_stored, inline="always")
def _stored_of(number, like):
    """A number as an element of an array like this one."""
    if like.dtype == uint16:
        return lambda number, like: uint16(_bits_of_bfloat16(number) >> uint32(16))
    return lambda number, like: number


@overload(_rounded, inline="always")
def _rounded_of(number, like):
    """The same, in fp32 again."""
    if like.dtype == uint16:
        return lambda number, like: _as_float(uint32(_bits_of_bfloat16(number) & uint32(0xFFFF0000)))
    return lambda number, like: number


@overload(_magnitude, inline="always")
def _magnitude_of(element):
    """The bits of an element without its sign, as those of an fp32; from `_INFINITE` on it is not finite."""
    if element == uint16:
        return lambda element: uint32(uint32(element & uint16(0x7FFF)) << uint32(16))
    return lambda element: uint32(_as_bits(element) & uint32(0x7FFFFFFF))


_INFINITE = 0x7F800000


@njit(inline="always", error_model="numpy")
def _part(place, first, n, like):
    """``n`` elements from ``first`` on of what lies at this place."""
    return carray(_pointer(place + first * like.itemsize), n, like.dtype)


@_compiled
def linear(places, out, start, first, last, weights, total):
    """The sum of the sources times their ``weights``, over ``total``."""
    result, end = np.empty(_CHUNK, np.float32), len(weights) - 1
    most = uint32(0)
    for at in range(first, last, _CHUNK):
        n = min(_CHUNK, last - at)
        result[:n] = 0
        for k in range(end):
            source, weight = _part(places[k], at, n, out), weights[k]
            for i in range(n):
                result[i] = _multiply_add(_wide(source[i]), weight, result[i])
        source, weight, written = _part(places[end], at, n, out), weights[end], out[at : at + n]
        for i in range(n):
            element = _stored(_multiply_add(_wide(source[i]), weight, result[i]) / total, out)
            written[i] = element
            most = max(most, _magnitude(element))
    return most < _INFINITE


@_compiled
def chord(places, out, start, first, last, order, weights):
    """The sum of two sources, in this order, times their ``weights``; products are rounded, in fp32."""
    most = uint32(0)
    for at in range(first, last, _CHUNK):
        n = min(_CHUNK, last - at)
        a, b = _part(places[order[0]], at, n, out), _part(places[order[1]], at, n, out)
        written = out[at : at + n]
        for i in range(n):
            element = _stored(_wide(a[i]) * weights[0] + _wide(b[i]) * weights[1], out)
            written[i] = element
            most = max(most, _magnitude(element))
    return most < _INFINITE


@njit(inline="always", error_model="numpy")
def _delta(source, base, delta, like):
    for i in range(source.size):
        delta[i] = _rounded(_wide(source[i]) - base[i], like)


@njit(inline="always", error_model="numpy")
def _keep_between(delta, low, high):
    """Leave what is above ``low`` and up to ``high`` in magnitude."""
    for i in range(delta.size):
        size = abs(delta[i])
        delta[i] = delta[i] if (size > low) & (size <= high) else float32(0)


@njit(inline="always", error_model="numpy")
def _thin(delta, at, cut, turns, drawn, like):
    """Thin out a chunk of a delta that begins ``at`` this place of the tensor (see `thinning.Thinning`)."""
    n, done = delta.size, 0
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
        draws, probability = _part(drawn, at, n, like), cut[4]
        for i in range(n):
            delta[i] *= float32(1) if _wide(draws[i]) < probability else float32(0)


@_compiled
def magnitude_left(places, like, cut, turns, drawn):
    """The sum of the magnitudes of a delta, once it is thinned out; ``like`` is one of its two tensors."""
    sums, delta, wide = np.zeros(_CHUNK, np.float32), np.empty(_CHUNK, np.float32), np.empty(_CHUNK, np.float32)
    total, rounds = float64(0), 0
    for at in range(0, like.size, _CHUNK):
        n = min(_CHUNK, like.size - at)
        source, base = _part(places[0], at, n, like), _part(places[1], at, n, like)
        for i in range(n):
            wide[i] = _wide(base[i])
        _delta(source, wide, delta, like)
        _thin(delta[:n], at, cut, turns, drawn, like)
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
        source, base = _part(places[0], at, n, like), _part(places[1], at, n, like)
        for i in range(n):
            counts[_magnitude(_stored(_wide(source[i]) - _wide(base[i]), like)) >> uint32(16)] += 1


@_compiled
def place_of_equal(places, like, magnitude, before):
    """The place in a delta of the element of these magnitude's bits that has so many before it; -1 if there is none."""
    equal = np.empty(_CHUNK, np.uint8)
    for at in range(0, like.size, _CHUNK):
        n = min(_CHUNK, like.size - at)
        source, base = _part(places[0], at, n, like), _part(places[1], at, n, like)
        found = 0
        for i in range(n):
            equal[i] = _magnitude(_stored(_wide(source[i]) - _wide(base[i]), like)) == magnitude
            found += equal[i]
        if found > before:
            for i in range(n):
                before -= equal[i]
                if before < 0:
                    return at + i
        before -= found
    return -1


@njit(inline="always", error_model="numpy")
def _emptied(sums):
    total = float64(0)
    for i in range(sums.size):
        total += sums[i]
        sums[i] = 0
    return total


@_compiled
def arithmetic(
    places, out, start, first, last,
    base, others, scales, thinned, cuts, turns, drawn, divisor, factor, majority,
):  # fmt: skip
    """The base and ``factor`` times the sum of the others' deltas times their ``scales``, ``thinned`` or not (`_thin`).

    ``scales`` has for each of the others the ratio that rescales what is left of its delta, and its weight. If
    ``majority``, the sum is of those that have the sign of the sum of all, element by element. It is divided by
    ``divisor``; where that is 0, by the weights of those that are in it; where it is 1, by nothing.
    """
    k = len(others)
    deltas, wide = np.empty((k, _CHUNK), np.float32), np.empty(_CHUNK, np.float32)
    result, signs, sums = np.empty(_CHUNK, np.float32), np.empty(_CHUNK, np.float32), np.empty(_CHUNK, np.float32)
    most = uint32(0)
    for at in range(first, last, _CHUNK):
        n = min(_CHUNK, last - at)
        source = _part(places[base], at, n, out)
        for i in range(n):
            wide[i] = _wide(source[i])
        for j in range(k):
            delta, other, ratio, weight = deltas[j], _part(places[others[j]], at, n, out), scales[j, 0], scales[j, 1]
            if thinned[j]:
                _delta(other, wide, delta, out)
                _thin(delta[:n], start + at, cuts[j], turns[j], drawn[j], out)
                if ratio != 1:
                    for i in range(n):
                        delta[i] = _rounded(delta[i] * ratio, out)
                for i in range(n):
                    delta[i] = _rounded(delta[i] * weight, out)
            else:
                for i in range(n):
                    delta[i] = _rounded(_rounded(_wide(other[i]) - wide[i], out) * weight, out)
        _add(deltas, result, n)
        if majority:
            _add_majority(deltas, scales, result, signs, sums, n, out)
        if divisor == 0:
            for i in range(n):
                result[i] = _rounded(result[i], out) / sums[i]
        elif divisor != 1:
            for i in range(n):
                result[i] = _rounded(result[i], out) / divisor
        written = out[at : at + n]
        for i in range(n):
            element = _stored(wide[i] + _rounded(_rounded(result[i], out) * factor, out), out)
            written[i] = element
            most = max(most, _magnitude(element))
    return most < _INFINITE


@njit(inline="always", error_model="numpy")
def _add(deltas, result, n):
    for i in range(n):
        result[i] = deltas[0, i]
    for j in range(1, len(deltas)):
        delta = deltas[j]
        for i in range(n):
            result[i] += delta[i]


@njit(inline="always", error_model="numpy")
def _add_majority(deltas, scales, result, signs, sums, n, like):
    """From the sum in ``result`` the sum of those of its sign; in ``sums`` their weights, 1 where there is none."""
    for i in range(n):
        signs[i] = float32(1) if result[i] >= 0 else float32(-1)
        result[i] = sums[i] = 0
    for j in range(len(deltas)):
        delta, weight = deltas[j], scales[j, 1]
        for i in range(n):
            part = max(delta[i] * signs[i], float32(0))
            result[i] += part
            sums[i] += weight if part > 0 else float32(0)
    for i in range(n):
        result[i] *= signs[i]
        of_these = _rounded(sums[i], like)
        sums[i] = of_these if of_these != 0 else float32(1)
