"""When a search ends, said as a person would say it."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from merge3_plugin.config.search import SearchConfig
from merge3_plugin.estimate.paired import PairedDifference
from merge3_plugin.evolve.search import Scored
from merge3_plugin.harness.scoring import Price

# Of so many candidates must the differences be noise before a search is ended for it, and at this level of the test.
RECENT, LEVEL = 40, 0.05


class Limits:
    """What a search may spend, and what ends it beside.

    ``difference`` compares two candidates as they are scored now. Of a candidate that is scored several times, on ever
    more items, the first counts for patience.
    """

    def __init__(self, config: SearchConfig, difference: Callable[[Scored, Scored], PairedDifference | None]) -> None:
        self._config, self._difference = config, difference
        self._since_better = self._failures = 0
        self._recent: deque[Scored] = deque(maxlen=RECENT)

    def hear(self, entry: Scored, *, new: bool, better: bool) -> None:
        """A result: whether its candidate is a ``new`` one, and whether it is the best now."""
        self._failures = 0 if entry.assessment is not None else self._failures + 1
        self._since_better = 0 if better else self._since_better + new
        if entry.complete and entry.assessment is not None:
            self._recent.append(entry)

    def refuses(self, price: Price, spent: Price) -> str | None:
        """Why nothing of this price may be begun once so much is ``spent``, or None. What is free always may."""
        for limit, cost, so_far, unit in (
            (self._config.max_items, price.items, spent.items, "item evaluations"),
            (self._config.max_tokens, price.tokens, spent.tokens, "tokens"),
        ):
            if limit is not None and cost and so_far + cost > limit:
                # Not how much is left: what comes after the search may take that, and a resumed run is to say the same.
                return (
                    f"the budget of {limit:,} {unit} is spent, or too little is left for the {cost:,} of the next step"
                )
        return None

    def gives_up(self) -> str | None:
        """Why nothing at all should be scored any more, or None."""
        if self._failures >= self._config.max_failures:
            return f"{self._failures} candidates in a row failed"
        return None

    def enough(self, candidates: int, done: Mapping[str, object]) -> str | None:
        """Why no further candidate should be begun after so many, or None; ``done`` is what the strategy says to it."""
        if candidates >= self._config.max_fevals:
            return f"the budget of {self._config.max_fevals:,} candidates is spent"
        if self._config.patience is not None and self._since_better >= self._config.patience:
            return f"none of the last {self._since_better:,} candidates was better than the best before"
        if done:
            return "the strategy is done: " + ", ".join(f"{key} {value}" for key, value in sorted(done.items()))
        return self._noise() if self._config.stop_at_noise else None

    def _noise(self) -> str | None:
        """Whether the last candidates differ by no more than the noise of their differences.

        A search learns from what differs between candidates. Cochran's Q (Biometrics 10, 1954), within each set of
        items, is the sum of squares of their values about the mean over the error variance, half that of a paired
        difference; chi-squared where nothing but error differs. While it stays below the 95 % point, ranks may be
        chance, and what is gained on them is not found again on other items.
        """
        if len(self._recent) < RECENT:
            return None
        by_items: defaultdict[object, list[Scored]] = defaultdict(list)
        for entry in self._recent:
            by_items[entry.place].append(entry)
        found = [self._homogeneity(group) for group in by_items.values() if len(group) > 1]
        statistic, degrees = sum(q for q, _ in found), sum(n for _, n in found)
        if degrees < RECENT // 2 or statistic > _chi_square(degrees):
            return None
        return (
            f"the last {RECENT} candidates differ by no more than noise does (Q = {statistic:.0f} of {degrees} degrees "
            "of freedom): no improvement is detectable on so few anchors"
        )

    def _homogeneity(self, entries: Sequence[Scored]) -> tuple[float, int]:
        """Cochran's Q of candidates on the same items, and its degrees of freedom."""
        first, *others = entries
        against_first = [self._difference(entry, first) for entry in others]
        values = np.array([0.0, *(d.difference for d in against_first if d is not None)])
        errors = np.array([d.standard_error**2 / 2 for d in against_first if d is not None])
        if len(errors) == 0 or errors.mean() == 0:
            return (0.0 if np.ptp(values) == 0 else np.inf), len(errors)
        return float(((values - values.mean()) ** 2).sum() / errors.mean()), len(errors)


def _chi_square(degrees: int) -> float:
    from scipy.special import chdtri

    return float(chdtri(degrees, LEVEL))
