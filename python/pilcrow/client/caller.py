"""What a node calls with: calls, streams and events, and the state that they share."""

from __future__ import annotations

import asyncio
from typing import Any, Sequence

from ..balance.retry import CrashingRoutes, RetryBudget
from ..handler.service import Service
from ..routing.registry import Registry
from ..routing.replica import Replica
from ..routing.router import split_url
from ..routing.table import Table
from ..transport.connection import Connection
from ..transport.pending import Target
from .call import OutgoingCall
from .events import Emission
from .stream import Stream

DEFAULT_TIMEOUT = 5.0
"""How long a call may take, unless it says so: half of what a gateway gives a request."""

MAX_PART_BYTES = 256 << 20
"""Bytes of parts, of all streams that this node has opened, that wait to be read. The stream whose
part has no room ends."""

CONFIRM_UNREACHABLE = 1.0
"""A node that cannot be connected to is reported after this time: it may be starting."""


class Caller:
    """Calls, streams and events of a node."""

    def __init__(self, service: Service, registry: Registry, zone: str | None) -> None:
        self.service = service
        self.registry = registry
        self.loop = asyncio.get_running_loop()
        self.table = Table(service.instance, zone, self._connection, service.warn)
        self.retries = RetryBudget(self.loop.time())
        self.crashing = CrashingRoutes()
        self._changed = asyncio.Event()
        self._part_bytes = 0
        self._unreachable_since: dict[str, float] = {}

    def update(self, replica: Replica) -> None:
        """Takes over what the Distributor says."""
        self.table.update(replica.nodes(), replica.suspects)
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_for(self, urls: Sequence[str]) -> None:
        """Waits until nodes offer all of these."""
        wanted = [split_url(url, is_call=False) for url in urls]
        while True:
            changed = self._changed
            if all(self.table.find(*url) is not None for url in wanted):
                return
            await changed.wait()

    def _connection(self, target: Target) -> Connection:
        name, lose = self.service.name, self.service.lose
        warn, unreachable = self.service.warn, self._unreachable
        return Connection(target, self.service.instance, name, lose=lose, warn=warn, unreachable=unreachable)

    def _unreachable(self, connection: Connection, why: str) -> None:
        """A node could not be connected to. It is reported if that goes on."""
        address, now = connection.target.address, self.loop.time()
        began = self._unreachable_since.setdefault(address, now)
        if connection.load.silent_for(now) < now - began:
            self._unreachable_since[address] = began = now
        if now - began >= CONFIRM_UNREACHABLE or why == "wrong_instance":
            self._unreachable_since.pop(address)
            for node in self.table.ids_of(address):
                self.registry.report(node, why)
        if len(self._unreachable_since) > 1000:
            self._unreachable_since.clear()

    def hold_parts(self, size: int) -> bool:
        """Counts parts of streams that wait to be read, and returns whether there is room."""
        self._part_bytes += size
        return self._part_bytes <= MAX_PART_BYTES

    def report_failed(self, address: str) -> None:
        """A call to the node failed: the Distributor looks whether it lives."""
        for node in self.table.ids_of(address):
            self.registry.report(node)

    async def call(
        self,
        url: str,
        params: Any = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        idempotent: bool = False,
        sticky_key: str | None = None,
        to_instance: str | None = None,
    ) -> Any:
        """See :meth:`pilcrow.Node.call`."""
        outgoing = OutgoingCall(self, url, params, timeout, idempotent, sticky_key, to_instance)
        result = await outgoing.run(None)
        return result.value

    def stream(
        self,
        url: str,
        params: Any = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        idempotent: bool = False,
        sticky_key: str | None = None,
        to_instance: str | None = None,
    ) -> Stream:
        """See :meth:`pilcrow.Node.stream`."""
        return Stream(OutgoingCall(self, url, params, timeout, idempotent, sticky_key, to_instance))

    def emit(self, event: str, payload: Any = None) -> int:
        """See :meth:`pilcrow.Node.emit`."""
        return Emission(self, event, payload).to_groups()

    def broadcast(self, event: str, payload: Any = None) -> int:
        """See :meth:`pilcrow.Node.broadcast`."""
        return Emission(self, event, payload).to_all()
