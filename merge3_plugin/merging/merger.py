"""Recipes to weights without the disk: mergekit's methods on parents loaded once, into one live model."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mergekit import merge_methods
from mergekit.architecture import WeightInfo
from mergekit.common import dtype_from_name
from mergekit.config import MergeConfiguration
from mergekit.merge_methods.buffers import copy_non_floating_buffer
from mergekit.options import MergeOptions
from mergekit.parameter_resolver import resolve_parameters

from merge3_plugin.errors import ConfigError, ModelError, RunError, nearest
from merge3_plugin.merging import MergeFailed
from merge3_plugin.merging.live import Live
from merge3_plugin.merging.parents import load_family
from merge3_plugin.merging.plan import Job, plan, stack
from merge3_plugin.merging.references import canonical, one_line
from merge3_plugin.merging.vocabulary import Vocabulary, check_vocabularies, load_tokenizers


class Merger:
    """Parents in memory and one live model, whose weights each recipe replaces.

    ``model`` is a Hugging Face causal LM in eval mode, ``tokenizer`` the one it is saved with, ``config`` its config,
    ``n_layers`` its depth, ``dtype_name`` the torch name of the dtype it is merged in, ``parents`` the parents' names,
    ``chat_templates`` their chat templates (None: no template). ``flags`` are those that the command
    ``mergekit-yaml RECIPE FOLDER --random-seed SEED`` needs besides to give the same weights.

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
        self.device = _device(device)
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
        self._live = Live(
            self._family,
            self._family.parents[self._donor],
            options,
            device=self.device,
            vocabulary_size=len(self._vocabulary) if self._vocabulary else None,
        )

    @property
    def model(self) -> Any:
        return self._live.model

    @property
    def config(self) -> Any:
        return self._live.model.config

    def merge(self, recipe: Mapping[str, Any]) -> None:
        """Write the weights of ``recipe`` (as ``mergekit-yaml`` would merge it) into the live model.

        Random methods draw from ``random_seed``, tensor by tensor in mergekit's order; the caller's generators stay as
        they were. Raises MergeFailed for NaN or infinite weights, or when the method gives up (the live model is then
        no candidate until the next ``merge`` or ``load_parent``), ConfigError for a recipe that is not valid here.
        """
        try:
            config = MergeConfiguration.model_validate(recipe)
            method = merge_methods.get(config.merge_method)
            jobs = plan(config, method, self._family)
            layers = stack(config, self.n_layers)
        except (ValueError, RuntimeError) as error:
            raise ConfigError(f"recipe: expected one that mergekit accepts, got: {one_line(error)}") from None
        self._live.build(layers)
        with _seeded(self.random_seed, self.device), torch.no_grad():
            for job in jobs:
                try:
                    merged = self._merged(job, method)
                except (ValueError, ArithmeticError) as error:
                    raise MergeFailed(f"{config.merge_method}: {job.output.name}: {one_line(error)}") from error
                if merged.is_floating_point() and not torch.isfinite(merged).all():
                    raise MergeFailed(
                        f"{config.merge_method}: expected finite weights, got NaN or infinity in {job.output.name}"
                    )
                out_dtype = dtype_from_name(job.output.force_dtype or config.out_dtype)
                self._live.tensors[job.output.name].copy_(merged.to(out_dtype) if out_dtype else merged)

    def load_parent(self, name: str) -> None:
        """Write the weights of one parent into the live model, in the run's dtype and vocabulary."""
        name = canonical(name)
        if name not in self.parents:
            raise ModelError(f"model {name!r}: expected one of the parents{nearest(name, self.parents)}")
        self._live.build(range(self.n_layers))
        with torch.no_grad():
            for weight in self._family.weights():
                self._live.tensors[weight.name].copy_(self._tensor(weight, name, self.parents, self._base))

    def folders(self, name: str) -> list[Path]:
        """Where the files of one parent lie: of its model, and of its LoRA adapter if it has one."""
        ref = self._family.parents[canonical(name)].ref
        return [Path(part.path) for part in (ref.model, ref.lora) if part is not None]

    def check_space(self, folder: Path, more_layers: int = 0) -> None:
        """RunError unless the disk of ``folder``, which need not exist yet, has room to save the model.

        ``more_layers`` are those that it may get yet.
        """
        needed = int(1.02 * self._live.size(more_layers)) + 2**24
        here = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        if (free := shutil.disk_usage(here).free) < needed:
            raise RunError(
                f"{folder}: expected {needed / 1e6:,.0f} MB free to save the model, got {free / 1e6:,.0f} MB; free some"
            )

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

    def _merged(self, job: Job, method: Any) -> torch.Tensor:
        models, base = list(job.inputs), job.settings.base_model
        tensors = self._inputs(job)
        buffer = copy_non_floating_buffer(tensors, job.output.name)
        if buffer is not None:
            return buffer
        shared, per_input = resolve_parameters(
            method.spec,
            tensor_name=job.output.name,
            inputs={model: weight.name for model, weight in job.inputs.items()},
            sources=job.settings.parameter_sources,
            base_model=base,
            t=job.settings.t,
        )
        for parameter in method.spec.input_parameters:
            named = {model: values[parameter.name] for model, values in per_input.items() if parameter.name in values}
            shared[parameter.name] = named
        # What merge_tensors does, and the vocabulary axis, which it drops and mergekit-yaml hands to the method.
        group = merge_methods.TensorGroup.from_tensors(
            tensors,
            ids=models,
            base_index=models.index(base) if base in models else None,
            name=job.output.name,
            vocabulary_axis=job.output.vocabulary_axis,
        )
        (merged,) = method((group,), parameters=shared)
        return merged

    def _inputs(self, job: Job) -> list[torch.Tensor]:
        dtype = dtype_from_name(job.settings.config.dtype)
        base = self._family.parent(job.settings.base_model).name if job.settings.base_model else None
        names = [self._family.parent(model).name for model in job.inputs]
        tensors = []
        for name, weight in zip(names, job.inputs.values(), strict=True):
            tensor = self._tensor(weight, name, names, base)
            if dtype and tensor.is_floating_point() and not weight.force_dtype:
                tensor = tensor.to(dtype)
            tensors.append(tensor.to(self.device))
        return tensors

    def _tensor(self, weight: WeightInfo, name: str, together: Sequence[str], base: str | None) -> torch.Tensor:
        """``weight`` of the parent ``name``, in the run's vocabulary, when the parents ``together`` are merged."""
        if self._vocabulary is None or weight.vocabulary_axis is None:
            return self._family.parents[name].tensors[weight.name]
        return self._vocabulary.embed(weight, together, base)[name]


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"device: expected auto, cpu or one that is here, got {name!r}: {one_line(error)}") from None
    return device


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


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed every global generator as ``mergekit-yaml --random-seed`` does, and put them back afterwards."""
    state, legacy = random.getstate(), np.random.get_state()
    devices = [device] if device.type != "cpu" else []
    with torch.random.fork_rng(devices=devices, device_type=device.type if devices else "cuda"):
        random.seed(seed)
        np.random.seed(seed)
        # torch.manual_seed also queues seeds for devices that are not there, at a millisecond each time.
        (torch.manual_seed if devices else torch.default_generator.manual_seed)(seed)
        try:
            yield
        finally:
            random.setstate(state)
            np.random.set_state(legacy)
