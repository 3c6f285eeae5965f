"""Recipes to weights: mergekit's own computation, in memory, into one live model."""

from merge3_plugin.errors import ModelError


class MergeFailed(ModelError):
    """A recipe gives no usable weights (NaN, infinity, or the method gave up); the candidate fails, not the run."""
