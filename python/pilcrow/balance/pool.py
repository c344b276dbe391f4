"""Balancing: which of several providers a call goes to. It decides as the Rust SDK does.

Time is an argument, in seconds of one clock that does not go back. Nothing here does I/O.
"""

from __future__ import annotations

import random
from enum import IntEnum
from math import gcd
from typing import Callable, Generic, Iterable, Protocol, Sequence, TypeVar

from ..wire import checksum

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

ZONE_OVERFLOW = 32
"""With this many calls in flight to a provider of our own zone, calls overflow to one of another
zone that has less than half as many."""

MAX_SUBSET = 100
"""Maximum number of providers of a route that one node calls. With many callers each has a
different subset, and fewer connections."""

MAX_SCHEDULE_SHARE = 16
"""Maximum number of positions of one provider in a schedule. Finer weights are rounded."""

_MASK = (1 << 64) - 1


def score(key: str, address: str) -> int:
    """The rendezvous score of an address for a key: the same on every node and in every language,
    so that all callers agree. The highest wins."""
    mixed = (checksum(key.encode(errors="surrogatepass")) << 32 | checksum(address.encode())) + 0x9E37_79B9_7F4A_7C15
    mixed &= _MASK
    mixed = (mixed ^ mixed >> 30) * 0xBF58_476D_1CE4_E5B9 & _MASK
    mixed = (mixed ^ mixed >> 27) * 0x94D0_49BB_1331_11EB & _MASK
    return mixed ^ mixed >> 31


class Readiness(IntEnum):
    """Whether a provider can be called. The best value comes first."""

    READY = 0
    CONNECTING = 1
    EJECTED = 2
    """The provider fails calls, or is suspect."""
    RECONNECT = 3
    """The provider is not connected, and worth an attempt."""
    COOLING_DOWN = 4
    """Connecting to the provider has just failed."""


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


class Member(Protocol):
    """A provider, as balancing sees it."""

    @property
    def address(self) -> str:
        """The address, which no other provider of the pool has."""

    @property
    def instance(self) -> str | None:
        """The instance, if the provider says which one it is."""

    @property
    def load(self) -> Load:
        """The calls in flight, the latency and the failures."""

    @property
    def weight(self) -> int:
        """The share of the calls, in hundredths of the usual one."""

    @property
    def same_zone(self) -> bool:
        """Whether the provider runs in our zone."""

    @property
    def is_local(self) -> bool:
        """Whether the provider is this very node."""

    @property
    def rank_score(self) -> int:
        """The rank among more than :data:`MAX_SUBSET` providers: the highest are called."""

    def readiness(self, now: float) -> Readiness:
        """Whether it can be called now."""


M = TypeVar("M", bound=Member)


