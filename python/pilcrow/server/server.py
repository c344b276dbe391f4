"""Listens for callers, and stops in order."""

from __future__ import annotations

import asyncio

from ..handler.service import Service
from .caller_connection import CallerConnection

MAX_CALLERS = 10_000
"""Connections: every node and gateway of a large mesh."""

TIDY = 0.25
"""How often callers are looked at: how much one may hold depends on the others, too."""


class Server:
    """Listens for callers."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.read_windows: dict[str, int] = {}
        """By host, what its version 1 peers say that they can read."""
        self._callers: set[CallerConnection] = set()
        self._sockets: asyncio.AbstractServer | None = None
        self._tidying: asyncio.Task[None] | None = None

    async def listen(self, host: str, port: int) -> tuple[str, int]:
        """Begins to listen. Returns the address. Raises ``OSError``."""
        loop = asyncio.get_running_loop()
        self._sockets = await loop.create_server(lambda: CallerConnection(self), host, port, reuse_address=True)
        self._tidying = loop.create_task(self._tidy())
        address: tuple[str, int] = self._sockets.sockets[0].getsockname()[:2]
        return address

    def add(self, caller: CallerConnection) -> bool:
        """Takes a caller, unless there are too many."""
        if len(self._callers) >= MAX_CALLERS:
            self.service.warn(f"{caller.peer}: refused: {MAX_CALLERS} callers are connected")
            return False
        self._callers.add(caller)
        return True

    def remove(self, caller: CallerConnection) -> None:
        """A caller has gone."""
        self._callers.discard(caller)

    def read_window_of(self, host: str) -> int:
        """What version 1 peers of this host say that they can read; 0 if none says so."""
        return self.read_windows.get(host.strip("[]"), 0)

    async def stop(self, leave_time: float, finish_time: float) -> bool:
        """Stops in order: callers that have been told go by themselves; then no new caller comes, and
        running calls are finished. Returns whether all were."""
        await self._gone(leave_time)
        if self._sockets is not None:
            self._sockets.close()
        for caller in list(self._callers):
            caller.finish()
        await self._gone(finish_time)
        work = {task for task in self.service.tasks if not task.done()}
        if work:
            await asyncio.wait(work, timeout=finish_time)
        is_done = not self._callers and all(task.done() for task in work)
        for caller in list(self._callers):
            caller.abort()
        for task in work:
            task.cancel()
        if self._tidying is not None:
            self._tidying.cancel()
        return is_done

    async def _gone(self, time: float) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + time
        while self._callers and loop.time() < end:
            await asyncio.sleep(0.02)

    async def _tidy(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TIDY)
            for caller in list(self._callers):
                caller.tidy(loop.time())
