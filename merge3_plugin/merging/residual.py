"""Whether a factor on the residual stream of an architecture can be folded into its weights.

With a norm before each branch and one after the last layer, a branch reads the stream whatever its scale. A stream
that is multiplied by s after some layer is therefore, up to the epsilon in the norms, s times the stream to which the
later branches add 1/s of what they would: s moves into the matrices that end a branch, and the final norm removes it.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

# What ends the two branches of a layer: the filters of a recipe that divides by the factors before it.
BRANCH_ENDS = ("o_proj", "down_proj")

_OF_A_LAYER = re.compile(r"\.layers\.\d+\.(.*)")
_BEFORE_BRANCHES = ("input_layernorm.weight", "post_attention_layernorm.weight")
_FOLDING = re.compile(
    r"(input_layernorm|post_attention_layernorm)\.(weight|bias)"
    r"|self_attn\.((q|k|v|o|qkv)_proj\.(weight|bias)|(q|k)_norm\.weight)"
    r"|mlp\.((gate|up|down|gate_up)_proj\.(weight|bias)|gate\.weight)"
    r"|mlp\.experts\.(\d+\.)?(gate|up|down|gate_up)_proj(\.weight)?"
)
_MULTIPLIERS = (
    "residual_multiplier",
    "scale_depth",
    "logits_scaling",
    "logit_scale",
    "lm_head_multiplier",
    "final_logit_softcapping",
)


def why_not_scaled(config: Any, tensors: Collection[str] | None) -> str | None:
    """Why models of this config and these tensors (None: unknown) take no residual scales; None where they do."""
    if tensors is None:
        return "mergekit has no list of its tensors"
    multipliers = {name: getattr(config, name, None) for name in _MULTIPLIERS}
    if other := [f"{name} {value:g}" for name, value in multipliers.items() if value not in (None, 1)]:
        return f"its config has {other[0]}"
    inside = {match[1] for name in tensors if (match := _OF_A_LAYER.search(name))}
    if other := sorted(name for name in inside if not _FOLDING.fullmatch(name)):
        return f"its layers have {other[0]}, which is no part of two branches with a norm before each"
    if missing := [name for name in _BEFORE_BRANCHES if name not in inside]:
        return f"its layers have no {missing[0]}, and a norm has to stand before each branch"
    if missing := [end for end in BRANCH_ENDS if not any(end in name for name in inside)]:
        return f"its layers have no {missing[0]}, where factors are folded in"
    if not any("norm.weight" in name for name in tensors if not _OF_A_LAYER.search(name)):
        return "no norm follows its last layer"
    return None
