"""A call at work: its handler runs, and what it yields is sent when the caller takes it."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from .. import context as contexts
from ..context import Context
from ..errors import ServiceError
from ..handler.handler import Handler
from ..handler.service import Call, overloaded
from ..transport.flow import Inbox, Outbox
from ..wire import seal, to_json

if TYPE_CHECKING:
    from .caller_connection import CallerConnection

CALL_WEIGHT = 8
"""Memory for each byte of a call once it is parsed."""

CALL_BYTES = 1024
"""Memory for each call beside that."""

OPEN_AFTER = 0.1
"""A stream whose first part takes longer is opened without it. Before that its handler can still
refuse the call like any other."""


class RunningCall:
    """A call at work."""

    def __init__(self, caller: CallerConnection, key: Any, is_v2: bool, idempotent: bool, size: int) -> None:
        self.caller = caller
        self.key = key
        self.is_v2 = is_v2
        self.idempotent = idempotent
        self.bytes = CALL_BYTES + CALL_WEIGHT * size
        self.current: contexts.Current | None = None
        self.task: asyncio.Task[None] | None = None
        self.inbox: Inbox | None = None
        self.outbox: Outbox | None = None
        self.is_open = False
        self.is_leaving = False
        """Whether the node leaves, and the stream with it."""
        self.is_released = False
        """Whether the caller no longer waits."""
        self.head = ""

    def open(self) -> None:
        """Makes the call a stream. From then on it has no deadline."""
        if self.is_open or self.outbox is None:
            return
        self.is_open = True
        if self.current is not None:
            self.current.context = self.current.context.outlasting()
        self.caller.write(seal(f'{self.head},"$":{{"n":0}}}}'))

    def grant(self, credit: int) -> None:
        """Tells the caller that parts of it were read."""
        self.caller.write(seal(f'{{"uri":"$credit","key":{to_json(self.key)},"$":{{"c":{credit}}}}}'))

    async def run(self, call: Call, handler: Handler, captured: dict[str, str], context: Context) -> None:
        """Runs the handler, and answers the call."""
        self.current = contexts.enter(context)
        try:
            if handler.is_stream and self.outbox is not None:
                await self._run_stream(call, handler, captured)
                return
            async with self._turn(call):
                status, text, fields = await self.caller.service.answer(call, handler, captured, self.key is not None)
            if self.is_open:
                await self._end_with(text)
            else:
                self.caller.reply(self, status, text, fields)
        except ServiceError as error:
            self.caller.refuse(self, error, self.caller.service.fields_for(error.fields, call, handler))
        except Exception as error:
            self.caller.refuse(self, self.caller.service.failure(error, call))
        except asyncio.CancelledError:
            if self.is_leaving:
                self.caller.refuse(self, ServiceError(503, "leaving", "this node is leaving"))
            elif self.key is not None:
                # Nobody has cancelled this task: the handler has waited for one that was.
                fault = RuntimeError("the handler has let a CancelledError pass")
                self.caller.refuse(self, self.caller.service.failure(fault, call))
            raise
        finally:
            self.caller.forget(self)

    def _turn(self, call: Call) -> AbstractAsyncContextManager[None]:
        """The turn of an acknowledged event with a key."""
        if self.key is None or call.event is None or call.event.key is None:
            return nullcontext()
        return self.caller.service.turns.turn(call.event.key)

    async def _run_stream(self, call: Call, handler: Handler, captured: dict[str, str]) -> None:
        assert self.outbox is not None
        if handler.is_full():
            raise overloaded("too many calls of this route are running")
        permit = await handler.permit()
        parts = handler.function(**handler.bind(call, call.params, captured))
        following = asyncio.ensure_future(parts.__anext__())
        try:
            await asyncio.wait({following}, timeout=OPEN_AFTER)
            if not following.done():
                self.open()
            while True:
                try:
                    part = await following
                except StopAsyncIteration:
                    break
                self.open()
                if not await self._may_send():
                    return
                self.caller.write(self.outbox.part(self.head, to_json(part)))
                following = parts.__anext__()
            self.open()
            self.caller.write(self.outbox.end(self.head))
        except Exception as error:
            raise self.caller.service.failure(error, call) from None
        finally:
            if isinstance(following, asyncio.Task) and not following.done():
                following.cancel()
                await asyncio.wait({following})
            await parts.aclose()
            if permit is not None:
                permit.release()

    async def _may_send(self) -> bool:
        """Waits until a part may be sent: for credit, and until the caller has read enough, as it
        may grant any credit. False when the stream is over."""
        assert self.outbox is not None
        if not await self.outbox.credit():
            return False
        await self.caller.room(self.outbox)
        return not self.outbox.is_over

    async def _end_with(self, text: str) -> None:
        """A usual answer of a call that has become a stream is one more part and the end."""
        assert self.outbox is not None
        if await self._may_send():
            self.caller.write(self.outbox.part(self.head, text))
            self.caller.write(self.outbox.end(self.head))
