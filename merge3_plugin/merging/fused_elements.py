# mypy: disallow-untyped-defs=False, disallow-untyped-decorators=False, disallow-untyped-calls=False
"""Elements of tensors as `fused_loops` see them: in memory, in fp32, and rounded to their type."""

from __future__ import annotations

import llvmlite.ir as ir
from numba import carray, float32, njit, types, uint16, uint32
from numba.extending import intrinsic, overload

inlined = njit(inline="always", error_model="numpy")

# From these bits of a magnitude on it is not finite.
INFINITE = 0x7F800000


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
def multiply_add(context, a, b, c):
    """a * b + c, rounded once, as torch adds multiples."""

    def generate(context, builder, signature, arguments):
        return builder.fma(*arguments)

    return float32(float32, float32, float32), generate


@intrinsic
def _pointer(context, place):
    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.int64), generate


@inlined
def _bits_of_bfloat16(number):
    """Those of the nearest bfloat16, of two the even one."""
    bits = _as_bits(number)
    return uint32(bits + uint32(0x7FFF) + ((bits >> uint32(16)) & uint32(1)))


def widened(element): ...


def stored(number, like): ...


def rounded(number, like): ...


def magnitude_bits(element): ...


@overload(widened, inline="always")
def _widened_of(element):
    """An element in fp32."""
    if element == uint16:
        return lambda element: _as_float(uint32(uint32(element) << uint32(16)))
    return lambda element: element


@overload(stored, inline="always")
def _stored_of(number, like):
    """A number as an element of an array like this one."""
    if like.dtype == uint16:
        return lambda number, like: uint16(_bits_of_bfloat16(number) >> uint32(16))
    return lambda number, like: number


@overload(rounded, inline="always")
def _rounded_of(number, like):
    """The same, in fp32 again."""
    if like.dtype == uint16:
        return lambda number, like: _as_float(uint32(_bits_of_bfloat16(number) & uint32(0xFFFF0000)))
    return lambda number, like: number


@overload(magnitude_bits, inline="always")
def _magnitude_of(element):
    """The bits of an element without its sign, as those of an fp32; from `INFINITE` on it is not finite."""
    if element == uint16:
        return lambda element: uint32(uint32(element & uint16(0x7FFF)) << uint32(16))
    return lambda element: uint32(_as_bits(element) & uint32(0x7FFFFFFF))


@inlined
def part(place, first, n, like):
    """``n`` elements from ``first`` on of what lies at this place."""
    return carray(_pointer(place + first * like.itemsize), n, like.dtype)
