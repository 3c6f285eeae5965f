"""Stands in for vLLM."""


class LoRARequest:
    pass
