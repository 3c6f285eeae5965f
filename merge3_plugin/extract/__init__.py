"""Responses of models on a benchmark -> item parameters and an anchor set."""
