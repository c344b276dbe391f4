"""How long the calls of one connection have waited on the way, without clocks that agree."""

from __future__ import annotations

MAX_AGE_MS = 10 * 365 * 24 * 3_600_000
"""No connection is older, and no call takes longer, than ten years. Larger times are ignored."""

DRIFT = 1e-4
"""The clocks of two machines drift by less than this share of the time."""


class QueueDelay:
    """The fastest call so far shows when, by our clock, the caller's clock was at zero."""

    def __init__(self) -> None:
        self._zero: tuple[float, float] | None = None

    def of(self, sent_ms: int, now: float) -> float:
        """How many seconds longer than the fastest call this one was on its way, which was sent at
        this time by the caller's clock."""
        if sent_ms >= MAX_AGE_MS:
            return 0.0
        zero = known = now - sent_ms / 1000
        if self._zero is not None:
            # The clocks may have drifted since.
            known = min(self._zero[0] + (now - self._zero[1]) * DRIFT, zero)
        self._zero = (known, now)
        return zero - known
