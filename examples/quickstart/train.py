"""Train the quickstart's models from nothing: a base on easy operations, and from it a specialist of each skill.

A specialist masters its skill, and is at chance in the others. Their uniform merge is poor, since a third of a task
vector is not enough of it, and the whole of all three is too much in some layers: which is what a search can find out.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import world

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

PAD, END, UNKNOWN = "<pad>", "<end>", "<unknown>"
THREADS = 1  # models as small as these gain little from more, and the same threads give the same weights
WARM_UP = 20  # steps
SPECIAL = (PAD, END, UNKNOWN)


@dataclass(frozen=True)
class Course:
    """One training: the share of each operation in a batch, steps of AdamW, their peak rate, and the pull.

    With each step of rate r the weights go back by r * ``pull`` of the way to where they began, as weight decay does to
    zero (L2-SP, Li et al., arXiv 1802.01483): what the skill does not need stays as it was, so that the task vectors of
    several skills can be added.
    """

    shares: Mapping[str, float]
    steps: int
    rate: float
    pull: float


@dataclass(frozen=True)
class Settings:
    """Everything that the models depend on, besides this code."""

    seed: int = 0
    hidden_size: int = 96
    layers: int = 4
    heads: int = 4
    batch_size: int = 128
    base_steps: int = 400
    base_rate: float = 2e-3
    skill_steps: int = 400
    skill_rate: float = 1e-3
    replay: float = 0.3  # share of a specialist's batches that repeats the base's training
    pull: float = 10.0  # of a specialist towards the base
    evaluation_items: int = 3104  # of each skill
    training_items: int = 6000  # of each operation

    def course(self, model: str) -> Course:
        """How the base, or the specialist of a skill, is trained."""
        if model == "base":
            return Course(_shares(1.0), self.base_steps, self.base_rate, pull=0.0)
        return Course({**_shares(self.replay), model: 1 - self.replay}, self.skill_steps, self.skill_rate, self.pull)


def _shares(total: float) -> dict[str, float]:
    return dict.fromkeys(world.PRETRAINING, total / len(world.PRETRAINING))


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word of the world."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: index for index, word in enumerate([*SPECIAL, *world.vocabulary()])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=UNKNOWN))
    # Nothing stands between "答え:" and the choice that follows it.
    after_colon = pre_tokenizers.Split(Regex(r"\S+?:"), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([after_colon, pre_tokenizers.WhitespaceSplit()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, unk_token=UNKNOWN)


def make_model(settings: Settings, vocabulary: int) -> LlamaForCausalLM:
    """A Llama of about half a million parameters with seeded random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=settings.hidden_size,
        intermediate_size=settings.hidden_size * 8 // 3,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        pad_token_id=SPECIAL.index(PAD),
        bos_token_id=None,
        eos_token_id=SPECIAL.index(END),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return LlamaForCausalLM(config)


@dataclass(frozen=True)
class Examples:
    """Token ids (n, longest), right-padded; the place of each last token (n,); the answers' token ids (n,)."""

    tokens: torch.Tensor
    last: torch.Tensor
    answers: torch.Tensor


def encode(items: list[world.Item], tokenizer: PreTrainedTokenizerFast) -> Examples:
    import torch

    texts = tokenizer(
        [item.text for item in items],
        padding="max_length",
        max_length=world.LONGEST,
        padding_side="right",
        return_tensors="pt",
    )
    answers = tokenizer.convert_tokens_to_ids([item.answer for item in items])
    return Examples(texts["input_ids"], texts["attention_mask"].sum(dim=1) - 1, torch.tensor(answers))


def fit(
    model: LlamaForCausalLM,
    course: Course,
    examples: Mapping[str, Examples],
    *,
    batch_size: int,
    seed: int,
    after: Callable[[int], None] = lambda step: None,
) -> float:
    """Train on the answers in place; returns the last batch's loss. ``after`` hears of each step, the first being 1."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    parameters = list(model.parameters())
    start = [parameter.detach().clone() for parameter in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=course.rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / WARM_UP) * max(0.02, 1 - step / course.steps)
    )
    model.train()
    for step in range(1, course.steps + 1):
        tokens, last, answers = _batch(course.shares, examples, batch_size, generator)
        hidden = model.model(input_ids=tokens, use_cache=False).last_hidden_state
        logits = model.lm_head(hidden[torch.arange(batch_size), last])
        loss = torch.nn.functional.cross_entropy(logits, answers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for parameter, first in zip(parameters, start, strict=True):
                parameter.lerp_(first, course.pull * schedule.get_last_lr()[0])
        schedule.step()
        after(step)
    model.eval()
    return loss.item()


def _batch(
    shares: Mapping[str, float], examples: Mapping[str, Examples], size: int, generator: torch.Generator
) -> tuple[torch.Tensor, ...]:
    """Tokens, places of the last token and answers of ``size`` random examples."""
    import torch

    drawn = torch.multinomial(torch.tensor(list(shares.values())), size, replacement=True, generator=generator)
    parts = []
    for name, count in zip(shares, drawn.bincount(minlength=len(shares)).tolist(), strict=True):
        rows = torch.randint(len(examples[name].last), (count,), generator=generator)
        parts.append((examples[name].tokens[rows], examples[name].last[rows], examples[name].answers[rows]))
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


def prepare(out: Path, settings: Settings) -> None:
    """Write the items to ``out``/data and the models to ``out``/models, unless those of these settings are there."""
    done = out / "models" / "settings.json"
    wanted = {"settings": asdict(settings), "code": _code()}
    if done.exists() and json.loads(done.read_text(encoding="utf-8")) == wanted:
        return
    done.unlink(missing_ok=True)
    for folder in ("data", "models"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    write_data(out / "data", settings)
    train(out / "models", settings)
    done.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")


def _code() -> str:
    """Hash of what makes items and models, so that a change of it trains anew."""
    return hashlib.sha256(b"".join(Path(module).read_bytes() for module in (__file__, world.__file__))).hexdigest()


def write_data(folder: Path, settings: Settings) -> None:
    """The evaluation items of each skill, and of all three together, as files of the fields of ``merge3_arc_ja``."""
    everything = []
    for skill in world.SKILLS:
        drawn = islice(world.items(skill, settings.seed), settings.evaluation_items)
        named = [(f"{skill}-{number:04d}", item) for number, item in enumerate(drawn)]
        world.write_items(folder / f"{skill}.jsonl", named)
        everything += named
    world.write_items(folder / "all.jsonl", everything)


def training_items(operation: str, settings: Settings) -> list[world.Item]:
    """What is drawn after the evaluation items, so none of those."""
    first = settings.evaluation_items
    return list(islice(world.items(operation, settings.seed), first, first + settings.training_items))


def train(folder: Path, settings: Settings) -> None:
    """Train and save the base and, each from the base, the specialists."""
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(THREADS)
    tokenizer = make_tokenizer()
    model = make_model(settings, len(tokenizer))
    examples = {name: encode(training_items(name, settings), tokenizer) for name in world.OPERATIONS}
    base = None
    for number, name in enumerate(["base", *world.SKILLS]):
        if base is not None:
            model.load_state_dict(base)
        course = settings.course(name)
        started = time.monotonic()
        loss = fit(model, course, examples, batch_size=settings.batch_size, seed=100 * settings.seed + number)
        print(f"trained {name}: {course.steps} steps, loss {loss:.3f}, {time.monotonic() - started:.0f} s", flush=True)
        base = base or {key: value.clone() for key, value in model.state_dict().items()}
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
