"""What generated answers cost, against lm-eval's ``hf`` model on the same weights, prompts and stops.

    python benchmarks/generation.py [--size S M] [--dtype bfloat16] [--prompt 200 800] [--new 128] [--rows 32]
        [--repeats 3] [--threads 2] [--device cpu]

Random Llama models of candidate.py, and ``rows`` prompts of so many random words, of which each has an answer that ends
at a place of its own, up to ``new`` tokens. In turns, in one run: lm-eval's ``hf``; ours with transformers' own cache,
where a row ends with its own stop; and ours as it is, whose cache is written in place. Seconds are medians, ratios are
medians of the ratios in each turn, with their range. ``same`` counts the texts that are those of ``hf``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from candidate import _hush
from random_models import SIZES, write_models


def prompts(rng: np.random.Generator, rows: int, lengths: Sequence[int], vocabulary: int) -> list[str]:
    sizes = rng.integers(min(lengths), max(lengths) + 1, rows)
    return [" ".join(f"w{word}" for word in rng.integers(vocabulary - 5, size=size)) for size in sizes]


def asked(texts: Sequence[str], until: Sequence[str], new: int) -> list[Any]:
    from lm_eval.api.instance import Instance

    settings = {"until": list(until), "max_gen_toks": new, "do_sample": False}
    return [Instance("generate_until", {}, (text, settings), number) for number, text in enumerate(texts)]


def measure(folder: Path, name: str, dtype: str, lengths: Sequence[int], rows: int, options: argparse.Namespace) -> str:
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from merge3_plugin.harness.live_model import LiveModel

    rng = np.random.default_rng([rows, *lengths])
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(options.device)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    hf = HFLM(model, tokenizer=tokenizer, batch_size=rows)
    live = LiveModel(model, tokenizer, rows)
    texts = prompts(rng, rows, lengths, SIZES[name].vocabulary)
    free = live.generate_until(asked(texts, [], options.new), disable_tqdm=True)
    ends = rng.integers(1, options.new, rows)
    requests = asked(texts, sorted({f"{text} ".split()[: end + 1][-1] for text, end in zip(free, ends, strict=True)}),
                     options.new)  # fmt: skip

    def copied() -> list[str]:
        with patch("merge3_plugin.harness.packed_lm.caching_in_place", lambda _: nullcontext()):
            return live.generate_until(requests, disable_tqdm=True)

    ways: list[Callable[[], list[str]]] = [
        lambda: hf.generate_until(requests, disable_tqdm=True),
        copied,
        lambda: live.generate_until(requests, disable_tqdm=True),
    ]
    turns, found = [], [way() for way in ways]
    for _ in range(options.repeats):
        turns.append([_seconds(way, options.device) for way in ways])
    seconds = np.array(turns)
    same = [sum(one == other for one, other in zip(texts, found[0], strict=True)) for texts in found[1:]]
    ratios = [f"{np.median(r):.2f} ({r.min():.2f}-{r.max():.2f})" for r in (seconds[:, :1] / seconds[:, 1:]).T]
    what = f"{name} {dtype}, {rows} rows of {'-'.join(map(str, lengths))} + {options.new}"
    middle = "".join(f"{value:>8.2f}" for value in np.median(seconds, axis=0))
    return f"{what:42}{middle}   {ratios[0]:18}{ratios[1]:18}{same[0]:>4}{same[1]:>4}"


def _seconds(way: Callable[[], object], device: str) -> float:
    import torch

    begun = time.perf_counter()
    way()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", choices=SIZES, default=["S", "M"])
    parser.add_argument("--dtype", nargs="+", default=["bfloat16"])
    parser.add_argument("--prompt", type=int, nargs="+", default=[200, 800], help="words of the shortest and longest")
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--rows", type=int, nargs="+", default=[32])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    _hush()
    import torch

    torch.set_num_threads(options.threads)
    print(f"{'seconds of':42}{'hf':>8}{'ended':>8}{'ours':>8}   {'ended is faster':18}{'ours is faster':18}{'same':>8}")
    for name in options.size:
        with tempfile.TemporaryDirectory() as root:
            (folder,) = write_models(Path(root), SIZES[name], 0)
            for dtype in options.dtype:
                for rows in options.rows:
                    print(measure(folder, name, dtype, options.prompt, rows, options), flush=True)


if __name__ == "__main__":
    main()
