"""Forward passes of transformers models over packs: their code as it is, with an attention that reads line by line."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from transformers import AttentionInterface

from merge3_plugin.harness.packing import Attention, Pack

# The name under which transformers finds the attention below.
NAME = "merge3_packed"
# Layers whose tokens see others through attention alone, of all before them or of a window.
_KNOWN_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}
# What a model hands to its attention, and changes no result where it is None or as named here.
_HARMLESS = {
    "dropout",
    "is_causal",
    "position_ids",
    "use_cache",
    "output_attentions",
    "output_router_logits",
    "cache_position",
    "layer_idx",
}
# Rows of logits that are made float32 at a time, so that they stay in the processor's cache.
_ROWS = 16


class Unpackable(Exception):
    """A model that cannot read packs; the message says why."""


class Predictions(NamedTuple):
    """Of each row and target of a pack: the target's log-probability, and whether no other token is more probable."""

    log_likelihoods: torch.Tensor
    greedy: torch.Tensor


@dataclass(eq=False)
class _Pass:
    """What travels through a model to its attention: who attends to whom; counts the layers that it reached."""

    attention: Attention
    layers: int = 0


def why_not_packed(model: Any) -> str | None:
    """Why this model reads no packs, as far as it says so itself; None: it does not."""
    config = model.config.get_text_config()
    if config.is_encoder_decoder:
        return "it has an encoder"
    if len(set((getattr(model, "hf_device_map", None) or {"": 0}).values())) > 1:
        return "its layers are on several devices"
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        return "it has a learned prompt"
    if not getattr(model, "_supports_attention_backend", False):
        return "its attention cannot be replaced"
    if other := sorted(set(getattr(config, "layer_types", None) or ()) - _KNOWN_LAYERS):
        return f"it has {other[0]} layers"
    if "logits_to_keep" not in inspect.signature(model.forward).parameters:
        return "it computes the logits of all tokens"
    return None


def longest_packed(model: Any) -> float:
    """Up to which length of its sequences the windows of attention, if the model has any, see everything."""
    config = model.config.get_text_config()
    sizes = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return min([size for size in sizes if size], default=float("inf"))


@contextmanager
def reading_packs(model: Any) -> Iterator[None]:
    """Let the model's attention be ours meanwhile."""
    AttentionInterface.register(NAME, _attend)
    before = model.config._attn_implementation
    model.config._attn_implementation = NAME
    try:
        yield
    finally:
        model.config._attn_implementation = before


def logits(model: Any, pack: Pack) -> torch.Tensor:
    """The logits at the pack's scored places, (scored, vocabulary), within `reading_packs`.

    Raises Unpackable where the model's attention does more than read what it should, or is not replaced everywhere.
    """
    travelling = _Pass(pack.attention)
    found: torch.Tensor = model(
        input_ids=pack.tokens,
        position_ids=pack.positions,
        use_cache=False,
        logits_to_keep=pack.scored,
        packed=travelling,
    ).logits[0]
    if travelling.layers != model.config.get_text_config().num_hidden_layers:
        raise Unpackable("not all its layers let their attention be replaced")
    return found


def predictions(found: torch.Tensor, pack: Pack) -> Predictions:
    """What ``found``, the logits at the scored places, say of the targets; in float32."""
    # Neither a softmax nor the place of the greatest is needed, which would take several times as long.
    totals = torch.cat([torch.logsumexp(part.float(), dim=-1) for part in found.split(_ROWS)])
    targets = found[pack.rows, pack.targets]
    return Predictions(targets.float() - totals[pack.rows], targets == found.amax(dim=-1)[pack.rows])


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    packed: _Pass | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers calls it: query (1, heads, tokens, head size), output (1, tokens, heads, head size)."""
    if packed is None:
        raise Unpackable("its attention hears of nothing but queries, keys and values")
    if sliding_window is not None and sliding_window < packed.attention.longest:
        raise Unpackable(f"its attention sees {sliding_window} tokens back")
    if strange := sorted(name for name, found in others.items() if found is not None and name not in _HARMLESS):
        raise Unpackable(f"its attention takes {strange[0]}")
    packed.layers += 1
    queries, keys, values = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    # Not by enable_gqa, which keeps torch from its fast kernels where there is a mask.
    groups = queries.shape[1] // keys.shape[1]
    found = []
    for bucket in packed.attention.buckets:
        n_rows, n_queries, n_keys = bucket.shape
        output = torch.nn.functional.scaled_dot_product_attention(
            _rows(queries, bucket.queries, n_rows, n_queries),
            _rows(keys, bucket.keys, n_rows, n_keys).repeat_interleave(groups, dim=1),
            _rows(values, bucket.keys, n_rows, n_keys).repeat_interleave(groups, dim=1),
            attn_mask=bucket.mask,
            is_causal=bucket.mask is None,
            scale=scaling,
        )
        found.append(output.transpose(1, 2).flatten(0, 1))
    return torch.cat(found).index_select(0, packed.attention.order)[None], None


def _rows(tensor: torch.Tensor, places: torch.Tensor, n_rows: int, size: int) -> torch.Tensor:
    """(tokens, heads, head size) to (rows, heads, size, head size)."""
    return tensor.index_select(0, places).unflatten(0, (n_rows, size)).transpose(1, 2)
