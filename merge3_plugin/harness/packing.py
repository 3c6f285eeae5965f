"""Batches without padding: many token sequences side by side in one row, of which each token attends to its own line.

What sequences begin with in common, a question before its options or examples before their questions, stands once.
Attention alone knows of the sequences; all else, nearly all of the work, reads one row of tokens that are all wanted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from merge3_plugin.harness.token_tree import Segment, Tokens, TokenTree, portions

Places = NDArray[np.int64]

# Rows of attention share a call while padding them to one shape adds so much to its work, or costs less than a call.
PADDING, CALL = 1.3, 8192


class Reading(NamedTuple):
    """Tokens to read, of which the last ``len(targets)`` predict one target each."""

    tokens: Tokens
    targets: Tokens


@dataclass(frozen=True, eq=False)
class Bucket:
    """Rows of attention of one ``shape`` (rows, queries, keys): where in the pack those are, one row after another.

    ``mask`` (rows, 1, queries, keys) is added to what softmax is taken of; None: every query sees the keys up to it.
    """

    queries: torch.Tensor
    keys: torch.Tensor
    shape: tuple[int, int, int]
    mask: torch.Tensor | None


@dataclass(frozen=True, eq=False)
class Attention:
    """Who attends to whom in a pack: ``buckets``, and where in their outputs, joined, that of each token stands.

    ``longest`` is the length of the longest sequence.
    """

    buckets: Sequence[Bucket]
    order: torch.Tensor
    longest: int


@dataclass(frozen=True, eq=False)
class Pack:
    """One forward pass: tokens and their positions, both (1, tokens), and what is wanted of it.

    Logits are wanted at the places ``scored``. Of those, ``rows`` predict ``targets``, for the readings ``readers``.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    attention: Attention
    scored: torch.Tensor
    rows: torch.Tensor
    targets: torch.Tensor
    readers: torch.Tensor


def make_packs(
    readings: Sequence[Reading], limits: tuple[int, int], dtype: torch.dtype, device: torch.device
) -> list[Pack]:
    """Packs of at most so many tokens, and scored places, as ``limits``, for a model of this dtype and device."""
    readers: dict[Tokens, list[int]] = {}
    for reader, reading in enumerate(readings):
        readers.setdefault(reading.tokens, []).append(reader)
    sequences = sorted(readers)
    costs = [max(len(readings[reader].targets) for reader in readers[tokens]) for tokens in sequences]
    packer = _Packer(readings, readers, dtype, device)
    return [packer.pack([sequences[place] for place in portion]) for portion in portions(sequences, costs, limits)]


def tokens_packed(sequences: Iterable[Tokens]) -> int:
    """How many tokens are read for these sequences, where they share a pack."""
    return len(TokenTree(sorted(set(sequences))))


class _Row(NamedTuple):
    """Segments whose tokens attend to all ``before`` (places of tokens), and to their own segment up to themselves."""

    before: Places
    segments: Sequence[Segment]

    @property
    def size(self) -> tuple[int, int]:
        """How many queries, and how many keys."""
        queries = sum(len(segment.tokens) for segment in self.segments)
        return queries, len(self.before) + queries


