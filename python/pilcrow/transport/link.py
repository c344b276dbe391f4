"""One socket to another node: calls under way, streams, and what may be written."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Callable

from ..errors import BadAnswer, Lost
from ..wire import MAX_FRAME_BYTES, MAX_LEGACY_KEY, FrameReader, FrameTooLarge, NotAPacket, encode
from .answers import failure_of
from .flow import WINDOW, FlowViolation, Inbox, NoRoom, Outbox
from .pending import NotSent, Pending, Queued, TimedOut
from .sockets import tune

if TYPE_CHECKING:
    from .connection import Connection

MAX_CALLS = 10_000
"""Calls that wait for one node."""

MAX_QUEUED_BYTES = 16 << 20
"""Bytes that wait to be written to one node."""

HELLO_PAUSE = 0.002
"""How often it is looked whether a node has said who it is."""

PROOF_TIME = 1.0
"""A node that has answered nothing over a new connection for this long may be a process that is
gone, whose port another one still holds: calls then go over a new connection."""

WRITE_PAUSE = 0.01
"""How often it is looked whether the system has taken a packet of version 1."""

STALL_TIME = 10.0
"""How long a node may read none of what is written to it."""

WRONG_INSTANCE_PAUSE = 3.0
"""How long an address at which another instance listens is not tried again."""

USELESS_PER_SECOND = 200.0
"""Packets of a node that no call waits for, a second; each that is of use allows one more."""

USELESS_BURST = 2000.0
"""The same, at once."""

USELESS_BYTES = 8192
"""This many bytes of such packets count as one more."""


class Link(asyncio.Protocol):
    """One socket to a node. Its packets are written together; those of version 1 one by one."""

    def __init__(self, owner: Connection) -> None:
        self.owner = owner
        self.target = owner.target
        self.pending: dict[int, Pending] = {}
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._reader = FrameReader(joins_pieces=not self.target.is_v2)
        self._queue: deque[Queued] = deque()
        self._queued_bytes = 0
        self._has_begun = False
        self._flush_due = False
        self._proof_due = False
        self._next_key = 0
        self._is_retired = False
        self.is_proven = False
        self._is_misdirected = False
        self._connected_at = 0.0
        self._useless = USELESS_BURST
        self._useless_at = 0.0
        # Of version 1: what it has not answered, by key, with the bytes that were written up to it.
        self._unanswered: dict[int, int] = {}
        self._written = 0
        self._read = 0
        self._stalled_since: float | None = None

    # What callers do.

    def submit(
        self, write: Callable[[int, int | None], bytes], deadline: float, inbox: Inbox | None = None
    ) -> Pending:
        """Queues a call, whose packet ``write`` makes of its key and the milliseconds since the
        connection was made. Raises :class:`NotSent`."""
        if len(self.pending) >= MAX_CALLS:
            raise NotSent("too many calls wait for this node", is_full=True)
        key = self._take_key()
        now = self._loop.time()
        packet = write(key, None if self._transport is None else int((now - self._connected_at) * 1000))
        pending = Pending(key, self._loop.create_future(), now, inbox)
        self._enqueue(packet, pending, None)
        self.pending[key] = pending
        pending.link = self
        pending.timer = self._loop.call_at(deadline, self._expire, pending)
        return pending

    def send(self, packet: bytes, lost_as: str | None = None) -> None:
        """Queues a packet that has no answer. ``lost_as`` is what is logged if it is lost. Raises
        :class:`NotSent`."""
        self._enqueue(packet, None, lost_as)

    def cancel(self, pending: Pending) -> None:
        """The caller no longer waits. A packet that was not written is never written; otherwise a
        node of version 2 is told."""
        self._take(pending)
        if pending.outbox is not None:
            pending.outbox.close()
        if self.target.is_v2 and pending.is_written and self._transport is not None:
            try:
                self.send(encode({"uri": "$cancel", "key": pending.key, "$": {}}))
            except NotSent:
                pass  # The node takes nothing now, and is given up soon.

    def retire(self) -> None:
        """The link is closed when its calls are over."""
        self._is_retired = True
        self._close_if_idle()

    def _take_key(self) -> int:
        while True:
            self._next_key += 1
            if not self.target.is_v2 and self._next_key > MAX_LEGACY_KEY:
                self._next_key = 1
            if self._next_key not in self.pending and self._next_key not in self._unanswered:
                return self._next_key

    def _enqueue(self, packet: bytes, pending: Pending | None, lost_as: str | None) -> None:
        limit = MAX_FRAME_BYTES if self.target.is_v2 else self.target.read_window
        if len(packet) > limit:
            raise NotSent(f"the packet has {len(packet)} bytes; the node takes {limit}", is_too_large=True)
        unsent = self._queued_bytes + (self._transport.get_write_buffer_size() if self._transport else 0)
        if unsent + len(packet) > MAX_QUEUED_BYTES:
            raise NotSent("too many bytes wait for this node", is_full=True)
        self._queue.append((packet, pending, lost_as))
        self._queued_bytes += len(packet)
        if self._has_begun and not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _expire(self, pending: Pending) -> None:
        self.cancel(pending)
        pending.fail(TimedOut())
        self._close_if_idle()

    def _take(self, pending: Pending) -> None:
        self.pending.pop(pending.key, None)
        if pending.timer is not None:
            pending.timer.cancel()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._connected_at = self._loop.time()
        tune(transport.get_extra_info("socket"))
        if self.target.is_v2:
            meta = {"f": self.owner.instance, "n": self.owner.name, "to": self._expected() or "*"}
            transport.write(encode({"uri": "$hello", "$": meta}))

    def begin(self) -> None:
        """The node is the one: what waits is written."""
        self._has_begun = True
        self._flush()

    async def hello(self) -> None:
        """Waits until the node has said who it is. Raises ``OSError``."""
        while not self.is_proven:
            if not self.is_connected:
                raise ConnectionResetError("no node listens there")
            await asyncio.sleep(HELLO_PAUSE)

    @property
    def is_connected(self) -> bool:
        """Whether the socket is open."""
        return self._transport is not None and not self._transport.is_closing()

    def abort(self) -> None:
        """Closes the socket now."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            for packet in self._reader.packets():
                self._received(packet, len(self._reader.text))
                if self._transport is None or self._transport.is_closing():
                    return
        except FrameTooLarge as error:
            self._cut(f"an answer is too large: {error}")
        self._close_if_idle()

    def pause_writing(self) -> None:
        self._stalled_since = self._loop.time()
        self._loop.call_later(STALL_TIME, self._check_stalled)

    def resume_writing(self) -> None:
        self._stalled_since = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.owner.link_ended(self)
        self.fail_all("the connection was lost")

    def fail_all(self, why: str) -> None:
        """Ends all calls. Those that were written may have been carried out, unless the node is
        another one."""
        for pending in list(self.pending.values()):
            self._take(pending)
            if pending.is_written and not self._is_misdirected:
                pending.fail(Lost(f"{self.target.address} was lost before it answered"))
            else:
                pending.fail(NotSent(why))
        queue, self._queue, self._queued_bytes = self._queue, deque(), 0
        for _, _, lost_as in queue:
            if lost_as is not None:
                self.owner.lose(lost_as, f"{self.target.name} at {self.target.address} cannot be reached: {why}")

    # Writing.

    def _flush(self) -> None:
        self._flush_due = False
        if self._transport is None or self._transport.is_closing():
            return
        if self.target.is_v2:
            out = []
            while self._queue:
                packet, pending, _ = self._queue.popleft()
                if pending is None or pending.key in self.pending:
                    out.append(packet)
                if pending is not None:
                    pending.is_written = True
            self._queued_bytes = 0
            if out:
                self._transport.write(b"".join(out))
        else:
            self._flush_legacy(self._transport)
        if self.pending and not self.is_proven and not self._proof_due:
            self._proof_due = True
            self._loop.call_later(PROOF_TIME, self._check_proof)

    def _flush_legacy(self, transport: asyncio.Transport) -> None:
        """One write carries one packet, and no more is written than the node can read at once,
        until an answer shows that it has read what came before."""
        while self._queue:
            packet, pending, _ = self._queue[0]
            if pending is None or pending.key in self.pending:
                waits = not self.is_proven and len(self._unanswered) > 0
                waits = waits or self._written - self._read + len(packet) > self.target.read_window
                is_taken = transport.get_write_buffer_size() == 0
                if waits or not is_taken:
                    if self._stalled_since is None:
                        self._stalled_since = self._loop.time()
                        self._loop.call_later(STALL_TIME, self._check_stalled)
                    if not is_taken:
                        self._loop.call_later(WRITE_PAUSE, self._flush)
                    return
                transport.write(packet)
                self._written += len(packet)
                if pending is not None:
                    pending.is_written = True
                    if len(self._unanswered) >= MAX_CALLS:
                        del self._unanswered[next(iter(self._unanswered))]
                    self._unanswered[pending.key] = self._written
            self._queue.popleft()
            self._queued_bytes -= len(packet)
        self._stalled_since = None

    def _check_stalled(self) -> None:
        if self._stalled_since is not None and self._loop.time() - self._stalled_since >= STALL_TIME - 0.01:
            self._cut(f"the node has not read anything for {STALL_TIME:.0f} s")

    def _check_proof(self) -> None:
        self._proof_due = False
        if not self.is_proven and self._transport is not None and not self._is_retired:
            waiting = [one for one in self._queue if one[1] is None or one[1].key in self.pending]
            self._queue.clear()
            self._queued_bytes = 0
            self.owner.renew(self, waiting)

    def adopt(self, waiting: list[Queued], old: Link) -> None:
        """Takes over what another link has not written."""
        for packet, pending, lost_as in waiting:
            if pending is not None:
                old.pending.pop(pending.key, None)
                # Its key stands in its packet.
                if pending.key in self.pending:
                    pending.fail(NotSent("the connection was renewed"))
                    continue
                self.pending[pending.key] = pending
                pending.link = self
                self._next_key = max(self._next_key, pending.key)
                if pending.timer is not None:
                    when = pending.timer.when()
                    pending.timer.cancel()
                    pending.timer = self._loop.call_at(when, self._expire, pending)
            self._queue.append((packet, pending, lost_as))
            self._queued_bytes += len(packet)
        if self._has_begun:
            self._flush()

    # Reading.

    def _received(self, packet: Any, size: int) -> None:
        if packet is None and not self.target.is_v2:
            # So a version 1 service answers a method that it does not know.
            only = next(iter(self._unanswered)) if len(self._unanswered) == 1 else None
            self._answered(only, packet, size)
            return
        if isinstance(packet, NotAPacket) or not isinstance(packet, dict):
            self._is_useless(size)
            return
        meta = packet["$"] if isinstance(packet.get("$"), dict) else None
        key = packet.get("key")
        if isinstance(key, str) and key.isascii() and key.isdigit():
            key = int(key)  # Version 1 services answer so.
        if packet.get("uri") == "$hello":
            self._hello(meta or {})
        elif packet.get("uri") == "$credit" and meta is not None:
            pending = self.pending.get(key) if isinstance(key, int) else None
            if pending is not None and pending.outbox is not None:
                pending.outbox.grant(meta.get("c"))
            self.is_proven = True
        elif not isinstance(key, int) or isinstance(key, bool):
            self._is_useless(size)
        elif meta is not None and "n" in meta:
            self._part(key, meta, packet, size)
        else:
            self._answered(key, packet, size)

    def _expected(self) -> str | None:
        """The only instance that may answer, if there is just one."""
        return None if self.target.is_shared else self.target.instance

    def _hello(self, meta: dict[str, Any]) -> None:
        expected = self._expected()
        if expected is not None and meta.get("f") != expected:
            self._is_misdirected = True
            self.owner.cool_down(WRONG_INSTANCE_PAUSE, "wrong_instance")
            self._cut("another instance listens there")
            return
        self._prove()

    def _prove(self) -> None:
        self.is_proven = True
        if not self.target.is_v2:
            self._stalled_since = None
            if self._has_begun:
                self._flush()

    def _answered(self, key: int | None, packet: Any, size: int) -> None:
        if key is not None and key in self._unanswered:
            self._read = max(self._read, self._unanswered.pop(key))
        pending = None if key is None else self.pending.get(key)
        if pending is None or not pending.is_written:
            # It may be late: a sign of life all the same.
            self.owner.load.reset()
            self._is_useless(size, is_late=key is not None and 0 < key <= self._next_key)
            self._prove()
            return
        self._is_useful()
        self._take(pending)
        now = self._loop.time()
        if not pending.future.done():
            self.owner.load.record_response(now, now - pending.began)
            pending.future.set_result(packet)
        elif pending.inbox is not None and pending.outbox is not None:
            # A usual answer is one more part and the end; an error is the end.
            pending.outbox.close()
            error = failure_of(packet)
            if error is None:
                pending.inbox.last(packet.get("params"), size)
            else:
                pending.inbox.end(error)
        self._prove()

    def _part(self, key: int, meta: dict[str, Any], packet: dict[str, Any], size: int) -> None:
        pending = self.pending.get(key)
        if pending is None or pending.inbox is None:
            self._is_useless(size, is_late=0 < key <= self._next_key)
            return
        self._is_useful()
        self._prove()
        try:
            if pending.outbox is None:
                if meta["n"] != 0:
                    raise FlowViolation("a stream begins with part 0")
                now = self._loop.time()
                self.owner.load.record_response(now, now - pending.began)
                pending.outbox = Outbox(WINDOW)
                if pending.timer is not None:
                    pending.timer.cancel()
                pending.future.set_result(None)
            elif meta.get("end") is True:
                self._take(pending)
                pending.outbox.close()
                pending.inbox.end(number=meta["n"])
            else:
                pending.inbox.push(meta["n"], packet.get("params"), size)
        except NoRoom:
            self.cancel(pending)
            pending.fail(BadAnswer("no memory is left for the parts of the stream"))
        except FlowViolation as error:
            self._take(pending)
            pending.fail(BadAnswer(f"{self.target.address} breaks flow control: {error}"))
            self._cut(f"the node breaks flow control: {error}")

    def _is_useful(self) -> None:
        self._useless = min(self._useless + 1, USELESS_BURST)

    def _is_useless(self, size: int, is_late: bool = False) -> None:
        now = self._loop.time()
        self._useless = min(self._useless + (now - self._useless_at) * USELESS_PER_SECOND, USELESS_BURST)
        self._useless_at = now
        if not is_late:
            self._useless -= 1 + size // USELESS_BYTES
        if self._useless < 0:
            self.owner.is_useless()
            self._cut("it keeps sending packets that no call waits for")

    def _cut(self, why: str) -> None:
        self.owner.warn(f"the connection to {self.target.name} at {self.target.address} was closed: {why}")
        if self._transport is not None:
            self._transport.abort()

    def _close_if_idle(self) -> None:
        if self._is_retired and not self.pending and not self._queue and self._transport is not None:
            self._transport.close()
