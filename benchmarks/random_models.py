"""Random Llama models with a task of theirs, to measure speed on: nothing is downloaded, and nothing is learned."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

TASK = "random_choice"
OPTIONS = 4

_YAML = """
task: {task}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {test}, train: {train}}}}}
test_split: test
training_split: train
output_type: multiple_choice
doc_to_text: "{{{{question}}}} :"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{label}}}}"
metric_list: [{{metric: acc}}]
"""


@dataclass(frozen=True)
class Size:
    """Of a model: ``layers`` of ``hidden`` width, and how many tokens it knows."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    vocabulary: int

    @property
    def body(self) -> int:
        """The parameters of the layers, which every token passes."""
        attention = 3 * self.hidden * self.hidden  # half as many heads for keys and values
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def head(self) -> int:
        """The parameters of the output layer, which scored tokens pass; the input's are as many."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        return self.body + 2 * self.head + self.hidden * (2 * self.layers + 1)


SIZES = {
    "XS": Size(64, 176, 2, 4, 512),  # to try the script out
    "S": Size(256, 688, 4, 8, 4720),
    "M": Size(640, 1728, 8, 10, 19072),
    "L": Size(1024, 2816, 24, 16, 30720),
    "1B": Size(2048, 5632, 22, 32, 32000),
}


def write_models(folder: Path, size: Size, n_parents: int, seed: int = 0) -> list[Path]:
    """Folders of a base and ``n_parents`` models with small differences from it, in bfloat16; the base is the first."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads // 2,
        max_position_embeddings=2048,
        pad_token_id=1,
        bos_token_id=2,
        eos_token_id=3,
        tie_word_embeddings=False,
    )
    tokenizer = _tokenizer(size.vocabulary)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    paths = []
    for number in range(n_parents + 1):
        path = folder / ("base" if number == 0 else f"parent{number}")
        if number:
            for name, tensor in model.state_dict().items():
                tensor.copy_(base[name] + 0.1 * base[name].float().std() * torch.randn(tensor.shape))
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
        paths.append(path)
    return paths


def write_task(folder: Path, size: Size, n_items: int, seed: int = 0) -> Path:
    """A folder with the task ``TASK``: questions and options of random words, 38 to 55 tokens a question and option."""
    rng = np.random.default_rng(seed)

    def words(low: int, high: int) -> str:
        return " ".join(f"w{rng.integers(size.vocabulary - 5)}" for _ in range(rng.integers(low, high)))

    folder.mkdir(parents=True, exist_ok=True)
    for split, n in (("test", n_items), ("train", 40)):
        rows: list[dict[str, Any]] = [
            {
                "id": f"{split}{number}",
                "question": words(32, 46),
                "choices": [words(5, 9) for _ in range(OPTIONS)],
                "label": int(rng.integers(OPTIONS)),
            }
            for number in range(n)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    yaml = _YAML.format(task=TASK, test=folder / "test.jsonl", train=folder / "train.jsonl")
    (folder / f"{TASK}.yaml").write_text(yaml, encoding="utf-8")
    return folder


def _tokenizer(vocabulary: int) -> Any:
    """A token a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<unk>", "<pad>", "<s>", "</s>", ":"]
    known = [*special, *(f"w{number}" for number in range(vocabulary - len(special)))]
    backend = Tokenizer(models.WordLevel({token: place for place, token in enumerate(known)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
