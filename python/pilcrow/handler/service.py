"""What a node does with a call, wherever it comes from: it finds the handler, runs it, and makes
the answer.

Nothing here knows sockets.
"""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, AsyncIterator, Coroutine, TypeVar

from .. import context as contexts
from ..balance.retry import IDEMPOTENT
from ..context import MAX_HOPS, Context
from ..errors import CallError, ServiceError, to_service_error
from ..routing.router import Router
from ..transport.flow import Inbox
from ..wire import shown, to_json
from .fields import ClientFields, Fields
from .handler import Handler, Status
from .http import HttpRequest, HttpResponse
from .key_turns import KeyTurns

if TYPE_CHECKING:
    from ..client.caller import Caller
    from ..client.stream import Stream

LOG = logging.getLogger("pilcrow")

RETRY_AFTER = 0.1
"""When a caller may try again a route that has too many running calls."""

MAX_RELEASED = 1024
"""Calls that are finished although their caller has gone: as many as one caller may have
running."""

MAX_RELEASED_TIME = 30.0
"""How long such a call may go on, so that a handler that hangs does not stay for ever."""

MAX_LOG_LINES = 10
"""Lines a second about callers and failed handlers, so that a stranger cannot fill the log."""

T = TypeVar("T")

_NO_FIELDS = ClientFields(None, None)


class Throttle:
    """Limits lines of the log."""

    def __init__(self, per_second: int = MAX_LOG_LINES) -> None:
        self._per_second = per_second
        self._second = 0
        self._lines = 0
        self._suppressed = 0

    def allow(self, now: float) -> str | None:
        """What to add to a line if it may be written now: how many were suppressed before it."""
        if int(now) != self._second:
            self._second, self._lines = int(now), 0
        self._lines += 1
        if self._lines > self._per_second:
            self._suppressed += 1
            return None
        suppressed, self._suppressed = self._suppressed, 0
        return f" ({suppressed} lines before were suppressed)" if suppressed else ""


@dataclass(frozen=True)
class Event:
    """What a handler can know of an event beside what was emitted."""

    name: str
    """The whole name, also where the handler is registered for a pattern."""
    id: str | None = None
    """The same each time, if an event comes more than once that is acknowledged. Others have none."""
    key: str | None = None
    """Acknowledged events of one key are handled one after the other."""
    attempt: int = 0
    """How many attempts to deliver it there were before."""


def event_of(uri: str, meta: dict[str, Any]) -> Event:
    """The event that a packet brings."""
    identity, key, attempt = meta.get("e"), meta.get("k"), meta.get("at")
    return Event(
        uri[1:],
        identity if isinstance(identity, str) else None,
        key if isinstance(key, str) else None,
        attempt if isinstance(attempt, int) else 0,
    )


