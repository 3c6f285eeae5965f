"""Recipes to weights without the disk: mergekit's methods on parents loaded once, into one live model."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mergekit.options import MergeOptions

from merge3_plugin.errors import ConfigError, ModelError, RunError, nearest
from merge3_plugin.merging.devices import find_device, place_of
from merge3_plugin.merging.disk import check_space, saved_size
from merge3_plugin.merging.documents import plan_recipe
from merge3_plugin.merging.execution import Execution
from merge3_plugin.merging.live import Live
from merge3_plugin.merging.parents import load_family
from merge3_plugin.merging.plan import Job
from merge3_plugin.merging.references import canonical, one_line
from merge3_plugin.merging.vocabulary import Vocabulary, check_vocabularies, load_tokenizers


class Merger:
    """Parents in memory and one live model, whose weights each recipe replaces.

    ``model`` is a Hugging Face causal LM in eval mode, ``tokenizer`` the one it is saved with, ``config`` its config,
    ``n_layers`` its depth, ``dtype_name`` the torch name of the dtype it is merged in, ``parents`` the parents' names,
    ``chat_templates`` their chat templates (None: no template). ``flags`` are those that mergekit's command needs
    besides the files and ``--random-seed`` to give the same weights.

    Raises ModelError for parents that are missing, unreadable or do not fit each other: architecture, depth, shapes,
    and, unless ``tokenizer_source`` is set, vocabulary.
    """

    def __init__(
        self,
        models: Sequence[str],
        base_model: str | None = None,
        *,
        tokenizer_source: str | None = None,
        dtype: str = "auto",
        device: str = "auto",
        random_seed: int = 0,
        trust_remote_code: bool = False,
        allow_crimes: bool = False,
        lora_cache: str | Path | None = None,
    ) -> None:
        if not 0 <= random_seed < 2**32:
            raise ConfigError(f"seed: expected 0 to {2**32 - 1}, as mergekit takes it, got {random_seed}")
        options = MergeOptions(
            trust_remote_code=trust_remote_code,
            allow_crimes=allow_crimes,
            lora_merge_cache=str(lora_cache) if lora_cache else None,
        )
        base = canonical(base_model) if base_model else None
        names = list(dict.fromkeys([*map(canonical, models), *([base] if base else [])]))
        self.device = find_device(device)
        self.random_seed = random_seed
        self.flags = _flags(options, self.device, lora=any("+" in name for name in names))
        self._family = load_family(names, base, dtype=dtype, options=options)
        self.parents = tuple(names)
        self.n_layers = len(self._family.layers)
        self.dtype_name = str(self._family.dtype).removeprefix("torch.")
        self._base = base or (names[0] if tokenizer_source else None)
        self._donor = base or names[0]

        tokenizers = load_tokenizers(self._family, options)
        self.chat_templates = {name: getattr(tokenizers.get(name), "chat_template", None) for name in names}
        self._vocabulary: Vocabulary | None = None
        if tokenizer_source:
            self._vocabulary = Vocabulary(self._family, self._base, tokenizer_source, options)
            self.tokenizer = self._vocabulary.tokenizer
        else:
            check_vocabularies(self._family, tokenizers)
            self.tokenizer = tokenizers.get(self._donor) or next(iter(tokenizers.values()))
        self._options = options
        self._execution, self._live = self._made_execution(), self._made_live()

    def beside(self, devices: Sequence[str]) -> list[Merger]:
        """Further live models over the same parents, one on each of ``devices``, to be used by a thread each.

        Those of one device share what is computed of the parents there, and merge one at a time. ConfigError for a
        device that is not here.
        """
        execution_on = {place_of(self.device): self._execution}
        others = []
        for name in devices:
            other = copy.copy(self)
            other.device = find_device(name)
            place = place_of(other.device)
            if place not in execution_on:
                execution_on[place] = other._made_execution()
            other._execution, other._live = execution_on[place], other._made_live()
            others.append(other)
        return others

    def _made_execution(self) -> Execution:
        return Execution(self._family, self._vocabulary, self.device, self.random_seed)

    def _made_live(self) -> Live:
        return Live(
            self._family,
            self._family.parents[self._donor],
            self._options,
            device=self.device,
            vocabulary_size=len(self._vocabulary) if self._vocabulary else None,
        )

    @property
    def model(self) -> Any:
        return self._live.model

    @property
    def config(self) -> Any:
        return self._live.model.config

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        """The live model's tensors as they are now, by their names in a checkpoint; not to be written to."""
        return self._live.tensors

    def merge(self, recipe: Mapping[str, Any]) -> None:
        """Write the weights of ``recipe``, as mergekit's command would merge it, into the live model.

        Random methods draw from ``random_seed``, tensor by tensor in mergekit's order; the caller's generators stay as
        they were. Raises MergeFailed for NaN or infinite weights, or when the method gives up (the live model is then
        no candidate until the next ``merge`` or ``load_parent``), ConfigError for a recipe that is not valid here.
        """
        jobs, layers = self._planned(recipe)
        self._execution.run(jobs, lambda: self._live.build(layers))

    def prepare(self, recipe: Mapping[str, Any]) -> None:
        """Begin with what the first merge by the methods of ``recipe`` would wait for; others need nothing of it.

        Raises ConfigError for a recipe that is not valid here.
        """
        self._execution.prepare(self._planned(recipe)[0])

    def _planned(self, recipe: Mapping[str, Any]) -> tuple[list[Job], tuple[int, ...]]:
        try:
            return plan_recipe(recipe, self._family)
        except (ValueError, RuntimeError) as error:
            raise ConfigError(f"recipe: expected one that mergekit accepts, got: {one_line(error)}") from None

    def load_parent(self, name: str) -> None:
        """Write the weights of one parent into the live model, in the run's dtype and vocabulary."""
        name = canonical(name)
        if name not in self.parents:
            raise ModelError(f"model {name!r}: expected one of the parents{nearest(name, self.parents)}")
        with self._execution.turn(), torch.no_grad():
            tensors = self._live.build(range(self.n_layers))
            for weight in self._family.weights():
                tensors[weight.name].copy_(self._execution.tensor(weight, name, self.parents, self._base))

    def folders(self, name: str) -> list[Path]:
        """Where the files of one parent lie: of its model, and of its LoRA adapter if it has one."""
        ref = self._family.parents[canonical(name)].ref
        return [Path(part.path) for part in (ref.model, ref.lora) if part is not None]

    def check_space(self, folder: Path, more_layers: int = 0) -> None:
        """RunError unless the disk of ``folder``, which need not exist yet, has room to save the model.

        ``more_layers`` are those that it may get yet.
        """
        check_space(folder, saved_size(self._live.size(more_layers)))

    def save(self, folder: str | Path) -> None:
        """Save the live model as a normal Hugging Face folder: config, safetensors, generation config, tokenizer.

        Raises RunError, before anything is written, when the disk has too little space.
        """
        from huggingface_hub import save_torch_state_dict

        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise RunError(f"{folder}: expected a folder to save the model in, got a file; choose another name")
        tensors = {name: tensor.detach().contiguous() for name, tensor in self._live.tensors.items()}
        self.check_space(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_torch_state_dict(tensors, folder)
        self.model.config.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        source = Path(self._family.parents[self._donor].ref.model.path) / "generation_config.json"
        if source.is_file():
            shutil.copyfile(source, folder / source.name)


def _flags(options: MergeOptions, device: torch.device, *, lora: bool) -> tuple[str, ...]:
    flags = []
    if device.type != "cpu":
        flags += ["--device", str(device)]
    if options.trust_remote_code:
        flags.append("--trust-remote-code")
    if options.allow_crimes:
        flags.append("--allow-crimes")
    if lora and options.lora_merge_cache:
        flags += ["--lora-merge-cache", options.lora_merge_cache]
    return tuple(flags)
