# mypy: disallow-untyped-defs=False, disallow-untyped-decorators=False, disallow-untyped-calls=False
"""Elements of tensors as `fused_loops` see them: by pointers, in fp32, and rounded to the type of one like them.

They are written for LLVM, and are no arrays, so that loops compile in half the time.
"""

from __future__ import annotations

from llvmlite import ir
from numba import float32, types, uint16, uint32
from numba.extending import intrinsic

# From these bits of a magnitude on it is not finite.
INFINITE = 0x7F800000

_BITS, _FLOAT = ir.IntType(32), ir.FloatType()


@intrinsic
def multiply_add(context, a, b, c):
    """a * b + c, rounded once, as torch adds multiples."""

    def generate(context, builder, signature, arguments):
        return builder.fma(*arguments)

    return float32(float32, float32, float32), generate


@intrinsic
def part(context, place, first, like):
    """A pointer to the elements, of the type of this one, from ``first`` on of what lies at this place."""
    pointer = types.CPointer(like)

    def generate(context, builder, signature, arguments):
        begin = builder.inttoptr(arguments[0], context.get_value_type(pointer))
        return builder.gep(begin, [arguments[1]])

    return pointer(types.int64, types.int64, like), generate


@intrinsic
def widened(context, element):
    """An element in fp32."""

    def generate(context, builder, signature, arguments):
        return _from_upper_half(builder, arguments[0]) if element == uint16 else arguments[0]

    return float32(element), generate


@intrinsic
def stored(context, number, like):
    """A number as an element like this one."""

    def generate(context, builder, signature, arguments):
        return _upper_half(builder, arguments[0]) if like == uint16 else arguments[0]

    return like(float32, like), generate


@intrinsic
def rounded(context, number, like):
    """The same, in fp32 again."""

    def generate(context, builder, signature, arguments):
        if like != uint16:
            return arguments[0]
        return _from_upper_half(builder, _upper_half(builder, arguments[0]))

    return float32(float32, like), generate


@intrinsic
def magnitude_bits(context, element):
    """The bits of an element without its sign, as those of an fp32; from `INFINITE` on it is not finite."""

    def generate(context, builder, signature, arguments):
        wide = _from_upper_half(builder, arguments[0]) if element == uint16 else arguments[0]
        return builder.and_(builder.bitcast(wide, _BITS), _BITS(0x7FFFFFFF))

    return uint32(element), generate


def _from_upper_half(builder, element):
    return builder.bitcast(builder.shl(builder.zext(element, _BITS), _BITS(16)), _FLOAT)


def _upper_half(builder, number):
    """The bits of the nearest bfloat16, of two the even one."""
    bits = builder.bitcast(number, _BITS)
    odd = builder.and_(builder.lshr(bits, _BITS(16)), _BITS(1))
    nearest = builder.add(builder.add(bits, _BITS(0x7FFF)), odd)
    return builder.trunc(builder.lshr(nearest, _BITS(16)), ir.IntType(16))
