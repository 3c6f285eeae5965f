"""The merge method, made with mergekit's own decorator: its parameters are those of the function."""

import torch
from mergekit.merge_methods import BasePolicy, InputContract, TensorGroup, merge_method


@merge_method(name="soft_median", pretty_name="Soft median", contract=InputContract(base=BasePolicy.REQUIRED))
def soft_median(group: TensorGroup, scale: float = 1.0, sharpness: float = 1.0) -> torch.Tensor:
    """The base plus ``scale`` times a mean of the task vectors that trusts, weight by weight, those near the median.

    ``sharpness`` 0 gives the plain mean; a large one the median, which a single odd model cannot pull away.
    """
    base = group.base.tensor
    if not group.non_base:
        return base
    task_vectors = torch.stack([entry.tensor - base for entry in group.non_base])
    distance = (task_vectors - task_vectors.median(dim=0).values).abs()
    trust = torch.exp(-sharpness * distance / distance.mean(dim=0).clamp(min=1e-12))
    return base + scale * (trust * task_vectors).sum(dim=0) / trust.sum(dim=0)
