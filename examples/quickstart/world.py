"""A small world of arithmetic: questions on lists of four numbers, in two scripts, as multiple choice.

Everything is a function of one seed. No prompt is drawn twice, so what is taken for training and what is taken for
evaluation share no text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SCRIPTS = ("digits", "kanji")
N_CHOICES = LIST_LENGTH = 4
LARGEST = 19  # number of a list
APART = 8  # at least, a sum from the wrong answers beside it

# The prompt template of the task merge3_arc_ja.
TEMPLATE = "質問: {prompt}\n答え:"

_KANJI = "零一二三四五六七八九"


def numeral(number: int, script: str) -> str:
    """The number 0 to 99 in ``digits`` (``42``) or ``kanji`` (``四十二``)."""
    if script == "digits":
        return str(number)
    tens, ones = divmod(number, 10)
    if tens == 0:
        return _KANJI[ones]
    return ("" if tens == 1 else _KANJI[tens]) + "十" + (_KANJI[ones] if ones else "")


@dataclass(frozen=True)
class Operation:
    """What can be asked of a list: the words after it ("{n}" is a place, 1 to 4), and the answer."""

    words: str
    answer: Callable[[Sequence[int], int], int]

    def __post_init__(self) -> None:
        if len(self.words.split()) > 3:
            raise ValueError(f"expected at most three words, got {self.words!r}")


# What the base learns, and what each specialist learns from there.
PRETRAINING = {
    "minimum": Operation("の 最小", lambda numbers, n: min(numbers)),
    "first": Operation("の 先頭", lambda numbers, n: numbers[0]),
    "last": Operation("の 末尾", lambda numbers, n: numbers[-1]),
    "successor": Operation("の 先頭 次", lambda numbers, n: numbers[0] + 1),
}
SKILLS = {
    "addition": Operation("の 両端 和", lambda numbers, n: numbers[0] + numbers[-1]),
    "maximum": Operation("の 最大", lambda numbers, n: max(numbers)),
    "position": Operation("の {n} 番目", lambda numbers, n: numbers[n - 1]),
}
OPERATIONS = {**PRETRAINING, **SKILLS}


@dataclass(frozen=True)
class Item:
    """One question; ``label`` is the place, 0 to 3, of the right answer among the ``choices``."""

    prompt: str
    choices: tuple[str, ...]
    label: int

    @property
    def text(self) -> str:
        """What a model reads."""
        return TEMPLATE.format(prompt=self.prompt)

    @property
    def answer(self) -> str:
        return self.choices[self.label]


def items(operation: str, seed: int) -> Iterator[Item]:
    """Items of one operation without end: no prompt twice, scripts and labels balanced in every eight of them."""
    rng = np.random.default_rng([seed, list(OPERATIONS).index(operation)])
    seen: set[str] = set()
    while True:
        for script in SCRIPTS:
            for label in rng.permutation(N_CHOICES):
                item = _draw(OPERATIONS[operation], script, int(label), rng)
                while item.prompt in seen:
                    item = _draw(OPERATIONS[operation], script, int(label), rng)
                seen.add(item.prompt)
                yield item


def _draw(operation: Operation, script: str, label: int, rng: np.random.Generator) -> Item:
    numbers = [int(number) for number in rng.choice(LARGEST + 1, LIST_LENGTH, replace=False)]
    n = int(rng.integers(1, LIST_LENGTH + 1))
    answer = operation.answer(numbers, n)
    # The other numbers of the list mislead best; an answer that is none of them stands among any that are far from it.
    wrong = [number for number in numbers if number != answer]
    if answer not in numbers:
        wrong = [number for number in rng.permutation(2 * LARGEST + 2) if abs(number - answer) >= APART]
    choices = [int(number) for number in rng.permutation(wrong[: N_CHOICES - 1])]
    choices.insert(label, answer)
    words = [numeral(number, script) for number in numbers] + operation.words.format(n=numeral(n, script)).split()
    return Item(" ".join(words), tuple(numeral(choice, script) for choice in choices), label)


LONGEST = 2 + LIST_LENGTH + 3  # words of a text


def vocabulary() -> list[str]:
    """Every word of the world, each one token: all choices are one token long."""
    words = {word for operation in OPERATIONS.values() for word in operation.words.split() if word != "{n}"}
    numbers = [numeral(number, script) for script in SCRIPTS for number in range(100)]
    return [*(part for part in TEMPLATE.split() if part != "{prompt}"), *sorted(words), *numbers]


def write_items(path: Path, named: Iterable[tuple[str, Item]]) -> None:
    """Write (id, item) pairs as JSON lines with the fields of ``merge3_arc_ja``: _id, prompt, choices, label."""
    documents = (
        {"_id": name, "prompt": item.prompt, "choices": item.choices, "label": item.label} for name, item in named
    )
    lines = [json.dumps(document, ensure_ascii=False) for document in documents]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
