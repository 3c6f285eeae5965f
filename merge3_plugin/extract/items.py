"""What an item is called: its own field, else the hash of its content; never its position in a run."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from merge3_plugin.errors import DataError, nearest

ID_FIELDS = ("id", "_id", "question_id")

# Named as ``id_field`` where a document's own id field is not one: every item is then called by its hash.
CONTENT_HASH = "content-hash"


def drawn_order(item_ids: Iterable[str], seed: int, purpose: str) -> list[str]:
    """The items in a random order that depends on nothing but their ids, the seed and the purpose.

    A hash, unlike a shuffle, draws the same items however the data are ordered or extended, and in every language of a
    benchmark that names them alike.
    """
    return sorted(item_ids, key=lambda item: hashlib.sha256(f"{purpose}:{seed}:{item}".encode()).digest())


def content_hash(document: Mapping[str, Any]) -> str:
    """First 32 hex characters of the SHA-256 of the document's canonical JSON.

    A document and its copy in lm-eval's sample log hash equally: values that JSON lacks are written as lm-eval
    writes them, and keys are sorted only after they have become strings. Raises DataError for keys that JSON lacks.
    """
    from lm_eval.utils import handle_non_serializable

    try:
        as_logged = json.loads(json.dumps(document, default=handle_non_serializable))
    except (TypeError, ValueError) as error:
        raise DataError(
            f"document: expected one that can be written as JSON, got {error}; simplify its fields"
        ) from None
    canonical = json.dumps(as_logged, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def item_ids(documents: Sequence[Mapping[str, Any]], id_field: str | None = None) -> list[str]:
    """Distinct ids of the documents, in their order.

    An id is the document's own field (``id_field`` if given, else the first of ``ID_FIELDS`` that it fills), or its
    content hash where it has none or ``id_field`` is ``CONTENT_HASH``. The second and further copies of an equal
    document get ``#2``, ``#3`` ... Raises DataError for a field that is not there, and for different documents with
    one id.
    """
    own = [_own_id(document, id_field) for document in documents]
    places: dict[str, list[int]] = defaultdict(list)
    for place, name in enumerate(own):
        places[name].append(place)
    ids = list(own)
    for name, doubled in places.items():
        if len(doubled) == 1:
            continue
        if len({content_hash(documents[place]) for place in doubled}) > 1:
            raise DataError(_ambiguous(documents, name, id_field))
        for ordinal, place in enumerate(doubled[1:], start=2):
            ids[place] = f"{name}#{ordinal}"
    if len(set(ids)) < len(ids):
        raise DataError(_ambiguous(documents, next(i for i in ids if ids.count(i) > 1), id_field))
    return ids


def _own_id(document: Mapping[str, Any], id_field: str | None) -> str:
    if id_field == CONTENT_HASH:
        return content_hash(document)
    if id_field is None:
        own = (document[field] for field in ID_FIELDS if _is_id(document.get(field)))
        name = next(own, None)
        return content_hash(document) if name is None else str(name)
    if not _is_id(document.get(id_field)):
        hint = nearest(id_field, [field for field, value in document.items() if _is_id(value)])
        raise DataError(f"id field: expected text or a number in {id_field!r} of every document, got none{hint}")
    return str(document[id_field])


def _is_id(value: Any) -> bool:
    """Whether a field's value can name an item: filled text, or a whole number (numpy's too)."""
    if isinstance(value, str):
        return bool(value.strip())
    return hasattr(value, "__index__") and not isinstance(value, bool)


def _ambiguous(documents: Sequence[Mapping[str, Any]], name: str, id_field: str | None) -> str:
    fields = [
        field
        for field in documents[0]
        if all(_is_id(d.get(field)) for d in documents) and len({str(d[field]) for d in documents}) == len(documents)
    ]
    known = f" one of {', '.join(fields)}, or" if fields else ""
    source = f"field {id_field!r}" if id_field else f"the fields {', '.join(ID_FIELDS)}"
    return (
        f"item ids: expected one document for each id in {source}, got different documents with id {name!r}; "
        f"name another id field:{known} {CONTENT_HASH!r}"
    )
