"""How long a provider takes to answer, in a way that noise does not disturb.

Time is an argument, in seconds of one clock that does not go back.
"""

from __future__ import annotations

PERIODS = 4
"""A provider is slow if its quickest answer is slow in this many periods in a row."""

PERIOD = 0.01
"""How long a period lasts at least: four are longer than the system usually lets a process wait."""

HALF_LIFE = 1.024
"""The quickest latency of a slow provider halves in this time without a call, so that it is tried
again."""

EWMA_DIVISOR = 8
"""The weight of an answer in the average latency: one part in this many."""

MAX_EWMA_RATIO = 4
"""An answer counts as at most this many times the average: one that is late by chance does not say
what is usual."""


class Latency:
    """How long a provider takes to answer, in a way that noise does not disturb."""

    def __init__(self) -> None:
        self.usual = 0.0
        """The average in seconds; 0 before the first answer."""
        self._quickest = [0.0] * PERIODS
        self._periods = 0
        self._began = 0.0
        self._answered = 0.0

    def record(self, now: float, took: float) -> None:
        """Adds an answer."""
        took = max(took, 1e-6)
        if self.usual == 0:
            self.usual = took
        else:
            self.usual += (min(took, self.usual * MAX_EWMA_RATIO) - self.usual) / EWMA_DIVISOR
        self._answered = now
        begins = self._periods == 0 or now - self._began >= PERIOD
        if begins:
            self._periods += 1
            self._began = now
        at = self._periods % PERIODS
        self._quickest[at] = took if begins else min(self._quickest[at], took)

    def quickest(self, now: float, in_flight: int) -> float:
        """The quickest answer of the last periods. It is 0 before there were enough of them, and
        falls while no call is in flight."""
        fades = 0 if in_flight else int(self.quiet(now) / HALF_LIFE)
        return min(self._quickest) * 0.5 ** min(fades, 64)

    def quiet(self, now: float) -> float:
        """How long ago the last answer came."""
        return max(now - self._answered, 0.0)