class Pool(Generic[M]):
    """The providers that can take the same calls."""

    def __init__(self, members: Iterable[M], turn: int | None = None) -> None:
        self.members = list(members)
        # A random beginning, because many processes start together.
        self._turn = random.randrange(1 << 16) if turn is None else turn
        subset = self.members
        if len(subset) > MAX_SUBSET:
            subset = sorted(subset, key=lambda one: -one.rank_score)[:MAX_SUBSET]
        self.subset = sorted(subset, key=lambda one: one.address)
        near = [one for one in self.subset if one.same_zone] or self.subset
        self._schedule = [near[at] for at in schedule([one.weight for one in near])]

    @property
    def turn(self) -> int:
        """The position in the schedule, which a pool with other members takes over."""
        return self._turn

    def pick(
        self,
        now: float,
        *,
        sticky: str | None = None,
        instance: str | None = None,
        tried: Sequence[str] = (),
        excluded: str | None = None,
        connect: Callable[[M], None] = lambda _: None,
    ) -> M | None:
        """The provider to call. One without a live connection is picked only when no other has one.
        ``connect`` is called with those that should be connected, so that they are ready next time.
        Those in ``tried`` are not picked, nor is ``excluded``, whose turns the others share."""

        def allows(one: M) -> bool:
            return one.address not in tried and one.address != excluded

        if instance is not None:
            found = next((one for one in self.members if one.instance == instance and allows(one)), None)
            if found is not None:
                connect(found)
            return found
        if len(self.members) == 1:
            only = self.members[0]
            if not allows(only):
                return None
            if only.readiness(now) in (Readiness.RECONNECT, Readiness.COOLING_DOWN):
                connect(only)
            return only
        if sticky is not None:
            return self._pick_sticky(sticky, now, allows, connect)
        if not self._schedule:
            return None
        # A second attempt does not move the turn. Otherwise a provider whose calls fail would
        # always be first.
        step = 0 if tried else 1
        count = len(self._schedule)
        for _ in range(count):
            cursor = self._turn
            next_one = self._schedule[cursor % count]
            self._turn += step
            if next_one.address != excluded or not step:
                break
        if not allows(next_one) or next_one.readiness(now) is not Readiness.READY:
            if step and next_one.readiness(now) is Readiness.RECONNECT:
                # It is connected for its next turn, which otherwise came a whole round later.
                self._turn -= 1
            return self._pick_best(cursor, now, allows, connect)
        return self._pick_of_two(next_one, now, allows)

    def _pick_of_two(self, next_one: M, now: float, allows: Callable[[M], bool]) -> M:
        count = len(self._schedule)
        overflows = next_one.same_zone and next_one.load.in_flight >= ZONE_OVERFLOW
        if not overflows and count == 1:
            return next_one
        if overflows:
            other = random.choice(self.subset)
        else:
            # Hardly ever the same: among few providers it would often be drawn.
            at = self._schedule.index(next_one)
            other = self._schedule[(at + random.randrange(1, count)) % count]

        def wins(one: M, against: M) -> bool:
            return not one.load.is_starting(now) or one.load.wins_slow_start(against.load, now, random.random())

        yields = not overflows and next_one.load.is_starting(now) and not wins(next_one, other)
        takes_other = yields or (_is_cheaper(other, next_one, now) and wins(other, next_one))
        is_ready = allows(other) and other.readiness(now) is Readiness.READY
        return other if takes_other and is_ready else next_one

    def _pick_best(
        self, cursor: int, now: float, allows: Callable[[M], bool], connect: Callable[[M], None]
    ) -> M | None:
        rank_of = self._ranks(now)
        best: tuple[Readiness, M] | None = None
        begin = cursor % len(self.subset)
        for one in self.subset[begin:] + self.subset[:begin]:
            if not allows(one):
                continue
            rank = rank_of(one)
            if rank is Readiness.RECONNECT:
                connect(one)
            if best is None or rank < best[0] or (rank == best[0] and _is_cheaper(one, best[1], now)):
                best = (rank, one)
        if best is None:
            return None
        if best[0] is Readiness.COOLING_DOWN:
            # No better one is left. A refused connect costs less than a refused call.
            connect(best[1])
        return best[1]

    def _pick_sticky(
        self, key: str, now: float, allows: Callable[[M], bool], connect: Callable[[M], None]
    ) -> M | None:
        """Rendezvous hashing with bounded load: the best score, unless that provider has a quarter
        more calls in flight than the mean."""
        allowed = [one for one in self.members if allows(one)]
        if not allowed:
            return None
        in_flight = sum(one.load.in_flight for one in allowed)
        most = -(-(in_flight + 1) // len(allowed)) * 5 // 4 + 1
        rank_of = self._ranks(now)

        def place(one: M) -> tuple[Readiness, bool, int]:
            rank = rank_of(one)
            if rank is Readiness.RECONNECT:
                connect(one)
            # A key stays with its provider while the connection is made: other nodes, which are
            # connected, would call that provider.
            if one.is_local or rank in (Readiness.CONNECTING, Readiness.RECONNECT):
                rank = Readiness.READY
            return rank, one.load.in_flight >= most, -score(key, one.address)

        best, (rank, _, _) = min(((one, place(one)) for one in allowed), key=lambda found: found[1])
        if rank is Readiness.COOLING_DOWN:
            connect(best)
        return best

    def _ranks(self, now: float) -> Callable[[M], Readiness]:
        """When most are ejected, they are hardly at fault, and the others could not bear the load:
        so none counts as ejected."""
        ejected = sum(one.readiness(now) is Readiness.EJECTED for one in self.subset)
        panics = ejected * 2 > len(self.subset)

        def rank_of(one: M) -> Readiness:
            rank = one.readiness(now)
            return Readiness.READY if panics and rank is Readiness.EJECTED else rank

        return rank_of


def schedule(weights: Sequence[int]) -> list[int]:
    """Positions in the order of calls: each as often as its weight says, and spread out."""
    most = max(weights, default=0)
    if not most or all(weight == most for weight in weights):
        return list(range(len(weights)))
    # As few positions as possible: weights of 100 and 200 give one and two.
    divisor = gcd(*weights)
    slots = []
    for position, weight in enumerate(weights):
        exact = most // divisor <= MAX_SCHEDULE_SHARE
        count = weight // divisor if exact else -(-weight * MAX_SCHEDULE_SHARE // most)
        slots += [((at + 0.5) / count, position) for at in range(count)]
    return [position for _, position in sorted(slots)]


def _is_cheaper(one: Member, other: Member, now: float) -> bool:
    """Whether one is clearly cheaper than the other, or in our zone when the other is not."""
    ours, theirs = one.load.in_flight, other.load.in_flight
    if one.same_zone and not other.same_zone:
        return ours < ZONE_OVERFLOW
    if other.same_zone and not one.same_zone:
        return theirs >= ZONE_OVERFLOW and ours < theirs // 2
    return one.load.is_clearly_cheaper(one.weight, other.load, other.weight, now)
