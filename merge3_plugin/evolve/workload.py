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
    """Tokens that forward passes read for an item, on average; of the longest request, and of those the generated."""

    tokens: float
    longest: int
    generated: int


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
    read, longest, generated = 0, 1, 0
    for of_item in requests.values():
        passes: dict[tuple[Any, ...], int] = {}
        for request in of_item:
            tokens, more = _tokens(request, tokenizer)
            passes[tokens] = len(tokens) + more
            longest, generated = max(longest, len(tokens) + more), max(generated, more)
        read += sum(passes.values())
    return Workload(read / max(1, len(requests)), longest, generated)


def _tokens(request: Instance, tokenizer: Any) -> tuple[tuple[Any, ...], int]:
    """What the model reads for a request, and how many tokens it may add. As in lm-eval, a choice's last one is not."""
    text, *more = request.args
    if request.request_type == "loglikelihood":
        return _encoded(f"{text}{more[0]}", tokenizer)[:-1], 0
    if request.request_type == "generate_until":
        return _encoded(text, tokenizer), int((more[0] or {}).get("max_gen_toks") or GENERATED)
    return _encoded(text, tokenizer), 0


def _encoded(text: str, tokenizer: Any) -> tuple[Any, ...]:
    if tokenizer is None:
        return tuple(text[::CHARACTERS_A_TOKEN])
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
