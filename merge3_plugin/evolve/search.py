"""Candidates as a search sees them, and what it found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from merge3_plugin.domain import FloatArray
from merge3_plugin.estimate.paired import PairedDifference
from merge3_plugin.evolve.evaluate import Candidate
from merge3_plugin.evolve.fidelity.ladder import ANCHORS, Place
from merge3_plugin.evolve.objectives import Assessment
from merge3_plugin.harness.scoring import NOTHING, Price


@dataclass(frozen=True, eq=False)
class Scored:
    """A candidate with what the search thinks of it; ``assessment`` is None when its evaluation failed.

    It was scored on the items of ``place``, and ``paid`` was the price of the last of them.
    """

    candidate: Candidate
    vector: FloatArray
    assessment: Assessment | None
    place: Place = ANCHORS
    paid: Price = NOTHING

    @property
    def rung(self) -> int:
        return self.place.rung

    @property
    def complete(self) -> bool:
        """Whether it was scored on all anchors."""
        return self.place.complete

    @property
    def rank(self) -> tuple[float, ...]:
        """Greater is better; a failure is the worst."""
        return () if self.assessment is None else self.assessment.rank

    @property
    def n_items(self) -> int:
        """How many answers stand behind its estimates."""
        found = self.assessment
        return 0 if found is None else sum(estimated.evidence.n_scored for estimated in found.estimated.values())


@dataclass(frozen=True, eq=False)
class Improvement:
    """A new best after ``number`` candidates, and its paired differences; None where there is nothing to compare."""

    number: int
    best: Scored
    against_previous: PairedDifference | None
    against_uniform: PairedDifference | None


@dataclass(frozen=True, eq=False)
class SearchResult:
    """Every candidate in the order of its first scoring, the centre of the final distribution, why the search ended."""

    scored: tuple[Scored, ...]
    mean: FloatArray | None
    reason: str

    def ranked(self) -> list[Scored]:
        """As `ranked` of all that was scored."""
        return ranked(self.scored)


def ranked(scored: Sequence[Scored]) -> list[Scored]:
    """The distinct candidates that did not fail, best first; of equals, the earlier first.

    Only those that were scored on all anchors, where there are any. Of a candidate that is listed several times the
    last entry counts.
    """
    last = {entry.candidate.id: entry for entry in scored}
    known = [entry for entry in last.values() if entry.assessment is not None]
    complete = [entry for entry in known if entry.complete]
    return sorted(complete or known, key=lambda entry: entry.rank, reverse=True)
