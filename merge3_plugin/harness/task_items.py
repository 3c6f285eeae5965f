"""The items of one lm-eval task, or of all leaf tasks of a group: their names, how they are asked and scored."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from merge3_plugin.domain import FloatArray
from merge3_plugin.errors import ConfigError, DataError
from merge3_plugin.extract.items import content_hash, item_ids
from merge3_plugin.extract.language import check_language, foreign
from merge3_plugin.extract.soft import soft_score
from merge3_plugin.harness.documents import Document, derive_once
from merge3_plugin.harness.labels import options
from merge3_plugin.harness.metrics import higher_is_better, is_mean, leaf_shares, metric_and_filter, unit_score

if TYPE_CHECKING:
    from lm_eval.api.group import Group
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import Task


# What stands in lm-eval's log for a generated answer in another language than the asked one: it scores nothing.
OTHER_LANGUAGE = "[other language]"


class TaskItems:
    """The documents of ``leaves`` (one task, or several of one output type) as items with ids.

    An item's id is the document's (see ``extract.items``), with ``leaf/`` before it unless the one leaf is ``name``.
    ``group`` is the group that the leaves are of, if they are of one. ``metric`` is ``metric,filter`` as in lm-eval's
    results; None stands for the only one, else acc,none. An answer in another ``language`` (ISO 639 code) than this
    scores nothing. Raises ConfigError for a metric that the tasks do not have, for leaves of several output types or
    few-shot counts, and for a language that is not known, of a task that generates nothing, or under a metric of which
    less is better.
    """

    def __init__(
        self,
        name: str,
        leaves: Mapping[str, Task],
        *,
        group: Group | None = None,
        metric: str | None = None,
        id_field: str | None = None,
        language: str | None = None,
    ) -> None:
        self.name, self.leaves, self.group, self.language = name, dict(leaves), group, language
        self.fewshot_seed: int | None = 1234  # lm-eval's default
        self.grouped = list(leaves) != [name]
        for what, of_each in (
            ("output type", [leaf.OUTPUT_TYPE for leaf in leaves.values()]),
            ("few-shot count", [leaf.config.num_fewshot for leaf in leaves.values()]),
        ):
            if len(set(of_each)) > 1:
                got = ", ".join(sorted(map(str, set(of_each))))
                raise ConfigError(f"task {name!r}: expected one {what} in all leaf tasks, got {got}; name the leaves")
        self.output_type = next(iter(leaves.values())).OUTPUT_TYPE
        if language is not None:
            if self.output_type != "generate_until":
                raise ConfigError(
                    f"task {name!r}: expected a language only for a task that generates answers, got {language!r} for "
                    f"{self.output_type}; leave it out"
                )
            check_language(name, language)
        self._choose(metric)
        self.documents: dict[str, Document] = {}
        self._leaf_of: dict[str, str] = {}
        self._options: dict[str, tuple[list[str], frozenset[int]] | None] = {}
        for leaf_name, leaf in leaves.items():
            derive_once(leaf)
            documents = [Document(document) for document in leaf.eval_docs]
            prefix = f"{leaf_name}/" if self.grouped else ""
            for own_id, document in zip(item_ids(documents, id_field), documents, strict=True):
                document.item_id = prefix + own_id
                self.documents[document.item_id] = document
                self._leaf_of[document.item_id] = leaf_name

    def with_metric(self, metric: str | None) -> TaskItems:
        """The same items, asked in the same way, under another metric."""
        other = copy.copy(self)
        other._choose(metric)
        for cached in ("balance", "per_item"):
            other.__dict__.pop(cached, None)
        return other

    def _choose(self, metric: str | None) -> None:
        self.metric, self.filter = metric_and_filter(self.name, self.leaves, metric)
        if self.language is not None and self.higher_is_better is False:
            raise ConfigError(
                f"task {self.name!r}: expected a language only for a metric of which more is better, got "
                f"{self.metric!r}, in which no score is the best; leave the language out or name another metric"
            )

    def leaf(self, document: Document) -> Task:
        """The task that a document belongs to."""
        return self.leaves[self._leaf_of[document.item_id]]

    @property
    def groups(self) -> tuple[str, ...] | None:
        """Leaf task of each item, or None for a single task."""
        return tuple(self._leaf_of.values()) if self.grouped else None

    @cached_property
    def balance(self) -> FloatArray | None:
        """How much each item counts in lm-eval's score of the group, of mean 1; None where all count alike."""
        return self.balance_among(self.documents)

    def balance_among(self, item_ids: Iterable[str]) -> FloatArray | None:
        """How much each of these items counts where no other is asked (``--limit``), of mean 1; None: all alike.

        Where sub-tasks count alike whatever their size (``weight_by_size: false``), an item of sub-task i counts
        N / (n_sub n_i) (tinyBenchmarks' balance weights).
        """
        leaves = [self._leaf_of[item] for item in item_ids]
        sizes = Counter(leaves)
        shares = None if self.group is None else leaf_shares(self.group, sizes, f"{self.metric},{self.filter}")
        if shares is None:
            return None
        weights = np.array([len(leaves) * shares[leaf] / sizes[leaf] for leaf in leaves])
        return None if np.allclose(weights, 1.0) else weights

    def balance_of(self, item_ids: Iterable[str]) -> FloatArray | None:
        """``balance`` of these items, in their order."""
        if self.balance is None:
            return None
        weights = dict(zip(self.documents, self.balance, strict=True))
        return np.array([weights[item] for item in item_ids])

    @cached_property
    def hashes(self) -> tuple[str, ...]:
        """Content hash of each item's document."""
        return tuple(content_hash(document) for document in self.documents.values())

    @property
    def higher_is_better(self) -> bool | None:
        """Which way the metric points; None where the tasks do not say."""
        return higher_is_better(self.leaves.values(), self.metric)

    @cached_property
    def per_item(self) -> bool:
        """Whether the metric is a mean of scores in [0, 1] of single items, and so can be estimated from some of them.

        lm-eval does not say which range a metric has, so one answer is tried: the target's own text, or choices of
        ever smaller likelihood.
        """
        leaf = next(iter(self.leaves.values()))
        if not all(is_mean(leaf.aggregation()[self.metric]) for leaf in self.leaves.values()):
            return False
        if getattr(leaf, "UNSAFE_CODE", False):
            return True
        item, document = next(iter(self.documents.items()))
        requests = self.requests({item: 0})[item]
        for place, request in enumerate(requests):
            generated = request.request_type == "generate_until"
            answer = str(leaf.doc_to_target(document)) if generated else (-1.0 - 3 * place, False)
            request.resps = [answer] * (request.repeats or 1)
        try:
            self.apply_filter(requests)
            values = leaf.process_results(document, [request.filtered_resps["none"] for request in requests])
        except (TypeError, ValueError, LookupError, AttributeError):  # a task's own scoring that expects other answers
            return True
        return unit_score(values.get(self.metric)) is not None

    def check_per_item(self) -> None:
        """Raise DataError where the metric is one of the whole set, which cannot be estimated from some items."""
        if not self.per_item:
            raise DataError(
                f"task {self.name!r}: expected a metric that scores single items, got {self.metric}, which only all "
                "items together have: it is no accuracy and is never estimated; name another metric, or let lm_eval "
                "give this one"
            )

    def requests(
        self,
        wanted: Mapping[str, int],
        *,
        system_instruction: str | None = None,
        apply_chat_template: bool = False,
        fewshot_as_multiturn: bool = False,
        chat_template: Callable[..., str] | None = None,
    ) -> dict[str, list[Instance]]:
        """The requests of the ``wanted`` items (id -> number in this run), as the plain task would make them.

        lm-eval draws few-shot examples from one generator for one document after another, so those of every document
        before are drawn too: an item's prompt does not depend on which others are asked, nor on the rank that asks.
        """
        for leaf in self.leaves.values():
            leaf.set_fewshot_seed(self.fewshot_seed)
        built: dict[str, list[Instance]] = {}
        for item_id, document in self.documents.items():
            leaf = self.leaf(document)
            shots = leaf.config.num_fewshot or 0
            if len(built) == len(wanted):
                break
            if item_id not in wanted and not shots:
                continue
            context = leaf.fewshot_context(
                document,
                num_fewshot=shots,
                system_instruction=system_instruction,
                apply_chat_template=apply_chat_template,
                fewshot_as_multiturn=fewshot_as_multiturn,
                chat_template=chat_template,
                gen_prefix=leaf.doc_to_prefix(document),
            )
            if item_id not in wanted:
                continue
            requests = leaf.construct_requests(
                doc=document,
                ctx=context,
                metadata=(self.name, wanted[item_id], leaf.config.repeats),
                apply_chat_template=apply_chat_template,
                chat_template=chat_template,
            )
            built[item_id] = requests if isinstance(requests, list) else [requests]
        return built

    def apply_filter(self, instances: Sequence[Instance]) -> None:
        """Leave in ``filtered_resps`` what the one filter of these items makes of the responses, under ``none``."""
        by_leaf: dict[str, list[Instance]] = {}
        for instance in instances:
            by_leaf.setdefault(self._leaf_of[instance.doc.item_id], []).append(instance)
        for leaf_name, asked in by_leaf.items():
            ensembles = {ensemble.name: ensemble for ensemble in self.leaves[leaf_name]._filters}
            ensembles[self.filter].apply(asked)
            for instance in asked:
                understood = self.language is None or not foreign(instance.resps, self.language)
                instance.filtered_resps = {
                    "none": instance.filtered_resps[self.filter] if understood else OTHER_LANGUAGE
                }

    def score(self, document: Document, responses: Sequence[Any]) -> float:
        """The metric of one item from its filtered responses. DataError if it is not a number in [0, 1]."""
        if self.language is not None and OTHER_LANGUAGE in responses:
            return 0.0
        values = self.leaf(document).process_results(document, responses)
        score = unit_score(values.get(self.metric))
        if score is None:
            raise DataError(
                f"task {self.name!r}, item {document.item_id!r}: expected a score in [0, 1] from metric "
                f"{self.metric!r}, got {values.get(self.metric)!r}; choose a metric that scores single items"
            )
        return score

    def soft(self, document: Document, responses: Sequence[Any]) -> float | None:
        """Probability given to the right option of a multiple choice, or to the target of a loglikelihood task.

        None where there are no options, none is right, or the metric does not take the most likely one.
        """
        found = self.options(document)
        return None if found is None else soft_score(self.metric, [response[0] for response in responses], *found)

    def options(self, document: Document) -> tuple[list[str], frozenset[int]] | None:
        """The texts of the options and the places of the right ones; None unless lm-eval itself scores the choice."""
        if document.item_id not in self._options:
            self._options[document.item_id] = options(self.leaf(document), document)
        return self._options[document.item_id]

    def whole(self, responses: Mapping[str, Sequence[Any]]) -> float:
        """The metric over all items by the task's own aggregation, and the group's; where it has none, by size."""
        values: dict[str, list[Any]] = {}
        for item_id, filtered in responses.items():
            document = self.documents[item_id]
            result = self.leaf(document).process_results(document, filtered)
            values.setdefault(self._leaf_of[item_id], []).append(result[self.metric])
        sizes = {leaf: len(of) for leaf, of in values.items()}
        shares = None if self.group is None else leaf_shares(self.group, sizes, f"{self.metric},{self.filter}")
        shares = shares or {leaf: size / sum(sizes.values()) for leaf, size in sizes.items()}
        return sum(
            share * float(self.leaves[leaf].aggregation()[self.metric](values[leaf])) for leaf, share in shares.items()
        )

    def set_config(self, key: str, value: Any, update: bool = False) -> None:
        """Pass a setting on to every leaf task, as lm-eval sets it."""
        for leaf in self.leaves.values():
            leaf.set_config(key, dict(value) if isinstance(value, dict) else value, update)


def template_hash(apply_chat_template: Callable[..., str]) -> str | None:
    """lm-eval's hash of a model's chat template, None without one; ``apply_chat_template`` is its bound method."""
    from lm_eval.utils import hash_string

    template = apply_chat_template.__self__.chat_template(True)  # type: ignore[attr-defined]
    return hash_string(template) if template else None
