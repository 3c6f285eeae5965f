"""Small worlds for tests, ours and plug-in authors': real Llama models of a few thousand weights, simulated answers.

Everything is made from a seed, on the CPU, without a network, and leaves the global random generators as they were.
"""

from __future__ import annotations

import string
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from merge3_plugin.domain import FloatArray, ResponseMatrix
from merge3_plugin.irt import sigmoid

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Digits, latin, kanji numerals, kana and punctuation: enough for prompts in two scripts.
TINY_ALPHABET = (
    string.digits
    + string.ascii_letters
    + " \n.,:;!?()+-*/=<>[]{}'\"#_|&%$@"
    + "〇一二三四五六七八九十百千質問答え最大和位置はのと、。"
)
TINY_CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


def make_tiny_tokenizer(
    alphabet: str = TINY_ALPHABET, *, extra_tokens: Iterable[str] = (), chat_template: str | None = None
) -> PreTrainedTokenizerFast:
    """A fast tokenizer of one token a character, with ``<unk>``, ``<pad>``, ``<s>`` and ``</s>`` first.

    It adds no special token by itself, and decoding gives the text back. ``extra_tokens`` follow the alphabet.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = dict.fromkeys(["<unk>", "<pad>", "<s>", "</s>", *alphabet, *extra_tokens])
    backend = Tokenizer(models.WordLevel({token: i for i, token in enumerate(vocabulary)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def make_tiny_llama(
    folder: str | Path,
    seed: int,
    *,
    hidden: int = 32,
    layers: int = 2,
    tokenizer: PreTrainedTokenizerFast | None = None,
    vocab_size: int | None = None,
    tie_embeddings: bool = False,
    dtype: str = "float32",
    base: str | Path | None = None,
    delta: float = 0.02,
) -> Path:
    """Save a random Llama with its tokenizer into ``folder`` and return the folder.

    ``vocab_size`` (default: the tokenizer's) may exceed the tokenizer's. With ``base``, the model is that model plus
    normal noise of standard deviation ``delta`` on every weight: a "fine-tune" whose task vector depends on ``seed``.
    """
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    folder = Path(folder)
    tokenizer = tokenizer or make_tiny_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if base is None:
            config = LlamaConfig(
                vocab_size=vocab_size or len(tokenizer),
                hidden_size=hidden,
                intermediate_size=2 * hidden,
                num_hidden_layers=layers,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=512,
                tie_word_embeddings=tie_embeddings,
                initializer_range=0.1,
                pad_token_id=tokenizer.pad_token_id,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
            model: Any = LlamaForCausalLM(config)
        else:
            model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, local_files_only=True)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter), alpha=delta)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_tiny_family(folder: str | Path, n_models: int = 3, *, seed: int = 0, **llama: Any) -> list[Path]:
    """``[base, model_1, ..., model_n]``: a base and its "fine-tunes" (see ``make_tiny_llama``) in ``folder``."""
    folder = Path(folder)
    tokenizer = llama.get("tokenizer") or make_tiny_tokenizer()
    base = make_tiny_llama(folder / "base", seed, **{**llama, "tokenizer": tokenizer})
    tunes = [
        make_tiny_llama(
            folder / f"model_{i}", seed + i, tokenizer=tokenizer, base=base, dtype=llama.get("dtype", "float32")
        )
        for i in range(1, n_models + 1)
    ]
    return [base, *tunes]


def simulate_responses(
    n_models: int,
    n_items: int,
    *,
    rng: np.random.Generator,
    misfit: float = 0.0,
    guessing: float = 0.0,
    drift: float = 0.0,
    outliers: int = 0,
) -> ResponseMatrix:
    """Right and wrong answers of models drawn from a two-dimensional 2PL; models ``m0`` ..., items ``q0`` ...

    Worlds that the 2PL does not describe: ``misfit`` is the standard deviation, in logits, of what three further
    dimensions add; ``guessing`` the probability of a right answer without ability; ``drift`` the share of items whose
    difficulty is another one for every second model; the first ``outliers`` models answer 3 % right, whatever the item.
    """
    loadings = np.column_stack([rng.lognormal(0.0, 0.4, n_items), rng.normal(0.0, 0.6, n_items)])
    logits = rng.normal(size=(n_models, 2)) @ loadings.T - rng.normal(0.0, 1.3, n_items)
    logits += misfit / np.sqrt(3) * rng.normal(size=(n_models, 3)) @ rng.normal(size=(3, n_items))
    if drift:
        logits[1::2] += np.where(rng.random(n_items) < drift, rng.normal(0.0, 1.3, n_items), 0.0)
    chances = guessing + (1.0 - guessing) * sigmoid(logits)
    chances[:outliers] = 0.03
    return _answers(chances, [f"m{m}" for m in range(n_models)], rng)


def simulate_merges(
    n_parents: int, n_merges: int, n_items: int, *, rng: np.random.Generator, own: float = 0.5
) -> ResponseMatrix:
    """Answers of parents ``p0`` ... and of random merges ``m0`` ..., whose logits are those of their parents, mixed.

    ``own`` is the standard deviation, in logits, of what each parent knows of single items besides its two abilities.
    """
    loadings = np.column_stack([rng.lognormal(0.0, 0.4, n_items), rng.normal(0.0, 0.6, n_items)])
    parents = rng.normal(size=(n_parents, 2)) @ loadings.T + own * rng.normal(size=(n_parents, n_items))
    mix = np.vstack([np.eye(n_parents), rng.dirichlet(np.ones(n_parents), n_merges)])
    names = [f"p{p}" for p in range(n_parents)] + [f"m{m}" for m in range(n_merges)]
    return _answers(sigmoid(mix @ parents - rng.normal(0.0, 1.3, n_items)), names, rng)


def _answers(chances: FloatArray, names: list[str], rng: np.random.Generator) -> ResponseMatrix:
    right = rng.random(chances.shape) < chances
    return ResponseMatrix(right, names, [f"q{item}" for item in range(chances.shape[1])])
