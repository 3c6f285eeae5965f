"""Recipes to weights: what mergekit computes, in memory and by blocks, into one live model."""

from merge3_plugin.errors import ModelError


class MergeFailed(ModelError):
    """A recipe gives no usable weights (NaN, infinity, or the method gave up); the candidate fails, not the run."""


# The keys of a recipe of several documents: merges by name, and the selection among them.
MERGES, SELECT = "merges", "select"
