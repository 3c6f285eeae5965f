"""Token sequences as a tree, in which what several of them begin with stands once."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

Tokens = tuple[int, ...]

# A common beginning is split off where that saves so many tokens: each split is one more step of every attention.
WORTH = 16


@dataclass(eq=False)
class Segment:
    """Tokens that follow each other from the position ``start`` on, read after all of ``parent``'s line."""

    tokens: Tokens
    start: int
    parent: Segment | None
    children: list[Segment] = field(default_factory=list)

    def line(self) -> list[Segment]:
        """This segment and those before it, from the beginning of the sequence on."""
        found: list[Segment] = []
        segment: Segment | None = self
        while segment is not None:
            found.append(segment)
            segment = segment.parent
        return found[::-1]


class TokenTree:
    """The tree of ``sequences``, which are distinct, sorted, and of at least one token.

    ``roots`` begin a sequence; ``ends`` are the segments with which the sequences end, in their order.
    """

    def __init__(self, sequences: Sequence[Tokens]) -> None:
        self._sequences = sequences
        self.roots: list[Segment] = []
        self.ends: list[Segment] = [Segment((), 0, None)] * len(sequences)
        waiting: list[tuple[int, int, int, Segment | None]] = [(0, len(sequences), 0, None)]
        while waiting:
            waiting.extend(reversed(list(self._grow(*waiting.pop()))))

    def __len__(self) -> int:
        """The number of tokens that are read."""
        return sum(len(segment.tokens) for segment in self.segments())

    def segments(self) -> Iterator[Segment]:
        """All of them, every one after its parent."""
        waiting = self.roots[::-1]
        while waiting:
            segment = waiting.pop()
            yield segment
            waiting.extend(reversed(segment.children))

    def _grow(
        self, low: int, high: int, depth: int, parent: Segment | None
    ) -> Iterator[tuple[int, int, int, Segment | None]]:
        """Begin with the sequences from ``low`` to ``high``, which share the ``depth`` tokens up to ``parent``'s end.

        Yields what is left to do, in the same terms.
        """
        if high == low:
            return
        first = self._sequences[low]
        if high - low == 1:
            ends_here = parent is not None and len(first) == depth
            self.ends[low] = parent if ends_here and parent else self._add(first[depth:], depth, parent)
            return
        # Of sorted sequences, what the first and the last share all of them do.
        shared = common(first, self._sequences[high - 1])
        if (shared - depth) * (high - low - 1) >= WORTH:
            depth, parent = shared, self._add(first[depth:shared], depth, parent)
        while low < high:
            token = self._sequences[low][shared : shared + 1]
            end = bisect_right(self._sequences, token, low, high, key=lambda tokens: tokens[shared : shared + 1])
            yield low, end, depth, parent
            low = end

    def _add(self, tokens: Tokens, start: int, parent: Segment | None) -> Segment:
        segment = Segment(tokens, start, parent)
        (self.roots if parent is None else parent.children).append(segment)
        return segment


def common(a: Tokens, b: Tokens) -> int:
    """How many tokens two sequences begin with in common."""
    for place, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return place
    return min(len(a), len(b))


def portions(sequences: Sequence[Tokens], costs: Sequence[int], limits: tuple[int, int]) -> list[list[int]]:
    """Places of the ``sequences`` (distinct, sorted) in portions, whose trees are read one after the other.

    A portion has at most so many tokens, and so high a sum of ``costs``, as ``limits``; but what ends at one segment or
    just behind it (the options of a question) is never parted. Longer sequences come first: those of a portion are
    alike in length, and memory that does not suffice is missed at once.
    """
    tree = TokenTree(sequences)
    families: dict[int, dict[int, list[int]]] = {}
    for place, end in enumerate(tree.ends):
        behind = end if end.children or end.parent is None else end.parent
        families.setdefault(id(end.line()[0]), {}).setdefault(id(behind), []).append(place)
    by_length = sorted(
        families.values(),
        key=lambda family: -max(len(sequences[place]) for group in family.values() for place in group),
    )
    found: list[list[int]] = []
    tokens = cost = 0
    read: set[int] = set()
    for group in (group for family in by_length for group in family.values()):
        line = {id(segment): len(segment.tokens) for place in group for segment in tree.ends[place].line()}
        new, more = sum(size for key, size in line.items() if key not in read), sum(costs[place] for place in group)
        if not found or tokens + new > limits[0] or cost + more > limits[1]:
            found.append([])
            read, tokens, cost, new = set(), 0, 0, sum(line.values())
        found[-1] += group
        read |= line.keys()
        tokens, cost = tokens + new, cost + more
    return [sorted(portion) for portion in found]
