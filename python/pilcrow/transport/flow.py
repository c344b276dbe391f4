"""Parts of streams: credit, numbers, and what waits to be read. Both sides use it.

Nothing here knows sockets.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Callable

from ..wire import DELIMITER, seal

WINDOW = 262_144
"""Bytes of parts that wait here to be read, with one more part at most: then the other side waits.
Every caller begins with this much credit."""

GRANT = WINDOW // 2
"""Credit is given back when this many bytes were read: a packet for each part would cost more than
the parts."""


class FlowViolation(Exception):
    """The other side has left a gap in the numbers of its parts, or has sent one without credit."""


class NoRoom(Exception):
    """There is no room for another part."""


class Inbox:
    """The parts that the other side sends."""

    def __init__(self, has_room: Callable[[int], bool] = lambda _: True, window: int = WINDOW) -> None:
        """``has_room`` is told of each part that comes, and of each that was read as a negative
        number of bytes. Its answer counts for those that come."""
        self.held = 0
        """Bytes of parts that were not read."""
        self._has_room = has_room
        self._parts: deque[tuple[Any, int]] = deque()
        self._credit = window
        self._read = 0
        self._next = 1
        self._end: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None

    def push(self, number: object, value: Any, size: int) -> None:
        """Takes a part. Raises :class:`FlowViolation`, or :class:`NoRoom`."""
        if self._end is not None:
            return
        if number != self._next:
            raise FlowViolation(f"part {self._next} was due, and {number!r} came")
        if self._credit <= 0:
            raise FlowViolation("a part was sent without credit")
        if not self._hold(size):
            raise NoRoom
        self._next += 1
        self._credit -= size
        self._parts.append((value, size))
        self._wake()

    def end(self, error: BaseException | None = None, number: object = None) -> None:
        """Says that nothing follows, or why. Parts that have come are read first, unless a part is
        missing before the end. Raises :class:`FlowViolation`."""
        if self._end is None:
            if number is not None and number != self._next:
                raise FlowViolation(f"the end was due as {self._next}, and came as {number!r}")
            self._end = error or StopAsyncIteration()
            self._wake()

    def last(self, value: Any, size: int) -> None:
        """Takes an answer in one piece: one more part, and the end."""
        if self._end is None:
            self._hold(size)
            self._parts.append((value, size))
            self.end()

    @property
    def is_over(self) -> bool:
        """Whether the end has come."""
        return self._end is not None

    async def next(self) -> tuple[Any, int]:
        """The next part, and the credit to give back now. Raises ``StopAsyncIteration`` at the end,
        or the error that was it."""
        while not self._parts:
            if self._end is not None:
                raise self._end
            if self._waiter is not None and not self._waiter.done():
                raise RuntimeError("two tasks read one stream")
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        value, size = self._parts.popleft()
        self._hold(-size)
        self._read += size
        if self._read < GRANT or self.is_over:
            return value, 0
        grant, self._read = self._read, 0
        self._credit += grant
        return value, grant

    def forget(self) -> None:
        """Nobody reads what is left."""
        self._parts.clear()
        self._hold(-self.held)

    def _hold(self, size: int) -> bool:
        self.held += size
        return self._has_room(size)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Outbox:
    """Counts the parts that we send, and waits for credit."""

    def __init__(self, credit: int) -> None:
        self._credit = credit
        self._next = 1
        self._is_over = False
        self._waiter: asyncio.Future[None] | None = None

    def grant(self, credit: object) -> None:
        """The other side has read this many bytes of parts."""
        if isinstance(credit, int) and not isinstance(credit, bool) and credit > 0:
            self._credit += credit
            self._wake()

    def close(self) -> None:
        """No part can be sent any more: those who wait for credit are told."""
        self._is_over = True
        self._wake()

    @property
    def is_over(self) -> bool:
        """Whether no part can be sent any more."""
        return self._is_over

    async def credit(self) -> bool:
        """Waits until a part may be sent. False when the stream is over."""
        while self._credit <= 0 and not self._is_over:
            if self._waiter is None or self._waiter.done():
                self._waiter = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._waiter)
        return not self._is_over

    def part(self, head: str, text: str) -> bytes:
        """The packet of the next part, whose JSON text this is. ``head`` stands before its
        ``$``."""
        packet = seal(f'{head},"$":{{"n":{self._next}}},"params":{text}}}')
        self._credit -= len(packet) - len(DELIMITER)
        self._next += 1
        return packet

    def end(self, head: str) -> bytes:
        """The packet that says that nothing follows."""
        self._is_over = True
        return seal(f'{head},"$":{{"n":{self._next},"end":true}}}}')

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