class Call:
    """The call that a handler answers. A handler has it as its parameter ``call``."""

    def __init__(
        self,
        service: Service,
        method: str,
        path: str,
        params: Any,
        inbox: Inbox | None,
        caller: str,
        request: HttpRequest | None = None,
    ) -> None:
        self.method = method
        self.path = path
        self.params = params
        """All arguments, without those of the path."""
        self.caller = caller
        """The instance that calls, as it says, or its address. It is as trustworthy as the mesh."""
        self.request = request
        """The request of a gateway's client; none if a node makes the call itself, or the route does
        not name the ``headers`` that it reads."""
        self.event: Event | None = None
        """The event, if the call is one."""
        self._service = service
        self._inbox = inbox
        self._open: Any = None

    @property
    def trace(self) -> str:
        """The W3C ``traceparent`` of the work. A trace begins here if the caller has none."""
        return contexts.trace_of(contexts.current())

    @property
    def time_left(self) -> float | None:
        """The seconds that the caller still waits; none if it does not say, or reads a stream."""
        deadline = contexts.current().deadline
        return None if deadline is None else max(deadline - asyncio.get_running_loop().time(), 0.0)

    async def call(self, url: str, params: Any = None, **options: Any) -> Any:
        """Calls another node: see :meth:`pilcrow.Node.call`. The call ends a margin before this
        one."""
        return await self._service.caller.call(url, params, **options)

    def stream(self, url: str, params: Any = None, **options: Any) -> Stream:
        """Opens a stream: see :meth:`pilcrow.Node.stream`."""
        return self._service.caller.stream(url, params, **options)

    def emit(self, event: str, payload: Any = None) -> int:
        """Emits an event: see :meth:`pilcrow.Node.emit`."""
        return self._service.caller.emit(event, payload)

    def detach(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Runs work that outlasts the call. It has the trace of the call, and not its deadline. A
        node that stops waits for it."""
        return self._service.detach(work)

    async def items(self) -> AsyncIterator[Any]:
        """The parts that the caller sends after the call. Raises :class:`ServiceError` when the
        caller takes no stream: a caller that sends parts has to."""
        if self._inbox is None or self._open is None:
            raise ServiceError(406, "stream", "this route reads a stream: call it as one")
        self._open.open()
        while True:
            try:
                value, grant = await self._inbox.next()
            except StopAsyncIteration:
                return
            if grant:
                self._open.grant(grant)
            yield value


class Service:
    """The routes of a node, and the state that all its callers share."""

    def __init__(self, name: str, instance: str, max_buffer_bytes: int, legacy_bytes: int) -> None:
        self.name = name
        self.instance = instance
        self.router: Router[Handler] = Router()
        self.caller: Caller = None  # type: ignore[assignment]  # It is set before the first call.
        self.max_buffer_bytes = max_buffer_bytes
        self.legacy_bytes = legacy_bytes
        """How many unread bytes a caller of version 1 may have, unless it registers that it may
        have more."""
        self.held_bytes = 0
        """The bytes that are held for all callers."""
        self.turns = KeyTurns()
        self.log = Throttle()
        self.tasks: set[asyncio.Task[Any]] = set()
        """Work that the node waits for when it stops."""
        self.released = 0
        self.lost_events = 0
        """Events, and other calls without an answer, that could not be carried out."""

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Runs a task that the node waits for when it stops."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def detach(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """As :meth:`Call.detach`."""
        context = contexts.current().outlasting()

        async def outlast() -> T:
            contexts.enter(context)
            return await work

        return self.spawn(outlast())

    def release(self, task: asyncio.Task[Any]) -> None:
        """Finishes a call whose caller no longer waits: it must not stop halfway."""
        if self.released >= MAX_RELEASED:
            self.warn("a call whose caller has gone was dropped before its end: too many others are going on already")
            task.cancel()
            return
        self.released += 1
        self.tasks.add(task)
        timer = asyncio.get_running_loop().call_later(MAX_RELEASED_TIME, task.cancel)

        def ended(task: asyncio.Task[Any]) -> None:
            self.released -= 1
            timer.cancel()
            self.tasks.discard(task)

        task.add_done_callback(ended)

    def find(self, method: str, path: str, context: Context) -> tuple[Handler, dict[str, str]]:
        """The handler of a call, and the parameters of the path. Raises :class:`ServiceError`."""
        found = self.router.find(method, path)
        if found is None:
            raise ServiceError(404, "no_route", f"this node does not offer {shown(method)}{shown(path)}")
        if context.hops > MAX_HOPS:
            text = f"more than {MAX_HOPS} calls in a chain; services may be calling each other in a loop"
            raise ServiceError(508, "loop", text)
        return found[1], found[2]

    async def answer(
        self, call: Call, handler: Handler, captured: dict[str, str], has_answer: bool
    ) -> tuple[int, str, Fields]:
        """Runs a handler that does not yield. Returns the status, the JSON text of the result, and
        header fields for a client. Raises :class:`ServiceError`, and nothing else but the end of
        the task."""
        if has_answer and handler.is_full():
            # The caller can ask another node. For an event there is no other.
            raise overloaded("too many calls of this route are running")
        permit = await handler.permit()
        try:
            result = await handler.function(**handler.bind(call, call.params, captured))
            status, fields = 200, _NO_FIELDS
            if isinstance(result, Status):
                status, result = result.status, result.result
            elif isinstance(result, HttpResponse):
                status, result, fields = result.status, result.result, result.fields
            return status, to_json(result), self.fields_for(fields, call, handler)
        except Exception as error:
            raise self.failure(error, call) from None
        finally:
            if permit is not None:
                permit.release()

    def fields_for(self, fields: ClientFields, call: Call, handler: Handler) -> Fields:
        """The header fields that go to a client. A call without its request is answered without
        them."""
        if call.request is not None:
            return fields.pairs(call.request.is_https)
        if fields and handler.wanted is None and not handler.has_warned:
            handler.has_warned = True
            remedy = "write headers=[] in @node.route, or the names of those that it reads"
            self.warn(f"{handler.route} answers with header fields, which no client gets: {remedy}")
        return []

    def failure(self, error: Exception, call: Call) -> ServiceError:
        """What the caller is told of an exception of a handler. The log has all of it."""
        if isinstance(error, ServiceError):
            return error
        url = f"{shown(call.method)}{shown(call.path)}"
        if isinstance(error, CallError):
            self.warn(f"{url} failed, because a call that it made has failed: {shown(error, 1024)}")
            return to_service_error(error)
        more = self.log.allow(asyncio.get_running_loop().time())
        if more is not None:
            LOG.error("the handler of %s failed; its caller is told 500 internal%s", url, more, exc_info=error)
        return ServiceError(500, "internal", "the service failed; its log says why")

    def lose(self, what: str, why: object) -> None:
        """Counts a call without an answer that could not be carried out."""
        self.lost_events += 1
        self.warn(f"lost {shown(what)}: {shown(why, 256)}")

    def warn(self, text: str) -> None:
        """A line of the log about a caller, unless there were many in this second."""
        more = self.log.allow(asyncio.get_running_loop().time())
        if more is not None:
            LOG.warning("%s%s", text, more)


def overloaded(message: str) -> ServiceError:
    """Nothing was done: the caller may try again soon, or at another node."""
    return ServiceError(503, "overloaded", message, retry_after=RETRY_AFTER * (1 + random.random()))


def is_idempotent(method: str, says_so: object) -> bool:
    """Whether a call may be carried out twice."""
    return method in IDEMPOTENT or says_so is True
