# mypy: disallow-untyped-defs=False, disallow-untyped-decorators=False, disallow-untyped-calls=False
"""The first elements of the order that std::sort of GNU's C++ library makes, without sorting; compiled by numba.

By this sort torch, on a CPU, orders what need not stay in order: where mergekit cuts among equal elements, it decides
which of them are kept. It is introsort (D. Musser, Introspective Sorting and Selection Algorithms, 1997): elements are
parted by the median of three until the parts are short, and these sorted by insertion. To know which elements come
first, only the part with the cut in it has to be parted again, so that it is the work of two or three levels in all;
and it is done by 64 elements at a time, whose comparisons are the bits of one number.
"""

from __future__ import annotations

from llvmlite import ir
from numba import int64, uint8, uint64
from numba.extending import intrinsic

from merge3_plugin.merging.fused_elements import compiled, delta_key, inner, part

# Parts of so many elements, or fewer, are sorted by insertion.
_SHORT = 16
_AT_ONCE = 64


@compiled
def mark_equals(tensor, base, like, size, turned, value, first, among_first, mark, room, equal, flags):
    """Write ``mark`` to the ``flags`` of the elements of this value that are ``among_first``, or of those that are not.

    The key of an element is the magnitude of its delta, in bits, of which ``turned`` ones are, which may reverse the
    order; the largest come first. At ``room`` there is place for as many items like ``equal``. False, and nothing is
    written, where medians part so badly that the sort takes another way.

    An item is a key, raised by twice ``equal`` where it is above the value. Items of the value itself lie between, and
    each says which it is: ``equal``, raised by its place.
    """
    pair, items, marked = (part(tensor, 0, like), part(base, 0, like)), part(room, 0, equal), part(flags, 0, uint8(0))
    for i in range(size):
        items[i] = _item(pair, i, turned, value, equal)
    begin, end = _ordered(items, size, first, equal)
    for i in range(begin, end):
        if (i < first) == among_first and _least(items[i]) == equal:
            marked[items[i] - equal] = mark
    return end >= 0


@inner
def _ordered(items, size, first, equal):
    """Bring the ``first`` items in front. From and up to where the equal ones lie then; -1 for having given up."""
    begin, end, low, high, levels = 0, size, 0, size, 0
    while 2 << levels <= size:
        levels += 1
    levels *= 2
    while low < first < high and high - low > _SHORT:
        if levels == 0:
            return 0, -1
        levels -= 1
        a, b, c = low + 1, low + (high - low) // 2, high - 1
        median = _median(_least(items[a]), _least(items[b]), _least(items[c]), a, b, c)
        items[low], items[median] = items[median], items[low]
        pivot = _least(items[low])
        cut = _parted(items, low + 1, high, pivot, equal)
        # All that is equal comes before the cut, where the pivot is smaller, or after it.
        if pivot < equal:
            end = min(end, cut)
        elif pivot > equal:
            begin = max(begin, cut)
        if first < cut:
            high = cut
        else:
            low = cut
    for i in range(low + 1, high if low < first < high else low):
        item, at = items[i], i
        while at > low and _least(items[at - 1]) < _least(item):
            items[at] = items[at - 1]
            at -= 1
        items[at] = item
    return begin, end


