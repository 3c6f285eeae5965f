"""Which candidates the anchors cannot tell from the best one."""

from __future__ import annotations

from collections.abc import Sequence

from merge3_plugin.evolve.objectives import Objectives
from merge3_plugin.evolve.search import Scored

# With this probability, at most, is the truly best of the candidates not among the contenders.
MISSED = 0.05


def contenders(ranked: Sequence[Scored], objectives: Objectives) -> list[Scored]:
    """Those of the ``ranked`` candidates that may be as good as the first, in their order, the first included.

    Subset selection (Gupta, Technometrics 7, 1965): the others are worse by one-sided paired comparisons on the
    anchors that hold jointly (Bonferroni). So many must be compared that chance alone makes one of them the first.
    """
    best, *others = [(s, s.assessment) for s in ranked if s.assessment is not None]
    confidence = 1 - 2 * MISSED / max(len(others), 1)
    close = [
        entry
        for entry, assessment in others
        if objectives.difference(assessment, best[1], confidence=confidence).interval[1] >= 0
    ]
    return [best[0], *close]
