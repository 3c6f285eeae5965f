"""Item ids: own fields, content hashes, doubled and ambiguous documents."""

import datetime
import decimal
import json

import numpy as np
import pytest

from merge3_plugin.errors import DataError
from merge3_plugin.extract.items import CONTENT_HASH, content_hash, item_ids


def logged(document):
    from lm_eval.utils import handle_non_serializable

    return json.loads(json.dumps(document, default=handle_non_serializable, ensure_ascii=False))


@pytest.mark.parametrize(
    "document",
    [
        {"question": "答えは?", "choices": ("はい", "いいえ"), "label": np.int64(1)},
        {"when": datetime.datetime(2024, 1, 2, 3), "price": decimal.Decimal("1.50"), "score": np.float32(0.1)},
        {10: "ten", 9: "nine", "8": None, "nested": {2: [np.bool_(True), float("nan")]}},
        {"array": np.arange(3), "bytes": b"\x00", "surrogate": "\ud800"},
    ],
)
def test_a_document_and_its_logged_copy_hash_equally(document):
    assert content_hash(document) == content_hash(logged(document))
    assert content_hash(document) == content_hash(dict(reversed(document.items())))


def test_different_documents_hash_differently():
    documents = [{"q": "1"}, {"q": 1}, {"q": 1.5}, {"Q": "1"}, {"q": ["1"]}, {"q": None}, {}]
    hashes = {content_hash(d) for d in documents}
    assert len(hashes) == len(documents)
    assert all(len(h) == 32 and int(h, 16) >= 0 for h in hashes)


def test_a_document_that_json_lacks_is_an_error():
    with pytest.raises(DataError, match="written as JSON"):
        content_hash({("a", "b"): 1})


def test_own_fields_come_first_in_their_order():
    assert item_ids([{"_id": "b", "id": "a", "question_id": 7}]) == ["a"]
    assert item_ids([{"_id": "b", "question_id": 7}, {"question_id": np.int64(7)}]) == ["b", "7"]
    assert item_ids([{"id": "a", "number": 3}], id_field="number") == ["3"]


@pytest.mark.parametrize("empty", [None, "", "  ", {"paragraph": 1}, True])
def test_a_field_that_names_nothing_gives_the_hash(empty):
    document = {"id": empty, "q": "x"}
    assert item_ids([document]) == [content_hash(document)]


def test_ids_do_not_depend_on_position():
    documents = [{"q": str(i)} for i in range(5)] + [{"id": i, "q": "same"} for i in range(5)]
    forward = dict(zip(item_ids(documents), documents, strict=True))
    backward = dict(zip(item_ids(documents[::-1]), documents[::-1], strict=True))
    assert forward == backward


def test_equal_documents_get_an_ordinal():
    plain = content_hash({"q": "x"})
    assert item_ids([{"q": "x"}, {"q": "y"}, {"q": "x"}, {"q": "x"}]) == [
        plain,
        content_hash({"q": "y"}),
        f"{plain}#2",
        f"{plain}#3",
    ]
    assert item_ids([{"id": "a", "q": "x"}, {"id": "a", "q": "x"}]) == ["a", "a#2"]


def test_different_documents_with_one_id_name_the_fields_that_would_do():
    documents = [{"id": "a", "q": "x", "n": 1, "same": "s"}, {"id": "a", "q": "y", "n": 2, "same": "s"}]
    with pytest.raises(DataError, match=r"different documents with id 'a'.*one of q, n, or 'content-hash'$"):
        item_ids(documents)
    assert item_ids(documents, "n") == ["1", "2"]
    assert item_ids(documents, CONTENT_HASH) == [content_hash(d) for d in documents]


def test_an_ordinal_that_is_already_an_id_is_an_error():
    with pytest.raises(DataError, match="a#2"):
        item_ids([{"id": "a"}, {"id": "a"}, {"id": "a#2"}])


def test_a_named_field_that_is_missing_names_the_nearest():
    with pytest.raises(DataError, match="did you mean 'question_number'"):
        item_ids([{"question_number": 1, "q": "x"}], id_field="question_numbr")
