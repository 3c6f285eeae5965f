"""The options of a document, and which of them are right."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from merge3_plugin.errors import DataError
from merge3_plugin.extract.soft import right_options

if TYPE_CHECKING:
    from lm_eval.api.task import Task

    from merge3_plugin.harness.documents import Document
    from merge3_plugin.harness.task_items import TaskItems


def check_labels(items: TaskItems, documents: Iterable[Document]) -> None:
    """Raise DataError, naming the document, where the right option of a multiple choice is none of its options.

    lm-eval would score such a document as wrong for every model.
    """
    for document in documents:
        found = items.options(document)
        if found is not None and not found[1]:
            leaf = items.leaf(document)
            target = leaf.doc_to_text(document) if leaf.multiple_input else leaf.doc_to_target(document)
            raise DataError(
                f"task {items.name!r}, item {document.item_id!r}: expected one of its {len(found[0])} choices as the "
                f"label (from 0, or as text), got {target!r}; mend or drop this document"
            )


def options(leaf: Task, document: Document) -> tuple[list[str], frozenset[int]] | None:
    """The texts of the options and the places of the right ones; None unless lm-eval itself scores them.

    The target of a loglikelihood task is its one option.
    """
    from lm_eval.api.task import ConfigurableTask

    if not isinstance(leaf, ConfigurableTask) or callable(leaf.config.process_results):
        return None
    if type(leaf).process_results is not ConfigurableTask.process_results:
        return None
    if leaf.OUTPUT_TYPE == "loglikelihood":
        return [leaf.doc_to_target(document)], frozenset({0})
    if leaf.OUTPUT_TYPE != "multiple_choice":
        return None
    choices = leaf.doc_to_choice(document)
    target = leaf.doc_to_text(document) if leaf.multiple_input else leaf.doc_to_target(document)
    return choices, right_options(target, choices)
