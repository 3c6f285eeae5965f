"""Documents that know their item, and tasks that derive what they need of each one once."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lm_eval.api.task import Task

# What lm-eval derives from a document whenever it scores it.
_DERIVED = ("doc_to_text", "doc_to_target", "doc_to_choice")
# How many templates are kept as they are compiled; a task has three.
_TEMPLATES = 1000


class Document(dict[str, Any]):
    """A document of a task that knows its item; equal to the plain document, and logged as it."""

    item_id: str


def derive_once(leaf: Task) -> None:
    """Let a task derive each of these once from each document with an id, by templates that are compiled once."""
    _compile_once()

    def once(derive: Callable[..., Any]) -> Callable[..., Any]:
        known: dict[str, Any] = {}

        @wraps(derive)
        def derived(document: Any, *others: Any, **named: Any) -> Any:
            if others or named or not isinstance(document, Document):
                return derive(document, *others, **named)
            if document.item_id not in known:
                known[document.item_id] = derive(document)
            return known[document.item_id]

        return derived

    for name in _DERIVED:
        if hasattr(leaf, name):
            setattr(leaf, name, once(getattr(leaf, name)))


def _compile_once() -> None:
    """Let lm-eval keep its templates: it compiles them anew for each document, which takes most of a task's reading."""
    from lm_eval.utils import env

    if "from_string" not in vars(env):
        env.from_string = lru_cache(_TEMPLATES)(env.from_string)