class _Packer:
    def __init__(
        self,
        readings: Sequence[Reading],
        readers: Mapping[Tokens, Sequence[int]],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._readings, self._readers, self._dtype, self._device = readings, readers, dtype, device

    def pack(self, sequences: Sequence[Tokens]) -> Pack:
        tree = TokenTree(sequences)
        segments = list(tree.segments())
        ends = np.cumsum([len(segment.tokens) for segment in segments])
        places = {
            id(segment): np.arange(end - len(segment.tokens), end) for segment, end in zip(segments, ends, strict=True)
        }
        tokens = [token for segment in segments for token in segment.tokens]
        positions = np.concatenate([segment.start + np.arange(len(segment.tokens)) for segment in segments])
        lines = [np.concatenate([places[id(part)] for part in end.line()]) for end in tree.ends]
        wanted = [
            (lines[number][-len(self._readings[reader].targets) :], reader)
            for number, sequence in enumerate(sequences)
            for reader in self._readers[sequence]
        ]
        scored, rows = np.unique(np.concatenate([place for place, _ in wanted]), return_inverse=True)
        return Pack(
            self._tensor(tokens)[None],
            self._tensor(positions)[None],
            self._attention(list(_rows(tree, places)), places, max(map(len, sequences))),
            self._tensor(scored),
            self._tensor(rows),
            self._tensor([target for _, reader in wanted for target in self._readings[reader].targets]),
            self._tensor(np.repeat([reader for _, reader in wanted], [len(place) for place, _ in wanted])),
        )

    def _attention(self, rows: Sequence[_Row], places: Mapping[int, Places], longest: int) -> Attention:
        buckets, order, done = [], np.zeros(sum(row.size[0] for row in rows), dtype=np.int64), 0
        for group in _groups(rows):
            n_queries, n_keys = (max(row.size[i] for row in group) for i in (0, 1))
            queries = np.zeros((len(group), n_queries), dtype=np.int64)
            keys = np.zeros((len(group), n_keys), dtype=np.int64)
            for number, row in enumerate(group):
                own = np.concatenate([places[id(segment)] for segment in row.segments])
                queries[number, : len(own)] = own
                keys[number, : row.size[1]] = np.concatenate([row.before, own])
                order[own] = done + number * n_queries + np.arange(len(own))
            mask = self._mask(group, n_queries, n_keys) if len(group[0].before) else None
            shape = len(group), n_queries, n_keys
            buckets.append(Bucket(self._tensor(queries.ravel()), self._tensor(keys.ravel()), shape, mask))
            done += queries.size
        return Attention(buckets, self._tensor(order), longest)

    def _mask(self, rows: Sequence[_Row], n_queries: int, n_keys: int) -> torch.Tensor:
        allowed = np.zeros((len(rows), 1, n_queries, n_keys), dtype=bool)
        for number, row in enumerate(rows):
            queries, keys = row.size
            of = np.repeat(np.arange(len(row.segments)), [len(segment.tokens) for segment in row.segments])
            allowed[number, 0, :, : len(row.before)] = True
            allowed[number, 0, :queries, len(row.before) : keys] = np.tril(of[:, None] == of)
        mask = torch.zeros(allowed.shape, dtype=self._dtype)
        return mask.masked_fill_(torch.from_numpy(~allowed), -torch.inf).to(self._device)

    def _tensor(self, values: Sequence[int] | Places) -> torch.Tensor:
        return torch.as_tensor(np.asarray(values, dtype=np.int64), device=self._device)


def _rows(tree: TokenTree, places: Mapping[int, Places]) -> Iterator[_Row]:
    """Rows that cover every segment once: each alone that others follow; those that end a line with their siblings."""
    nothing = np.zeros(0, dtype=np.int64)
    for segment in tree.segments():
        before = np.concatenate([nothing, *(places[id(part)] for part in segment.line()[:-1])])
        if segment.parent is None or segment.children:
            yield _Row(before, [segment])
        # Siblings read the keys before them together. Each other's they do not see, so not too many of them at once.
        together: list[Segment] = []
        before = np.concatenate([before, places[id(segment)]])
        for child in segment.children:
            if not child.children:
                if together and _Row(before, [*together, child]).size[0] > max(64, len(before)):
                    yield _Row(before, together)
                    together = []
                together.append(child)
        if together:
            yield _Row(before, together)


def _groups(rows: Sequence[_Row]) -> Iterator[list[_Row]]:
    """Rows that share a bucket: alike in size, and all or none of them with tokens before."""
    group: list[_Row] = []
    area = 0
    for row in sorted(rows, key=lambda row: (len(row.before) > 0, row.size[1], row.size[0])):
        widest = max(row.size[0], *(other.size[0] for other in group)) if group else row.size[0]
        needed, padded = area + row.size[0] * row.size[1], (len(group) + 1) * widest * row.size[1]
        mixed = group and (len(row.before) > 0) != (len(group[0].before) > 0)
        if mixed or padded > max(PADDING * needed, needed + CALL):
            yield group
            group, needed = [], row.size[0] * row.size[1]
        group.append(row)
        area = needed
    if group:
        yield group
