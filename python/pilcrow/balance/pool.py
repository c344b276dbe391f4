"""The providers that can take the same calls, and which of them takes the next one. It decides as
the Rust SDK does.

Time is an argument, in seconds of one clock that does not go back. Nothing here does I/O.
"""

from __future__ import annotations

import random
from enum import IntEnum
from math import gcd
from typing import Callable, Generic, Iterable, Protocol, Sequence, TypeVar

from .load import Load
from .rendezvous import score

ZONE_OVERFLOW = 32
"""With this many calls in flight to a provider of our own zone, calls overflow to one of another
zone that has less than half as many."""

MAX_SUBSET = 100
"""Maximum number of providers of a route that one node calls. With many callers each has a
different subset, and fewer connections."""

MAX_SCHEDULE_SHARE = 16
"""Maximum number of positions of one provider in a schedule. Finer weights are rounded."""


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
