"""Runs acknowledged events of one key one after the other, in the order in which they come."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import AsyncIterator

from ..errors import ServiceError

MAX_WAITING_OF_KEY = 256
"""Maximum number that wait for one key: those that come faster than they are handled wait for longer
and longer."""

MAX_WAITING = 4096
"""Maximum number that wait, of all keys: each holds its payload."""


class KeyTurns:
    """The turns of all keys."""

    def __init__(self) -> None:
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}
        self._waiting = 0

    @asynccontextmanager
    async def turn(self, key: str) -> AsyncIterator[None]:
        """Waits until nothing of the same key is at work. Raises :class:`ServiceError` when too many
        wait."""
        lock, users = self._locks.get(key, (asyncio.Lock(), 0))
        if users > MAX_WAITING_OF_KEY or (users > 0 and self._waiting >= MAX_WAITING):
            text = f"{MAX_WAITING_OF_KEY} events of one key, or {MAX_WAITING} in all, wait for their turn already"
            raise ServiceError(503, "overloaded", text, retry_after=0.1)
        self._locks[key] = (lock, users + 1)
        self._waiting += users > 0
        is_waiting = users > 0
        try:
            async with lock:
                self._waiting -= is_waiting
                is_waiting = False
                yield
        finally:
            self._waiting -= is_waiting
            users = self._locks[key][1] - 1
            if users:
                self._locks[key] = (lock, users)
            else:
                del self._locks[key]
