# mypy: disallow-untyped-defs=False, disallow-untyped-decorators=False, disallow-untyped-calls=False
"""Elements of tensors as `fused_loops` see them: by pointers, in fp32, and rounded to the type of one like them.

They are written for LLVM, and are no arrays, so that loops compile in half the time.
"""

from __future__ import annotations

from functools import reduce

from llvmlite import ir
from numba import float32, int16, njit, types, uint16, uint32
from numba.extending import intrinsic

# How loops are compiled. Nothing of it is kept on the disk: numba would keep it as pickles.
compiled = njit(nogil=True, error_model="numpy")
# And what loops call, which is called from nowhere else.
inner = njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)

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


def _parts(kind):
    """A `part`, of elements of this kind or like the first of ``likes``, of what lies at each of some places.

    ``row`` begins with these, a ``stride`` from one to the next, and they are as many as ``likes``.
    """

    @intrinsic
    def parts(context, row, stride, first, likes):
        pointers = types.UniTuple(types.CPointer(kind or likes.dtype), likes.count)

        def generate(context, builder, signature, arguments):
            row, stride, first, _ = arguments
            pointer = context.get_value_type(pointers.dtype)
            places = _read(builder, row, stride, ir.IntType(64), likes.count)
            begins = [builder.gep(builder.inttoptr(place, pointer), [first]) for place in places]
            return context.make_tuple(builder, pointers, begins)

        return pointers(types.int64, types.int64, types.int64, likes), generate

    return parts


parts, parts_of_flags = _parts(None), _parts(types.uint8)


@intrinsic
def singles(context, row, stride, likes):
    """The fp32 that ``row`` begins with, a ``stride`` from one to the next, as many as ``likes``."""
    numbers = types.UniTuple(float32, likes.count)

    def generate(context, builder, signature, arguments):
        row, stride, _ = arguments
        return context.make_tuple(builder, numbers, _read(builder, row, stride, _FLOAT, likes.count))

    return numbers(types.int64, types.int64, likes), generate


@intrinsic
def weighted_sum(context, sources, weights, i):
    """The sum of the elements ``i`` times their weights, in fp32, each product added unrounded."""

    def generate(context, builder, signature, arguments):
        pointers, weights, i = arguments
        terms = zip(_elements(builder, sources, pointers, i), _unpacked(builder, weights), strict=True)
        return reduce(lambda total, term: builder.fma(*term, total), terms, _FLOAT(0.0))

    return float32(sources, weights, types.int64), generate


@intrinsic
def differences(context, sources, i):
    """What the elements ``i`` of the others differ by from the first source's."""
    deltas = types.UniTuple(float32, sources.count - 1)

    def generate(context, builder, signature, arguments):
        first, *others = _elements(builder, sources, *arguments)
        found = [_rounded(builder, builder.fsub(other, first), sources.dtype.dtype) for other in others]
        return context.make_tuple(builder, deltas, found)

    return deltas(sources, types.int64), generate


@intrinsic
def between(context, deltas, low, high, flags, i):
    """Deltas whose magnitude is above the one limit and not above the other, or whose flag ``i`` is set; else 0."""

    def generate(context, builder, signature, arguments):
        *of_each, pointers, i = arguments
        flagged = [builder.load(builder.gep(pointer, [i])) for pointer in _unpacked(builder, pointers)]
        found = []
        for delta, above, up_to, flag in zip(*(_unpacked(builder, of) for of in of_each), flagged, strict=True):
            size = builder.bitcast(builder.and_(builder.bitcast(delta, _BITS), _BITS(0x7FFFFFFF)), _FLOAT)
            inside = builder.and_(builder.fcmp_ordered(">", size, above), builder.fcmp_ordered("<=", size, up_to))
            kept = builder.or_(inside, builder.icmp_unsigned("!=", flag, flag.type(0)))
            found.append(builder.select(kept, delta, _FLOAT(0.0)))
        return context.make_tuple(builder, deltas, found)

    return deltas(deltas, low, high, flags, types.int64), generate


@intrinsic
def where_drawn(context, deltas, draws, probabilities, i):
    """Deltas whose draw ``i`` is below its probability; 0 for the others."""

    def generate(context, builder, signature, arguments):
        of_deltas, pointers, limits, i = arguments
        drawn, found = _elements(builder, draws, pointers, i), []
        for delta, draw, limit in zip(_unpacked(builder, of_deltas), drawn, _unpacked(builder, limits), strict=True):
            found.append(builder.select(builder.fcmp_ordered("<", draw, limit), delta, _FLOAT(0.0)))
        return context.make_tuple(builder, deltas, found)

    return deltas(deltas, draws, probabilities, types.int64), generate


@intrinsic
def times(context, deltas, factors, like):
    """Each times its factor."""

    def generate(context, builder, signature, arguments):
        pairs = zip(_unpacked(builder, arguments[0]), _unpacked(builder, arguments[1]), strict=True)
        return context.make_tuple(builder, deltas, [_rounded(builder, builder.fmul(*pair), like) for pair in pairs])

    return deltas(deltas, factors, like), generate


@intrinsic
def added(context, deltas):
    """Their sum, in fp32."""

    def generate(context, builder, signature, arguments):
        return reduce(builder.fadd, _unpacked(builder, arguments[0]))

    return float32(deltas), generate


@intrinsic
def agreeing(context, deltas, sign, weights):
    """The sum of the magnitudes of those that have this sign, 1 or -1, and that of their weights, in fp32."""
    sums = types.UniTuple(float32, 2)

    def generate(context, builder, signature, arguments):
        of_deltas, sign, of_weights = arguments
        total = of_these = zero = _FLOAT(0.0)
        for delta, weight in zip(_unpacked(builder, of_deltas), _unpacked(builder, of_weights), strict=True):
            part = builder.fmul(delta, sign)
            agrees = builder.fcmp_ordered(">", part, zero)
            total = builder.fadd(total, builder.select(agrees, part, zero))
            of_these = builder.fadd(of_these, builder.select(agrees, weight, zero))
        return context.make_tuple(builder, sums, [total, of_these])

    return sums(deltas, float32, weights), generate


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


def delta_key(builder, like, pair, i, kind):
    """The bits of the magnitude of what the elements ``i`` of two differ by, as many as each has, in a wider ``kind``.

    Elements that are int16 are such bits themselves.
    """
    one, other = (builder.load(builder.gep(pointer, [i])) for pointer in _unpacked(builder, pair))
    if like == int16:
        return builder.zext(one, kind)
    delta = builder.fsub(_widened(builder, other, like), _widened(builder, one, like))
    bits = builder.and_(builder.bitcast(_rounded(builder, delta, like), _BITS), _BITS(0x7FFFFFFF))
    bits = builder.lshr(bits, _BITS(16)) if like == uint16 else bits
    return bits if kind == _BITS else builder.zext(bits, kind)


def _read(builder, row, stride, kind, n):
    """What lies from this place on, a stride from one to the next."""
    begin = builder.inttoptr(row, kind.as_pointer())
    indices = [builder.mul(stride, stride.type(k)) for k in range(n)]
    return [builder.load(builder.gep(begin, [index])) for index in indices]


def _unpacked(builder, values):
    return [builder.extract_value(values, k) for k in range(values.type.count)]


def _elements(builder, sources, pointers, i):
    """The elements ``i`` of all sources, in fp32."""
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
