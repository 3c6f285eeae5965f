"""How much a model reads for the items of a task, from a few of them: tokens an item, and the longest request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from merge3_plugin.harness.benchmark import Benchmark

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

# So many items of a task stand for all of them.
SAMPLE = 32
# Where no tokenizer is here yet; and what lm-eval lets a model generate where a task does not say.
CHARACTERS_A_TOKEN, GENERATED = 4, 256


@dataclass(frozen=True)
class Workload:
    """``tokens`` that forward passes read for an item, on average, and for that with the ``most``; and ``generated``.

    Of generation, both count what may be written: at most ``generated`` tokens an item, 0 where nothing is.
    """

    tokens: float
    most: int
    generated: int = 0


def workload(benchmark: Benchmark, tokenizer: Any, *, apply_chat_template: bool, multiturn: bool) -> Workload:
    """What the first items of the benchmark take; counted by the tokenizer, or by letters where it is None."""

    def templated(messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        text: str = tokenizer.apply_chat_template(
            messages,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return text

    wanted = {item: number for number, item in enumerate(islice(benchmark.item_ids, SAMPLE))}
    requests = benchmark.items.requests(
        wanted,
        apply_chat_template=apply_chat_template and tokenizer is not None,
        fewshot_as_multiturn=multiturn,
        chat_template=templated,
    )
    generated = max((_generated(request) for of_item in requests.values() for request in of_item), default=0)
    read = [_read(of_item, tokenizer) + generated * len(of_item) for of_item in requests.values()]
    return Workload(sum(read) / max(1, len(read)), max(read, default=0), generated)


def _read(requests: Sequence[Instance], tokenizer: Any) -> int:
    """The tokens of an item's requests. Choices share what they begin with, and their last token is not read."""
    from merge3_plugin.harness.token_tree import TokenTree

    if requests[0].request_type != "loglikelihood":
        return sum(len(_encoded(request.args[0], tokenizer)) for request in requests)
    texts = {_encoded(f"{request.args[0]}{request.args[1]}", tokenizer)[:-1] for request in requests}
    return len(TokenTree(sorted(tokens for tokens in texts if tokens)))


def _generated(request: Instance) -> int:
    """How many tokens the model may write."""
    if request.request_type != "generate_until":
        return 0
    return int((request.args[1] or {}).get("max_gen_toks") or GENERATED)


def _encoded(text: str, tokenizer: Any) -> tuple[Any, ...]:
    if tokenizer is None:
        return tuple(text[::CHARACTERS_A_TOKEN])
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
