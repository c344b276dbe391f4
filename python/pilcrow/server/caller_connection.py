"""One caller of a node: the packets that it sends, and what it may hold.

Every bound of a caller stands here.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Sequence

from ..context import Context, read_trace
from ..errors import ServiceError
from ..handler.fields import Fields
from ..handler.http import request_of
from ..handler.service import Call, event_of, is_idempotent, overloaded
from ..routing.router import EVENT
from ..transport.answers import failure_packet, success_packet
from ..transport.flow import FlowViolation, Inbox, NoRoom, Outbox
from ..transport.sockets import peer_name, tune
from ..wire import (
    LEGACY_READ_BYTES,
    MAX_FRAME_BYTES,
    FrameReader,
    FrameTooLarge,
    NotAPacket,
    is_count,
    is_number,
    key_and_params,
    seal,
    to_json,
)
from .answer_writer import AnswerWriter
from .queue_delay import MAX_AGE_MS, QueueDelay
from .running_call import RunningCall

if TYPE_CHECKING:
    from .server import Server

MAX_RUNNING = 1024
"""Calls of one caller at work, streams among them. With more, it is not read from."""

MAX_UNREAD_BYTES = 8 << 20
"""Bytes of answers that a caller has not read. With more, no call of it is begun."""

MAX_PART_BYTES = 1 << 20
"""Bytes of parts of streams that a caller has not read: four times the credit of a usual caller. With
more, no part is added, whatever credit it has granted."""

ROOM_PAUSE = 0.01
"""How often it is looked whether a caller has read parts."""

MAX_CALLER_BYTES = 64 << 20
"""Bytes that are held for one caller: some of the largest calls while they run. An answer that has
no room is an error."""

MIN_CALLER_BYTES = 16 * 1024
"""Bytes that each caller may always have, whatever others hold, so that small calls get through."""

MAX_STRIKES = 3
"""Broken packets of a caller before it is cut: later ones are unlikely to be better."""

FRAME_TIME = 10.0
"""How long a call may take to arrive, from its first byte to its last."""

STALL_TIME = 10.0
"""How long a caller may read none of its answers."""

LINE_END_BYTES = 16
"""People type line ends between packets: fewer bytes than this begin no call."""

MAX_ID_CHARS = 128
"""Characters of a caller's instance id, of which ours have 33."""

WRONG_INSTANCE = 421
"""HTTP's status for a misdirected request."""


