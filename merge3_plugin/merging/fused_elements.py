# mypy: disallow-untyped-defs=False, disallow-untyped-decorators=False, disallow-untyped-calls=False
"""Elements of tensors as `fused_loops` see them: by pointers, in fp32, and rounded to the type of one like them.

They are written for LLVM, and are no arrays, so that loops compile in half the time.
"""

from __future__ import annotations

from functools import reduce

from llvmlite import ir
from numba import float32, types, uint16, uint32
from numba.extending import intrinsic

# From these bits of a magnitude on it is not finite.
INFINITE = 0x7F800000

_BITS, _FLOAT = ir.IntType(32), ir.FloatType()


@intrinsic
def part(context, place, first, like):
    """A pointer to the elements, of the type of this one, from ``first`` on of what lies at this place."""
    pointer = types.CPointer(like)

    def generate(context, builder, signature, arguments):
        begin = builder.inttoptr(arguments[0], context.get_value_type(pointer))
        return builder.gep(begin, [arguments[1]])

    return pointer(types.int64, types.int64, like), generate


@intrinsic
def parts(context, row, first, likes):
    """A `part` of what lies at each of the places that are read from this one on, one for each of ``likes``."""
    pointers = types.UniTuple(types.CPointer(likes.dtype), likes.count)

    def generate(context, builder, signature, arguments):
        kind = context.get_value_type(pointers.dtype)
        places = _read(builder, arguments[0], ir.IntType(64), likes.count)
        begins = [builder.gep(builder.inttoptr(place, kind), [arguments[1]]) for place in places]
        return context.make_tuple(builder, pointers, begins)

    return pointers(types.int64, types.int64, likes), generate


@intrinsic
def singles(context, row, likes):
    """The fp32 that are read from this place on, one for each of ``likes``."""
    numbers = types.UniTuple(float32, likes.count)

    def generate(context, builder, signature, arguments):
        return context.make_tuple(builder, numbers, _read(builder, arguments[0], _FLOAT, likes.count))

    return numbers(types.int64, likes), generate


@intrinsic
def weighted_sum(context, sources, weights, i):
    """The sum of the elements ``i`` times their weights, in fp32, each product added unrounded."""

    def generate(context, builder, signature, arguments):
        elements, factors = _elements(builder, sources, arguments), _unpacked(builder, arguments[1])
        terms = zip(elements, factors, strict=True)
        return reduce(lambda total, term: builder.fma(*term, total), terms, _FLOAT(0.0))

    return float32(sources, weights, types.int64), generate


@intrinsic
def weighted_differences(context, sources, weights, i):
    """The sum, in fp32, of what the elements ``i`` differ by from the first one, times their weights.

    Differences and products are rounded to the type of the sources.
    """
    like = sources.dtype.dtype

    def generate(context, builder, signature, arguments):
        (first, *others), factors = _elements(builder, sources, arguments), _unpacked(builder, arguments[1])
        differences = [_rounded(builder, builder.fsub(other, first), like) for other in others]
        terms = [builder.fmul(*pair) for pair in zip(differences, factors, strict=True)]
        return reduce(builder.fadd, [_rounded(builder, term, like) for term in terms])

    return float32(sources, weights, types.int64), generate


@intrinsic
def widened(context, element):
    """An element in fp32."""

    def generate(context, builder, signature, arguments):
        return _widened(builder, arguments[0], element)

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
        return _rounded(builder, arguments[0], like)

    return float32(float32, like), generate


@intrinsic
def magnitude_bits(context, element):
    """The bits of an element without its sign, as those of an fp32; from `INFINITE` on it is not finite."""

    def generate(context, builder, signature, arguments):
        wide = _widened(builder, arguments[0], element)
        return builder.and_(builder.bitcast(wide, _BITS), _BITS(0x7FFFFFFF))

    return uint32(element), generate


def _read(builder, place, kind, n):
    """What lies side by side from a place on."""
    begin = builder.inttoptr(place, kind.as_pointer())
    return [builder.load(builder.gep(begin, [_BITS(k)])) for k in range(n)]


def _unpacked(builder, values):
    return [builder.extract_value(values, k) for k in range(values.type.count)]


def _elements(builder, sources, arguments):
    """In fp32, of all sources, the elements that the last of the ``arguments`` says, after the sources and weights."""
    pointers, _, i = arguments
    loaded = [builder.load(builder.gep(pointer, [i])) for pointer in _unpacked(builder, pointers)]
    return [_widened(builder, element, sources.dtype.dtype) for element in loaded]


def _widened(builder, element, like):
    if like != uint16:
        return element
    return builder.bitcast(builder.shl(builder.zext(element, _BITS), _BITS(16)), _FLOAT)


def _rounded(builder, number, like):
    return _widened(builder, _upper_half(builder, number), like) if like == uint16 else number


def _upper_half(builder, number):
    """The bits of the nearest bfloat16, of two the even one."""
    bits = builder.bitcast(number, _BITS)
    odd = builder.and_(builder.lshr(bits, _BITS(16)), _BITS(1))
    nearest = builder.add(builder.add(bits, _BITS(0x7FFF)), odd)
    return builder.trunc(builder.lshr(nearest, _BITS(16)), ir.IntType(16))