@inner
def _parted(items, low, high, pivot, equal):
    """Part the items from ``low`` up to ``high`` by a pivot, which is the least of its equals.

    Returns where the second part begins, which takes what is smaller; equals go to either. From both ends, the next
    item that need not stay is exchanged with the next of the other end, until they meet.
    """
    greatest = equal + (equal - type(equal)(1)) if pivot == equal else pivot
    # Which of 64 items from the place ``left`` on, and from ``right`` back, need not stay and are not yet exchanged.
    of_left, of_right, left, right = uint64(0), uint64(0), low, high
    while True:
        if of_left == 0:
            if high - low < _AT_ONCE:
                break
            of_left, left, low = _up_to(items, low, greatest), low, low + _AT_ONCE
        if of_right == 0:
            if high - low < _AT_ONCE:
                break
            of_right, right, high = _from(items, high - _AT_ONCE, pivot), high - 1, high - _AT_ONCE
        while of_left != 0 and of_right != 0:
            one, other = left + _lowest(of_left), right - _lowest(of_right)
            items[one], items[other] = items[other], items[one]
            of_left, of_right = _without_lowest(of_left), _without_lowest(of_right)
    if of_left != 0:
        low = left + _lowest(of_left)
    if of_right != 0:
        high = right - _lowest(of_right) + 1
    while True:
        while items[low] > greatest:
            low += 1
        high -= 1
        while items[high] < pivot:
            high -= 1
        if low >= high:
            return low
        items[low], items[high] = items[high], items[low]
        low += 1


@intrinsic
def _item(context, pair, i, turned, value, equal):
    """The item of the element ``i``."""

    def generate(context, builder, signature, arguments):
        pair, i, turned, value, equal = arguments
        key = delta_key(builder, signature.args[0].dtype.dtype, pair, i, equal.type)
        key = builder.xor(key, turned)
        above = builder.add(key, builder.add(equal, equal))
        place = builder.add(equal, builder.trunc(i, equal.type) if equal.type.width < 64 else i)
        return builder.select(
            builder.icmp_unsigned("==", key, value),
            place,
            builder.select(builder.icmp_unsigned(">", key, value), above, key),
        )

    return equal(pair, int64, turned, value, equal), generate


@intrinsic
def _least(context, item):
    """The least of the items that are equal to this one."""

    def generate(context, builder, signature, arguments):
        (item,) = arguments
        equal = item.type(2 ** (item.type.width - 2))
        is_equal = builder.icmp_unsigned("<", builder.sub(item, equal), equal)
        return builder.select(is_equal, equal, item)

    return item(item), generate


@intrinsic
def _median(context, x, y, z, a, b, c):
    """Of a, b and c the one whose item, x, y or z, is the median; of equal ones the one that std::sort takes."""

    def generate(context, builder, signature, arguments):
        x, y, z, a, b, c = arguments

        def above(one, other, then, otherwise):
            return builder.select(builder.icmp_unsigned(">", one, other), then, otherwise)

        return above(x, y, above(y, z, b, above(x, z, c, a)), above(x, z, a, above(y, z, c, b)))

    return a(x, y, z, a, b, c), generate


def _compared(how, backwards):
    """Which of 64 items, from one on, compare so with a limit; the first, or the last, in the lowest bit."""

    @intrinsic
    def compared(context, items, first, limit):
        limit = items.dtype

        def generate(context, builder, signature, arguments):
            items, first, limit = arguments
            kind = ir.VectorType(limit.type, _AT_ONCE)
            place = builder.bitcast(builder.gep(items, [first]), kind.as_pointer())
            numbers = builder.load(place, align=limit.type.width // 8)
            undefined, index = ir.Constant(kind, ir.Undefined), ir.IntType(32)
            one = builder.insert_element(undefined, limit, index(0))
            limits = builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(index, _AT_ONCE), [0] * _AT_ONCE))
            bits = builder.bitcast(builder.icmp_unsigned(how, numbers, limits), ir.IntType(64))
            return builder.bitreverse(bits) if backwards else bits

        return uint64(items, int64, limit), generate

    return compared


_up_to, _from = _compared("<=", backwards=False), _compared(">=", backwards=True)


@intrinsic
def _lowest(context, bits):
    """The place of the lowest bit of a number that is not 0."""

    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.IntType(1)(1))

    return int64(uint64), generate


@intrinsic
def _without_lowest(context, bits):
    def generate(context, builder, signature, arguments):
        (bits,) = arguments
        return builder.and_(bits, builder.sub(bits, bits.type(1)))

    return uint64(uint64), generate
