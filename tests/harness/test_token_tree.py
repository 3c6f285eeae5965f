"""Token sequences as a tree: nothing is lost, and what is shared is read once."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from merge3_plugin.harness.token_tree import WORTH, TokenTree, common, portions

TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=12).map(tuple)
LONG = st.tuples(st.lists(st.integers(0, 1), max_size=2), st.integers(0, 30), TOKENS).map(
    lambda parts: (*parts[0], *[7] * parts[1], *parts[2])
)
SEQUENCES = st.sets(LONG, min_size=1, max_size=25).map(sorted)


@given(SEQUENCES)
def test_every_sequence_is_the_line_to_its_end(sequences):
    tree = TokenTree(sequences)
    for sequence, end in zip(sequences, tree.ends, strict=True):
        line = end.line()
        assert tuple(token for segment in line for token in segment.tokens) == sequence
        assert [segment.start for segment in line] == [sum(len(s.tokens) for s in line[:n]) for n in range(len(line))]
    seen = list(tree.segments())
    places = {id(segment): place for place, segment in enumerate(seen)}
    assert len(places) == len(seen)
    assert all(s.parent is None or places[id(s.parent)] < places[id(s)] for s in seen)


@given(SEQUENCES)
def test_no_token_is_read_twice_but_where_sharing_it_is_not_worth_a_step(sequences):
    distinct = len(sequences[0]) + sum(len(b) - common(a, b) for a, b in pairwise(sequences))
    assert distinct <= len(TokenTree(sequences)) <= distinct + WORTH * (len(sequences) - 1)


def test_a_question_stands_once_before_its_options_and_examples_before_their_questions():
    shots, questions = tuple(range(100)), [tuple(range(200, 240)), tuple(range(300, 320))]
    sequences = sorted((*shots, *question, *option) for question in questions for option in [(1, 2), (3,), ()])
    tree = TokenTree(sequences)
    assert len(tree) == 100 + 40 + 20 + 2 * 3
    (root,) = tree.roots
    assert root.tokens == shots and [child.tokens for child in root.children] == questions
    assert tree.ends[0] is root.children[0]  # without an option, the question itself is the end


@given(SEQUENCES, st.integers(1, 60), st.integers(1, 5))
def test_portions_hold_each_sequence_once_and_keep_to_their_limits(sequences, tokens, cost):
    found = portions(sequences, [1] * len(sequences), (tokens, cost))
    assert sorted(place for portion in found for place in portion) == list(range(len(sequences)))
    for portion in found:
        tree = TokenTree([sequences[place] for place in portion])
        if len(portion) <= cost and len(tree) <= tokens + WORTH * len(portion):
            continue
        # More than the limits only where everything ends at, or just behind, one segment.
        whole = TokenTree(sequences)
        behind = {
            id(end if end.children or end.parent is None else end.parent)
            for end in (whole.ends[place] for place in portion)
        }
        assert len(behind) == 1


def test_a_chain_of_a_thousand_beginnings_is_no_matter():
    sequences = [(1,) * n for n in range(20, 1220)]
    assert len(TokenTree(sequences)) <= 1219 + WORTH * 1200
