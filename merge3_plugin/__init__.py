"""Evolutionary merging of language models on estimates from a few anchor items: extract, estimate, evolve."""

__version__ = "0.1.0"
