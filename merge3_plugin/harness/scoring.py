"""Scores of single items on a live model, with prompts and tokens built once for a whole search."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from merge3_plugin.errors import DataError, nearest
from merge3_plugin.harness.benchmark import Benchmark
from merge3_plugin.harness.task_items import TaskItems, template_hash

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from merge3_plugin.harness.live_model import LiveModel
    from merge3_plugin.harness.packed_lm import Plan, TokenRequest
    from merge3_plugin.harness.vllm_model import VllmModel


class Scores(NamedTuple):
    """Scores in [0, 1] of single items by id: the metric's, and the probability given to the right option.

    ``soft`` lacks the items that have no options, or no right one.
    """

    right: dict[str, float]
    soft: dict[str, float]


class Price(NamedTuple):
    """What scoring takes: item evaluations, and the tokens that forward passes read for them, padding aside."""

    items: int = 0
    tokens: int = 0

    def plus(self, other: Price) -> Price:
        return Price(self.items + other.items, self.tokens + other.tokens)

    def less(self, other: Price) -> Price:
        return Price(self.items - other.items, self.tokens - other.tokens)


NOTHING = Price()

# Sets of items whose reading is kept: those of the parents, and of a few generations.
_PLANS = 16


class Scorer:
    """Scores ``benchmarks`` on the current weights of ``model``, which may change in place between calls.

    Scores equal those of lm-eval's ``hf`` model with the same settings. What is read together depends on the items of a
    call alone, so a score depends on the weights and on the set of items asked: others can move a log-likelihood in its
    last bits, which shows only between choices as close as that. One thread at a time asks; any may ask for a `price`.
    Others beside it, each with a model and a thread of its own, take their requests from the ``first`` of them, and
    the other arguments are the same then. What an ``engine`` makes of the live model answers in its place.
    Raises DataError for unknown items, scores outside [0, 1], and log-likelihoods that are not finite.
    """

    def __init__(
        self,
        benchmarks: Mapping[str, Benchmark],
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int = 32,
        apply_chat_template: bool = False,
        fewshot_as_multiturn: bool = False,
        system_instruction: str | None = None,
        gen_kwargs: Mapping[str, Any] | None = None,
        first: Scorer | None = None,
        engine: Callable[[LiveModel], VllmModel] | None = None,
    ) -> None:
        from merge3_plugin.harness.live_model import LiveModel

        self._benchmarks = dict(benchmarks)
        self._live = LiveModel(model, tokenizer, batch_size)
        self.engine = engine(self._live) if engine else None
        self._model = self.engine or self._live
        self._prompting: dict[str, Any] = {
            "system_instruction": system_instruction,
            "apply_chat_template": apply_chat_template,
            "fewshot_as_multiturn": fewshot_as_multiturn,
            "chat_template": self._live.apply_chat_template if apply_chat_template else None,
        }
        for benchmark in self._benchmarks.values():
            if gen_kwargs and benchmark.items.output_type == "generate_until":
                benchmark.items.set_config("generation_kwargs", dict(gen_kwargs), update=True)
        self._first, self._others = first, list[Scorer]()
        if first:
            first._others.append(self)
        # For what is built once, and for lm-eval's tasks, some of whose metrics collect answers on the way.
        self._building: Any = first._building if first else threading.RLock()
        self._judging: Any = first._judging if first else threading.Lock()
        self._requests: dict[int, dict[str, list[Instance]]] = {}  # by the id() of the documents they ask
        # By the id() of the documents, and the item.
        self._tokens: dict[tuple[int, str], list[TokenRequest]] = first._tokens if first else {}
        self._plans: dict[tuple[int, frozenset[str]], Plan] = {}  # by the id() of the documents, and the items
        self._read: dict[tuple[int, str], int] = {}  # by the id() of the documents, and the item

    @property
    def halved(self) -> bool:
        """Whether memory ran out here or, of the first, in one beside it: half as much is read at a time since then."""
        return self._live.halved or any(other.halved for other in self._others)

    def halve(self) -> None:
        """Begin as after memory ran out, with all that are beside the first."""
        for scorer in (self, *self._others):
            if not scorer._live.halved:
                scorer._live.halve()

    def provenance(self, task: str) -> dict[str, Any]:
        """The benchmark's provenance and how this scorer asks it."""
        template = self._prompting["chat_template"]
        return {
            **self._benchmark(task).provenance,
            "chat_template": None if template is None else template_hash(template),
            "fewshot_as_multiturn": self._prompting["fewshot_as_multiturn"],
            "system_instruction": self._prompting["system_instruction"],
        }

    def requests(self, task: str) -> Mapping[str, Sequence[Instance]]:
        """What the model is asked, by item; built at first use, and not to be changed."""
        return self._built(task)

    def live(self, task: str) -> tuple[TaskItems, LiveModel]:
        """The items of a task, and the model that is asked them."""
        return self._benchmark(task).items, self._live

    def score(self, task: str, item_ids: Iterable[str]) -> Scores:
        """Scores of each of these items, in the benchmark's order."""
        return self.evaluate({task: item_ids})[0][task]

    def evaluate(
        self, items: Mapping[str, Iterable[str]], whole: Iterable[str] = ()
    ) -> tuple[dict[str, Scores], dict[str, float]]:
        """Scores of the ``items`` (task -> ids), and the metrics of the ``whole`` tasks over all of theirs, by task.

        The weights must stay as they are meanwhile: the metrics of one lm-eval task share its requests and responses.
        """
        asked = {task: frozenset(ids) for task, ids in items.items()}
        entire = {task: frozenset(self._benchmark(task).item_ids) for task in whole}
        for task, wanted in self._together({**asked, **entire}):
            self._respond(task, wanted)
        with self._judging:
            values = {
                task: self._benchmark(task).items.whole(self._filtered(task, ids)) for task, ids in entire.items()
            }
            return {task: self._scores(task, ids) for task, ids in asked.items()}, values

    def price(self, items: Mapping[str, Iterable[str]], whole: Iterable[str] = ()) -> Price:
        """What `evaluate` would take, without asking the model: never less, and as much unless answers end early.

        An item counts once for each task that it is scored for; metrics of one lm-eval task share its tokens. Of
        generated answers the tokens are those of the prompt and the most that may be generated.
        """
        asked = {task: frozenset(ids) for task, ids in items.items()}
        asked |= {task: frozenset(self._benchmark(task).item_ids) for task in whole}
        with self._building:
            read = sum(self._read_for(task, ids) for task, ids in self._together(asked))
        return Price(sum(map(len, asked.values())), read)

    def _read_for(self, task: str, item_ids: Collection[str]) -> int:
        documents = id(self._benchmark(task).items.documents)
        new = self._chosen(task, [item for item in item_ids if (documents, item) not in self._read])
        if any(instances[0].request_type == "loglikelihood" for instances in new.values()):
            self._encoded(task, new)
        for item, instances in new.items():
            if instances[0].request_type == "loglikelihood":
                read = self._live.tokens_scored(self._tokens[documents, item])
            else:
                read = sum((i.repeats or 1) * self._live.tokens_read(i) for i in instances)
            self._read[documents, item] = read
        return sum(self._read[documents, item] for item in item_ids)

    def _together(self, asked: Mapping[str, frozenset[str]]) -> list[tuple[str, set[str]]]:
        """The items by their documents, under one of the tasks that share these. DataError for unknown ones."""
        found: dict[int, tuple[str, set[str]]] = {}
        for task, ids in asked.items():
            documents = self._benchmark(task).items.documents
            if unknown := ids - documents.keys():
                raise DataError(f"task {task!r}: expected its items, got {min(unknown)!r}, which is not one of them")
            found.setdefault(id(documents), (task, set()))[1].update(ids)
        return list(found.values())

    def _scores(self, task: str, item_ids: Collection[str]) -> Scores:
        items = self._benchmark(task).items
        responses = self._filtered(task, item_ids)
        right = {item: items.score(items.documents[item], of) for item, of in responses.items()}
        soft = {item: items.soft(items.documents[item], of) for item, of in responses.items()}
        return Scores(right, {item: score for item, score in soft.items() if score is not None})

    def _benchmark(self, task: str) -> Benchmark:
        if task not in self._benchmarks:
            raise DataError(f"scorer: expected one of its tasks, got {task!r}{nearest(task, self._benchmarks)}")
        return self._benchmarks[task]

    def _respond(self, task: str, item_ids: Collection[str]) -> None:
        """Ask the model these items; the requests keep its responses."""
        instances = [instance for of in self._chosen(task, item_ids).values() for instance in of]
        if not instances:
            return
        for instance in instances:
            instance.resps = []
        kind = instances[0].request_type
        if kind == "loglikelihood":
            answers = self._model.score(self._plan(task, frozenset(item_ids)))
            answers = [answer for i, answer in zip(instances, answers, strict=True) for _ in range(i.repeats or 1)]
        repeated = [instance for instance in instances for _ in range(instance.repeats or 1)]
        if kind != "loglikelihood":
            answers = getattr(self._model, kind)(repeated, disable_tqdm=True)
        for instance, answer in zip(repeated, answers, strict=True):
            instance.resps.append(answer)

    def _plan(self, task: str, item_ids: frozenset[str]) -> Plan:
        key = id(self._benchmark(task).items.documents), item_ids
        if key not in self._plans:
            if len(self._plans) == _PLANS:
                del self._plans[next(iter(self._plans))]
            self._plans[key] = self._model.plan(self._encoded(task, item_ids))
        return self._plans[key]

    def _encoded(self, task: str, item_ids: Collection[str]) -> list[TokenRequest]:
        """The token requests of these items, in the order of their requests; made when an item is first asked."""
        with self._building:
            documents, chosen = id(self._benchmark(task).items.documents), self._chosen(task, item_ids)
            new = {item: instances for item, instances in chosen.items() if (documents, item) not in self._tokens}
            made = iter(self._live.encode([instance for of in new.values() for instance in of]))
            for item, instances in new.items():
                self._tokens[documents, item] = [next(made) for _ in instances]
            return [request for item in chosen for request in self._tokens[documents, item]]

    def _filtered(self, task: str, item_ids: Collection[str]) -> dict[str, list[Any]]:
        """What the task's filter makes of the kept responses to each item."""
        chosen = self._chosen(task, item_ids)
        instances = [instance for of in chosen.values() for instance in of]
        for instance in instances:
            instance.filtered_resps = {}
        self._benchmark(task).items.apply_filter(instances)
        return {item: [i.filtered_resps["none"] for i in of] for item, of in chosen.items()}

    def _chosen(self, task: str, item_ids: Collection[str]) -> dict[str, list[Instance]]:
        """The requests of these items, in the order of the documents."""
        built = self._built(task)
        return {item: built[item] for item in sorted(item_ids, key=lambda item: built[item][0].doc_id)}

    def _built(self, task: str) -> dict[str, list[Instance]]:
        """All requests of the task by item, each item's in the order of its choices; built at first use."""
        with self._building:
            key = id(self._benchmark(task).items.documents)
            if key not in self._requests:
                self._requests[key] = self._made(task) if self._first is None else self._taken(task, self._first)
            return self._requests[key]

    def _made(self, task: str) -> dict[str, list[Instance]]:
        items = self._benchmark(task).items
        numbers = {item: number for number, item in enumerate(items.documents)}
        built = items.requests(numbers, **self._prompting)
        for instances in built.values():
            instances.sort(key=lambda instance: instance.idx)
        return built

    def _taken(self, task: str, first: Scorer) -> dict[str, list[Instance]]:
        """The requests of the ``first`` scorer, with room for responses of their own."""
        taken = {}
        for item, instances in first._built(task).items():
            taken[item] = [copy.copy(instance) for instance in instances]
            for own in taken[item]:
                own.resps, own.filtered_resps = [], {}
        return taken
