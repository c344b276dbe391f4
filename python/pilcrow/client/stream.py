"""Streams as their callers see them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, AsyncIterator

from .. import context as contexts
from ..errors import BadArguments, Ended, Lost, Overloaded, TooLarge
from ..transport.flow import Inbox
from ..transport.pending import NotSent, Pending
from ..wire import MAX_PAYLOAD_BYTES, seal, to_json

if TYPE_CHECKING:
    from .call import OutgoingCall


class Stream:
    """A stream: an asynchronous iterator of what the other node sends, and :meth:`send` for the
    other direction. It is opened when it is first used. It ends with the last part of the other
    node, or with one :class:`CallError`. No part is skipped, and nothing is tried again.

    ``async with`` cancels it at the end of the block; so does the end of ``async for``.
    """

    def __init__(self, outgoing: OutgoingCall) -> None:
        self._outgoing = outgoing
        self._inbox = Inbox(outgoing.caller.hold_parts)
        self._whole: list[Any] = []
        self._pending: Pending | None = None
        self._is_open = False
        self._opening: asyncio.Lock | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def open(self) -> Stream:
        """Opens the stream. Raises :class:`CallError`."""
        if self._opening is None:
            self._opening = asyncio.Lock()
        async with self._opening:
            if self._is_open:
                return self
            result = await self._outgoing.run(self._inbox)
            self._is_open = True
            self._pending = result.pending
            if result.pending is None:
                # An answer in one piece is a stream of one part.
                self._whole.append(result.value)
                self._inbox.end()
                return self
            context = contexts.current()
            loop = self._outgoing.caller.loop
            lasting = None if context.may_stream else context.inner_deadline(loop.time())
            if lasting is not None:
                # A stream that is opened for a call ends before it.
                self._timer = loop.call_at(lasting, self._expire)
        return self

    def _expire(self) -> None:
        self._finish(self._outgoing.deadline_error())

    async def next(self) -> Any:
        """The next part. Raises ``StopAsyncIteration`` at the end, or the :class:`CallError` that
        was it."""
        await self.open()
        if self._whole:
            return self._whole.pop()
        try:
            value, grant = await self._inbox.next()
        except Lost:
            raise Lost(f"the node was lost while it answered {self._outgoing.url}") from None
        if grant and self._pending is not None:
            self._send(seal(f'{{"uri":"$credit","key":{self._pending.key},"$":{{"c":{grant}}}}}'))
        return value

    async def __aiter__(self) -> AsyncIterator[Any]:
        try:
            while True:
                try:
                    value = await self.next()
                except StopAsyncIteration:
                    return
                yield value
        finally:
            self.close()

    async def send(self, item: Any) -> None:
        """Sends a part, as soon as the other node grants credit. Raises :class:`Ended` when the
        stream is over; its end says why."""
        await self.open()
        try:
            text = to_json(item)
        except (TypeError, ValueError) as error:
            raise BadArguments(f"a part of {self._outgoing.url} has no JSON form: {error}") from None
        if len(text.encode(errors="replace")) > MAX_PAYLOAD_BYTES:
            raise TooLarge(f"a part of {self._outgoing.url} is larger than a node accepts")
        pending = self._pending
        if pending is None or pending.outbox is None or not await pending.outbox.credit():
            raise Ended(f"the stream {self._outgoing.url} has ended")
        self._send(pending.outbox.part(f'{{"uri":"$part","key":{pending.key}', text))

    async def finish(self) -> None:
        """Says that no part follows. The other node may still send."""
        await self.open()
        pending = self._pending
        if pending is not None and pending.outbox is not None and not pending.outbox.is_over:
            self._send(pending.outbox.end(f'{{"uri":"$part","key":{pending.key}'))

    def _send(self, packet: bytes) -> None:
        assert self._pending is not None
        try:
            self._pending.link.send(packet)
        except NotSent:
            raise Overloaded(f"too many bytes wait for the node of {self._outgoing.url}") from None

    def close(self) -> None:
        """Cancels the work on the other node, if the stream is not over."""
        self._finish(None)

    def _finish(self, error: BaseException | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        pending, self._pending = self._pending, None
        if pending is not None and not self._inbox.is_over:
            pending.link.cancel(pending)
        self._inbox.end(error)
        self._inbox.forget()

    async def __aenter__(self) -> Stream:
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        self.close()
