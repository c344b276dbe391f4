"""The load and health of one provider, by which balancing decides.

Time is an argument, in seconds of one clock that does not go back.
"""

from __future__ import annotations

from .latency import Latency

FAILURES = 5
"""Calls that fail in a row before a provider is ejected."""

FIRST_EJECTION = 1.0
"""How long the first ejection lasts. Each lasts twice as long as the one before."""

MAX_EJECTION = 30.0
"""The longest ejection. After one, a single call tests the provider."""

SLOW_START = 3.0
"""How long a provider that was just connected is spared: a process that has just started is
slow."""

MIN_SLOW_START_SHARE = 0.1
"""The share of its usual calls with which slow start begins."""

IDLE_TURN_AFTER = 0.1
"""A provider in slow start without a call for this long takes its turn: ten calls a second are not
too many for it."""

CLEARLY_SLOWER = 2
"""A provider is clearly slower than another if even its quickest recent answer took more than this
many times as long as the other one's usually take."""

MIN_DIFFERENCE = 500e-6
"""And if the difference is more than this: less is noise, and callers do not notice it."""


class Load:
    """The load and health of one provider."""

    def __init__(self, now: float) -> None:
        self.in_flight = 0
        self.latency = Latency()
        self.latency._answered = now
        self._failures = 0
        self._ejected_until = 0.0
        self._ejection = FIRST_EJECTION
        self._connected = now

    def begin(self, now: float) -> None:
        """Records that a call begins. After an ejection this call tests the provider, and other
        calls go elsewhere until it has ended."""
        self.in_flight += 1
        if self._ejected_until:
            self._eject(now, FIRST_EJECTION)

    def end(self) -> None:
        """Records that a call has ended, with an answer or without."""
        self.in_flight -= 1

    def record_response(self, now: float, took: float) -> None:
        """Records an answer that took this time."""
        self.latency.record(now, took)
        if self._failures or self._ejected_until:
            self.reset()

    def record_failure(self, now: float) -> bool:
        """Records a call that was lost. Several in a row eject the provider: then it is true."""
        self._failures += 1
        if self._failures < FAILURES:
            return False
        time, self._ejection = self._ejection, min(self._ejection * 2, MAX_EJECTION)
        self._failures = 0
        self._eject(now, time)
        return True

    def record_timeout(self, now: float) -> None:
        """Records a call that timed out. One is enough to eject the provider for a moment."""
        if not self.record_failure(now):
            self._eject(now, FIRST_EJECTION)

    def connected(self, now: float) -> None:
        """Records a new connection: slow start begins."""
        self._connected = now
        self.reset()

    def reset(self) -> None:
        """Records a sign of life: earlier failures no longer count."""
        self._failures, self._ejected_until, self._ejection = 0, 0.0, FIRST_EJECTION

    def is_ejected(self, now: float) -> bool:
        """Whether other providers are preferred."""
        return self._ejected_until > now

    def silent_for(self, now: float) -> float:
        """How long ago the last answer came, or since when the provider is known."""
        return self.latency.quiet(now)

    def is_starting(self, now: float) -> bool:
        """Whether it is in slow start, and gets fewer calls than others."""
        return now - self._connected < SLOW_START

    def wins_slow_start(self, other: Load, now: float, sample: float) -> bool:
        """Whether a provider in slow start takes a call, rather than the other one. ``sample`` is a
        random number from 0 to 1."""
        is_idle = self.in_flight == 0 and self.latency.quiet(now) >= IDLE_TURN_AFTER
        # If all were just connected, each gets its usual share.
        return is_idle or sample < self._share(now) / other._share(now)

    def is_clearly_cheaper(self, weight: int, other: Load, other_weight: int, now: float) -> bool:
        """Whether one more call costs clearly less here. The cost is the square of the latency
        times the calls in flight and one more, by weight. A latency counts only if one of the two
        is clearly slower: a node with much to do becomes slow, too."""
        if not self.latency.usual or not other.latency.usual:
            # One that has answered nothing may never answer.
            return self.in_flight < other.in_flight
        differs = self._is_clearly_slower(other, now) or other._is_clearly_slower(self, now)
        ours, theirs = (self.latency.usual, other.latency.usual) if differs else (1.0, 1.0)
        most = max(weight, other_weight)
        cost = ours**2 * (1 + self.in_flight * most / max(weight, 1))
        return cost < theirs**2 * (1 + other.in_flight * most / max(other_weight, 1)) / 2

    def _is_clearly_slower(self, other: Load, now: float) -> bool:
        quickest, usual = self.latency.quickest(now, self.in_flight), other.latency.usual
        return usual > 0 and quickest > usual * CLEARLY_SLOWER and quickest - usual > MIN_DIFFERENCE

    def _share(self, now: float) -> float:
        return min(max((now - self._connected) / SLOW_START, MIN_SLOW_START_SHARE), 1.0)

    def _eject(self, now: float, time: float) -> None:
        self._ejected_until = max(self._ejected_until, now + time)
