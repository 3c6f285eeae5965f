"""The lm-eval side: anchor tasks for its own command, benchmarks and a scorer for the search."""