class CallerConnection(asyncio.Protocol):
    """One caller of a node."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.service = server.service
        self.peer = "?"
        self._transport: asyncio.Transport = None  # type: ignore[assignment]  # It is set when it is made.
        self._writer: AnswerWriter = None  # type: ignore[assignment]  # The same.
        self._loop = asyncio.get_running_loop()
        self._reader = FrameReader()
        self._instance = ""
        self._running: set[RunningCall] = set()
        self._by_key: dict[Any, RunningCall] = {}
        self._running_bytes = 0
        self._part_bytes = 0
        self._strikes = 0
        self._is_legacy = False
        self._misdirected = False
        self._closing = False
        self._at_end = False
        self._paused = False
        self._stalled_since: float | None = None
        self._frame_began: float | None = None
        self._charged = 0
        self._delay = QueueDelay()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._writer = AnswerWriter(transport, self._read_window, self._written)
        self.peer = peer_name(transport.get_extra_info("peername"))
        tune(transport.get_extra_info("socket"))
        if not self.server.add(self):
            transport.abort()

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        self._work()

    def eof_received(self) -> bool:
        # A caller that closes its side may still read its answers.
        self._at_end = True
        self._close_if_idle()
        return True

    def pause_writing(self) -> None:
        self._stalled_since = self._loop.time()

    def resume_writing(self) -> None:
        self._stalled_since = None
        self._work()

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.remove(self)
        for running in list(self._running):
            self._leave(running)
        self._reader = FrameReader()
        self._settle(0)

    # Packets that come.

    def _work(self) -> None:
        """Handles the packets that have arrived, as long as the caller has room for more calls."""
        now = self._loop.time()
        try:
            if not self._is_busy():
                for packet in self._reader.packets():
                    self._frame_began = None
                    self._take(packet, now)
                    if self._transport.is_closing():
                        return
                    if self._is_busy():
                        break
        except FrameTooLarge as error:
            self._cut(str(error))
            return
        if len(self._reader) > LINE_END_BYTES and self._frame_began is None:
            self._frame_began = now
        self._pace()

    def _take(self, packet: Any, now: float) -> None:
        if isinstance(packet, NotAPacket):
            self._strike("a frame is not a packet")
            return
        uri = packet.get("uri") if isinstance(packet, dict) else None
        if not isinstance(packet, dict) or not isinstance(uri or "", str):
            self._strike("a frame is not a packet")
            return
        method = packet.get("method") or ""
        if not isinstance(method, str):
            self._strike("a method is not a text")
            return
        if self._reader.pieces > 1:
            text = f"{self.peer}: a call was cut by a raw ¶ in a text; its {self._reader.pieces} pieces were joined"
            self.service.warn(text)
        is_v2 = packet.get("$") is not None
        self._is_legacy = not is_v2
        self._reader.joins_pieces = not is_v2
        said: Any = packet.get("$")
        meta: dict[str, Any] = said if isinstance(said, dict) else {}
        uri, size = uri or "", len(self._reader.text)
        if uri.startswith("$"):
            self._control(uri, packet, meta, size)
            return
        key, params = key_and_params(packet, is_v2)
        if method == EVENT and not isinstance(meta.get("e"), str):
            key = None  # An emitter that wants an acknowledgement says which event it is.
        running = RunningCall(self, key, is_v2, is_idempotent(method, meta.get("i")), size)
        running.head = f'{{"key":{to_json(key)}'
        try:
            self._begin(running, method, uri, params, meta, now)
        except ServiceError as error:
            self.refuse(running, error)

    def _begin(
        self, running: RunningCall, method: str, uri: str, params: Any, meta: dict[str, Any], now: float
    ) -> None:
        if self._misdirected:
            text = f"this is another instance of {self.service.name}, or another service, than the call is for"
            raise ServiceError(WRONG_INSTANCE, "wrong_instance", text)
        context = self._context(meta, now)
        handler, captured = self.service.find(method, uri, context)
        streams = running.is_v2 and isinstance(running.key, int)
        credit: Any = meta.get("c")
        if streams and is_count(credit):
            running.inbox, running.outbox = Inbox(self._hold_parts), Outbox(credit)
            context = Context(context.deadline, context.trace, context.hops, may_stream=True)
        elif handler.is_stream and running.key is not None:
            raise ServiceError(406, "stream", "the answer of this route is a stream: call it as one")
        stated: Any = meta.get("f")
        instance = stated if isinstance(stated, str) else self._instance
        request = request_of(meta, handler.wanted)
        caller = instance[:MAX_ID_CHARS] or self.peer
        call = Call(self.service, method, uri, params, running.inbox, caller, request)
        call._open = running if running.outbox is not None else None
        if method == EVENT:
            call.event = event_of(uri, meta)
        self._running.add(running)
        if running.key is not None:
            self._by_key[running.key] = running
        self._running_bytes += running.bytes
        running.task = self._loop.create_task(running.run(call, handler, captured, context))

    def _context(self, meta: dict[str, Any], now: float) -> Context:
        """What the call hands down. Raises :class:`ServiceError` when its time is over, or was
        spent on the way."""
        left: Any = meta.get("d")
        sent: Any = meta.get("t")
        hops: Any = meta.get("h")
        waited = self._delay.of(sent, now) if is_count(sent) else 0.0
        deadline = None
        if is_number(left):
            time = min(max(left, 0), MAX_AGE_MS) / 1000
            if waited >= time:
                raise ServiceError(504, "deadline", "the deadline was over before the call began")
            if waited > time / 2:
                # Under overload, all calls that have waited longest would be answered too late.
                raise overloaded("the call waited for half of its time before it could be begun")
            deadline = now - waited + time
        return Context(deadline, read_trace(meta.get("tp")), (hops if is_count(hops) else 0) + 1)

    def _control(self, uri: str, packet: dict[str, Any], meta: dict[str, Any], size: int) -> None:
        """A packet about the connection or a running call. Those of later versions are ignored."""
        key = packet.get("key")
        running = self._by_key.get(key) if isinstance(key, (int, str)) else None
        if uri == "$hello":
            self._hello(meta)
        elif running is None:
            pass
        elif uri == "$cancel":
            self._leave(running)
        elif uri == "$credit" and running.outbox is not None:
            running.outbox.grant(meta.get("c"))
        elif uri == "$part" and running.inbox is not None and running.is_open:
            try:
                if meta.get("end") is True:
                    running.inbox.end(number=meta.get("n"))
                else:
                    running.inbox.push(meta.get("n"), packet.get("params"), size)
            except FlowViolation as error:
                self._cut(f"stream parts that break flow control: {error}")
            except NoRoom:
                self._cut(f"parts of its streams that were not read have more than {MAX_CALLER_BYTES} bytes")

    def _hello(self, meta: dict[str, Any]) -> None:
        instance, to = meta.get("f"), meta.get("to")
        self._instance = instance if isinstance(instance, str) else ""
        if isinstance(to, str):
            self._misdirected = to not in (self.service.instance, "*")
            self._writer.write(seal(f'{{"uri":"$hello","$":{{"f":{to_json(self.service.instance)}}}}}'))

    # Work for calls.

    def _leave(self, running: RunningCall) -> None:
        """The caller no longer waits. What is not idempotent is finished; an open stream ends."""
        self.forget(running)
        if running.outbox is not None:
            running.outbox.close()
        if running.inbox is not None and not running.inbox.is_over:
            running.inbox.end(ServiceError(499, "cancelled", "the caller has gone"))
        finishes = running.key is None or not running.idempotent
        running.is_released = running.key is not None
        running.key = None
        task = running.task
        if task is None or task.done():
            return
        if finishes and not running.is_open:
            self.service.release(task)
        else:
            task.cancel()

    def forget(self, running: RunningCall) -> None:
        """The call is over."""
        if running in self._running:
            self._running.discard(running)
            self._running_bytes -= running.bytes
            if running.inbox is not None:
                running.inbox.forget()
            if running.key is not None and self._by_key.get(running.key) is running:
                del self._by_key[running.key]
            self._loop.call_soon(self._after_call)

    def _after_call(self) -> None:
        if not self._transport.is_closing():
            self._work()
            self._close_if_idle()

    # Answers.

    def reply(self, running: RunningCall, status: int, text: str, fields: Fields) -> None:
        """Answers a call, in its own form."""
        if running.key is None:
            return
        packet = success_packet(running.head, running.is_v2, status, text, fields)
        limit = MAX_FRAME_BYTES if running.is_v2 else self._read_window()
        if len(packet) > limit:
            reader = "a packet may have" if running.is_v2 else "this caller can read"
            text = f"the answer has {len(packet)} bytes; {reader} {limit}"
            self.service.warn(f"{self.peer}: {text}")
            self.refuse(running, ServiceError(500, "answer_too_large", text))
        elif not self._has_room_for(len(packet)):
            text = "the call was carried out, and there is no room to keep its answer until it is read"
            self.refuse(running, ServiceError(503, "no_room", text, retry_after=1.0))
        else:
            self._send(running, packet)

    def refuse(self, running: RunningCall, error: ServiceError, fields: Sequence[tuple[str, str]] = ()) -> None:
        """Tells the caller why there is no result."""
        if running.key is None:
            if error.reason != "no_route" and not running.is_released:
                self.service.lose("a call without an answer", error)
            return
        self._send(running, failure_packet(running.head, running.is_v2, error, fields))

    def _send(self, running: RunningCall, packet: bytes) -> None:
        if running.is_v2:
            self._writer.write(packet)
        else:
            self._writer.write_legacy(packet)

    async def room(self, outbox: Outbox) -> None:
        """Waits while the caller has too many parts to read, and until the end of the stream."""
        while self._writer.waiting > MAX_PART_BYTES and not outbox.is_over:
            await asyncio.sleep(ROOM_PAUSE)

    def write(self, packet: bytes) -> None:
        """Writes a packet of a stream."""
        self._writer.write(packet)

    def _written(self) -> None:
        self._pace()
        self._close_if_idle()

    # Bounds.

    def _read_window(self) -> int:
        """How many bytes a caller of version 1 can have unread."""
        window = self.server.read_window_of(self.peer.rpartition(":")[0])
        return min(max(self.service.legacy_bytes, LEGACY_READ_BYTES, window), MAX_FRAME_BYTES)

    def _held(self) -> int:
        return len(self._reader) + self._running_bytes + self._part_bytes + self._writer.waiting

    def _hold_parts(self, size: int) -> bool:
        """Counts parts of streams that wait to be read. A caller with too many is cut, and not left
        waiting: it may have to give credit before they are read."""
        self._part_bytes += size
        return self._part_bytes <= MAX_CALLER_BYTES

    def _settle(self, held: int) -> None:
        self.service.held_bytes += held - self._charged
        self._charged = held

    def _has_room_for(self, size: int) -> bool:
        held = self._held() + size
        is_free = self.service.held_bytes - self._charged + held <= self.service.max_buffer_bytes
        return held <= MIN_CALLER_BYTES or (is_free and self._writer.waiting + size <= MAX_CALLER_BYTES)

    def _is_busy(self) -> bool:
        """Whether the next call of this caller has to wait."""
        if len(self._running) >= MAX_RUNNING or self._writer.waiting > MAX_UNREAD_BYTES:
            return True
        self._settle(self._held())
        work = self._running_bytes + self._writer.waiting
        return work > MIN_CALLER_BYTES and (
            work >= MAX_CALLER_BYTES or self.service.held_bytes >= self.service.max_buffer_bytes
        )

    def _pace(self) -> None:
        """Reads on, or not."""
        if self._transport.is_closing():
            return
        busy = self._is_busy()
        # A packet that has begun may be the reason that there is no room; it has to be completed.
        if busy != self._paused:
            self._paused = busy
            (self._transport.pause_reading if busy else self._transport.resume_reading)()
            if not busy and self._reader.has_more():
                self._loop.call_soon(self._after_call)

    def tidy(self, now: float) -> None:
        """Called once in a while: cuts a caller that stands still."""
        if self._transport.is_closing():
            return
        if self._stalled_since is not None and now - self._stalled_since > STALL_TIME:
            self._cut("it does not read its answers")
            return
        if self._paused:
            self._frame_began = None
            self._pace()
        elif self._frame_began is not None and now - self._frame_began > FRAME_TIME:
            self._frame_began = None
            if not self._reader.drop_pieces():
                self._cut("a call took too long to arrive")
            else:
                self._strike("the rest of a packet that was cut has not come")

    def _strike(self, why: str) -> None:
        self.service.warn(f"{self.peer}: ignored: {why}")
        # A gateway of version 1 passes on what its clients send. It must not lose its connection,
        # and with that all routes of this node, for what one of them says.
        if not self._is_legacy:
            self._strikes += 1
            if self._strikes >= MAX_STRIKES:
                self._cut("too many broken packets")

    def _cut(self, why: str) -> None:
        self.service.warn(f"{self.peer}: cut: {why}")
        self._transport.abort()

    # The end.

    def finish(self) -> None:
        """Ends the connection when its calls are answered. Streams end now."""
        self._closing = True
        for running in list(self._running):
            if running.is_open and running.task is not None:
                running.is_leaving = True
                running.task.cancel()
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        idle = not self._running and self._writer.is_idle and not self._reader.has_more()
        if idle and (self._closing or self._at_end) and not self._transport.is_closing():
            self._transport.close()

    def abort(self) -> None:
        """Ends the connection now. Calls at work end with it."""
        self._transport.abort()
