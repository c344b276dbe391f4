"""The way to another node: it is connected when it is first needed, and again when it was lost."""

from __future__ import annotations

import asyncio
import random
import socket
from typing import Callable

from ..balance.load import Load
from ..balance.pool import Readiness
from .link import Link
from .pending import NotSent, Queued, Target
from .sockets import blocked_because, is_own_host

CONNECT_TIME = 1.0
"""How long connecting may take: a node in the same network answers in far less, unless it is
gone."""

FIRST_BACKOFF = 0.1
"""The wait before the next attempt to connect: a node that restarts is back after about this
time."""

MAX_BACKOFF = 3.0
"""The longest such wait. A node that is gone for longer disappears from the list."""

MAX_USELESS_PAUSE = 30.0
"""The longest pause after a connection was closed for such packets; the first is a second."""

MAX_ADDRESSES = 16
"""Addresses of one name that are tried."""


class Connection:
    """The way to a node. It is connected when it is first needed."""

    def __init__(
        self,
        target: Target,
        instance: str,
        name: str,
        *,
        lose: Callable[[str, str], None] = lambda *_: None,
        warn: Callable[[str], None] = lambda _: None,
        unreachable: Callable[[Connection, str], None] = lambda *_: None,
    ) -> None:
        """``instance`` and ``name`` are those of the node that calls."""
        self.target = target
        self.instance = instance
        self.name = name
        self.lose = lose
        self.warn = warn
        self._loop = asyncio.get_running_loop()
        self.load = Load(self._loop.time())
        self._unreachable = unreachable
        self._link: Link | None = None
        self._is_up = False
        self._connecting: asyncio.Task[None] | None = None
        self._backoff = FIRST_BACKOFF
        self._down_until = 0.0
        self._useless_pause = 1.0
        self.is_retired = False

    def readiness(self, now: float) -> Readiness:
        """Whether it can be called now."""
        if self._link is not None:
            if not self._is_up:
                return Readiness.CONNECTING
            return Readiness.EJECTED if self.load.is_ejected(now) else Readiness.READY
        return Readiness.COOLING_DOWN if now < self._down_until else Readiness.RECONNECT

    def link(self) -> Link:
        """The link, which may not be connected yet. Raises :class:`NotSent`."""
        if self.is_retired:
            raise NotSent("the node has left")
        if self._link is None:
            self._link, self._is_up = Link(self), False
            self._connecting = self._loop.create_task(self._connect(self._link))
        return self._link

    def connect(self) -> None:
        """Begins to connect, if there is no connection."""
        if not self.is_retired:
            self.link()

    def retire(self) -> None:
        """The node has left: the connection is closed when its calls are over."""
        self.is_retired = True
        link, self._link = self._link, None
        if link is not None:
            link.retire()
            if not self._is_up and not link.pending and self._connecting is not None:
                self._connecting.cancel()

    async def _connect(self, link: Link) -> None:
        try:
            await asyncio.wait_for(self._open(link), CONNECT_TIME)
        except (OSError, asyncio.TimeoutError) as error:
            why = _word_of(error)
            link.abort()
            if self._link is link:
                self._link = None
                self._fail(why)
            link.fail_all("it cannot be connected to")
            return
        if self._link is link:
            self._is_up = True
            self._backoff = FIRST_BACKOFF
            self.load.connected(self._loop.time())
        link.begin()

    async def _open(self, link: Link) -> None:
        target = self.target
        if target.advertised is not None and not _is_address(target.advertised[0]):
            try:
                await self._open_at(link, *target.advertised)
            except OSError:
                # The address that the Distributor has found may be right where our look-up finds
                # none.
                await self._open_at(link, target.host, target.port)
        else:
            await self._open_at(link, target.host, target.port)
        if target.is_v2 and target.advertised is not None:
            # Anything may listen there: no call is sent before the node has said who it is.
            await link.hello()
        if not link.is_connected:
            raise ConnectionResetError("the connection was closed at once")

    async def _open_at(self, link: Link, host: str, port: int) -> None:
        """Connects to a host. Each address of a name is tried, but none that is never called."""
        infos = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        failed: OSError = PermissionError("its address is never called")
        for _, _, _, _, found in infos[:MAX_ADDRESSES]:
            address = str(found[0])
            leads_here = is_own_host(address) and not is_own_host(self.target.host)
            if blocked_because(address) is not None or leads_here:
                continue
            try:
                await self._loop.create_connection(lambda: link, address, port)
                return
            except OSError as error:
                failed = error
        raise failed

    def _fail(self, why: str) -> None:
        wait = self._backoff * random.uniform(0.5, 1)
        self._backoff = min(self._backoff * 2, MAX_BACKOFF)
        self._down_until = max(self._down_until, self._loop.time() + wait)
        self._unreachable(self, why)

    def link_ended(self, link: Link) -> None:
        """A link has ended."""
        if self._link is link and self._is_up:
            self._link, self._is_up = None, False
            wait = self._backoff * random.uniform(0.5, 1)
            self._down_until = max(self._down_until, self._loop.time() + wait)

    def renew(self, old: Link, waiting: list[Queued]) -> None:
        """Makes a new connection to a node that has answered nothing over the one before."""
        if self._link is old:
            self._link, self._is_up = None, False
        try:
            self.link().adopt(waiting, old)
        except NotSent as error:
            for _, pending, _ in waiting:
                if pending is not None:
                    pending.fail(error)
        old.retire()

    def cool_down(self, seconds: float, why: str) -> None:
        """It is not connected again for this time."""
        self._down_until = self._loop.time() + seconds
        self._unreachable(self, why)

    def is_useless(self) -> None:
        """It sends packets that no call waits for."""
        self._down_until = self._loop.time() + self._useless_pause
        self._useless_pause = min(self._useless_pause * 2, MAX_USELESS_PAUSE)


def _is_address(host: str) -> bool:
    return ":" in host or host.replace(".", "").isdigit()


def _word_of(error: BaseException) -> str:
    """The word of a report for a failed connect."""
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
        return "timeout"
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    if isinstance(error, PermissionError):
        return "forbidden"
    if isinstance(error, ConnectionResetError):
        return "no_node"
    if isinstance(error, OSError) and error.errno is not None and error.errno < 0:
        return "unknown_name"
    return "no_way" if isinstance(error, OSError) and error.errno in (101, 113) else "other"
