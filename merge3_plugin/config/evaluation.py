"""How models are scored."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from merge3_plugin.config.base import Fraction, Strict


class VllmConfig(Strict):
    """Of vLLM's settings, those that a run has to choose; names are vLLM's."""

    max_model_len: int | None = Field(None, ge=2, description="tokens of a prompt with its answer; unset: the model's")
    gpu_memory_utilization: Fraction = Field(0.5, description="share of the GPU that vLLM takes; merges need the rest")
    enforce_eager: bool = Field(False, description="no CUDA graphs, no compilation: slower, and sooner ready")


class EvalConfig(Strict):
    """How a model is scored; names are lm_eval's."""

    model: Literal["hf", "vllm"] = Field("hf", description="who computes: transformers, or vLLM (the extra vllm)")
    model_args: VllmConfig = Field(default_factory=VllmConfig, description="of vllm")
    batch_size: int = Field(32, ge=1, description="fixed for the whole run: it moves scores")
    gen_kwargs: dict[str, Any] | None = None
    system_instruction: str | None = None

    @model_validator(mode="after")
    def _of_vllm(self) -> EvalConfig:
        if self.model != "vllm" and self.model_args != VllmConfig():
            raise ValueError("model_args: expected them with model: vllm, got them with hf; leave them out")
        return self
