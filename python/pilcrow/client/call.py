"""One call, with all its attempts: where each goes, and which failures lead to another one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Callable
from urllib.parse import unquote

from .. import context as contexts
from ..balance.pool import Pool
from ..balance.retry import IDEMPOTENT
from ..context import Context, child_trace
from ..errors import (
    BadArguments,
    CallError,
    Deadline,
    Lost,
    NoList,
    NoProvider,
    NoRoute,
    Overloaded,
    Refused,
    RouteError,
    ServiceError,
    TooLarge,
)
from ..handler.fields import Fields
from ..handler.service import Call
from ..routing.router import Route, split_url
from ..routing.table import Provider
from ..transport.answers import failure_of, result_of
from ..transport.flow import WINDOW, Inbox
from ..transport.pending import NotSent, Pending, TimedOut
from ..wire import parse, seal, shown, to_json

if TYPE_CHECKING:
    from .caller import Caller


class Result:
    """The outcome of a call: a value, or an open stream."""

    def __init__(self, value: Any = None, pending: Pending | None = None) -> None:
        self.value = value
        self.pending = pending


class OutgoingCall:
    """One call, with all its attempts."""

    def __init__(
        self,
        caller: Caller,
        url: str,
        params: Any,
        timeout: float,
        idempotent: bool,
        sticky_key: str | None,
        to_instance: str | None,
    ) -> None:
        self.caller = caller
        self.url = shown(url, 512)
        try:
            self.method, self.path = split_url(url)
            self._text = to_json(params)
        except RouteError as error:
            raise NoRoute(f"no node offers {self.url}: {error.reason}") from None
        except (TypeError, ValueError) as error:
            raise BadArguments(f"the arguments of {self.url} have no JSON form: {error}") from None
        self._params = params
        self._timeout = timeout
        self._says_idempotent = idempotent and self.method not in IDEMPOTENT
        self._idempotent = idempotent or self.method in IDEMPOTENT
        self._sticky = sticky_key
        self._instance = to_instance
        self._tried: list[str] = []
        self._excluded: str | None = None
        self._lost: str | None = None
        self._declined: Refused | None = None
        self._is_full = self._is_too_large = self._declined_here = False
        self._within = 0.0

    async def run(self, inbox: Inbox | None) -> Result:
        """Makes attempts until one has an outcome. With an inbox the answer may be a stream."""
        caller, context = self.caller, contexts.current()
        now = caller.loop.time()
        caller.retries.deposit()
        inner = context.inner_deadline(now)
        deadline = now + self._timeout if inner is None else min(now + self._timeout, inner)
        self._within = max(deadline - now, 0.0)
        while True:
            now = caller.loop.time()
            if now >= deadline:
                raise self.deadline_error()
            if self._answers_itself(inbox) and self._sticky is None and not self._tried:
                result = await self._call_local(deadline, context)
                if result is not None:
                    return result
                continue
            found = caller.table.find(self.method, self.path)
            if found is None:
                if self._answers_itself(inbox):
                    result = await self._call_local(deadline, context)
                    if result is not None:
                        return result
                await self._unknown_route(deadline)
                continue
            provider = self._pick(found[1], now)
            if provider is None:
                raise self._no_provider()
            if provider.is_local and self._answers_itself(inbox):
                result = await self._call_local(deadline, context)
                if result is not None:
                    return result
                continue
            result = await self._attempt(provider, deadline, context, inbox)
            if result is not None:
                if self._lost is not None:
                    caller.crashing.record_response(found[0].text)
                return result

    def _pick(self, pool: Pool[Provider], now: float) -> Provider | None:
        if self._declined_here:
            here = next((one for one in pool.members if one.is_local), None)
            self._excluded = None if here is None else here.address

        return pool.pick(
            now,
            sticky=self._sticky,
            instance=self._instance,
            tried=self._tried,
            excluded=self._excluded,
            connect=self._connect,
        )

    def _connect(self, provider: Provider) -> None:
        if not (provider.is_local and self._answers_itself(None)):
            provider.connection.connect()

    async def _attempt(
        self, provider: Provider, deadline: float, context: Context, inbox: Inbox | None
    ) -> Result | None:
        """One attempt. None when another one is due. Raises :class:`CallError`."""
        caller, address, load = self.caller, provider.address, provider.load
        now = caller.loop.time()
        try:
            write = self._writer(provider, deadline, context, inbox)
            pending = provider.connection.link().submit(write, deadline, inbox)
        except NotSent as error:
            self._not_sent(error, address)
            return None
        load.begin(now)
        try:
            packet = await pending.future
        except NotSent as error:
            self._not_sent(error, address)
            return None
        except Lost:
            self._was_lost(provider)
            return None
        except TimedOut:
            now = caller.loop.time()
            load.record_timeout(now)
            # A node that has answered another call meanwhile is alive: only this call took too
            # long.
            if load.silent_for(now) >= self._within:
                caller.report_failed(address)
            raise self.deadline_error() from None
        except asyncio.CancelledError:
            pending.link.cancel(pending)
            raise
        finally:
            load.end()
        if inbox is not None and pending.outbox is not None:
            return Result(pending=pending)
        failure = failure_of(packet)
        if failure is None:
            return Result(result_of(packet))
        if _is_declined(failure) and self._instance is None and caller.retries.try_withdraw(caller.loop.time()):
            # The node has not begun the call, so another one may carry it out.
            self._declined = failure
            self._tried.append(address)
            return None
        raise failure

    def _writer(
        self, provider: Provider, deadline: float, context: Context, inbox: Inbox | None
    ) -> Callable[[int, int | None], bytes]:
        """Writes the packet of an attempt, from its key and the milliseconds since the connection
        was made."""
        if not provider.connection.target.is_v2:
            head, params = self._head(), self._legacy_params(provider.route)
            return lambda key, _: seal(f'{head},"key":{key},"params":{to_json({**params, "key": key})}}}')
        trace = None if context.trace is None else child_trace(context.trace)

        def write(key: int, sent: int | None) -> bytes:
            meta: dict[str, Any] = {"d": max(int((deadline - self.caller.loop.time()) * 1000), 1)}
            if sent is not None:
                meta["t"] = sent
            if trace is not None:
                meta["tp"] = trace
            if self._says_idempotent:
                meta["i"] = True
            if self._tried:
                meta["at"] = min(len(self._tried), 255)
            if inbox is not None:
                meta["c"] = WINDOW
            if context.hops:
                meta["h"] = context.hops
            return seal(f'{self._head()},"key":{key},"$":{to_json(meta)},"params":{self._text}}}')

        return write

    def _head(self) -> str:
        return f'{{"uri":{to_json(self.path)},"method":"{self.method}"'

    def _legacy_params(self, route: Route) -> dict[str, Any]:
        """Arguments for a node of version 1, which does not read the path itself."""
        params = parse(self._text)
        if params is not None and not isinstance(params, dict):
            raise BadArguments(f"the nodes that offer {self.url} are of version 1, and take only objects")
        segments = self.path.split("/")[1:]
        values = [unquote(one) for free, one in zip(route.is_parameter, segments) if free]
        captured = dict(zip(route.names, values))
        return {**{name: value for name, value in (params or {}).items() if name != "key"}, **captured}

    def _not_sent(self, error: NotSent, address: str) -> None:
        self._is_full |= error.is_full
        self._is_too_large |= error.is_too_large
        self._tried.append(address)

    def _was_lost(self, provider: Provider) -> None:
        """The connection was lost after the call was written. Raises :class:`Lost`, unless the call
        may be made again."""
        caller, address, now = self.caller, provider.address, self.caller.loop.time()
        provider.load.record_failure(now)
        caller.report_failed(address)
        may_retry = caller.crashing.record_loss(now, provider.route.text, address)
        if may_retry and self._idempotent and self._lost is None and caller.retries.try_withdraw(now):
            self._lost = address
            self._tried.append(address)
            return
        raise Lost(f"{address} was lost before it answered {self.url}")

    async def _unknown_route(self, deadline: float) -> None:
        """Nobody is known who offers the url. Waits for the first list if that is to come."""
        caller = self.caller
        if self._declined is not None or self._tried:
            raise self._no_provider()
        if not caller.registry.listed.is_set():
            try:
                await asyncio.wait_for(caller.registry.listed.wait(), max(deadline - caller.loop.time(), 0))
                return
            except asyncio.TimeoutError:
                where = caller.registry.where
                text = f"the providers of {self.url} are not known: the {where} has sent no list"
                raise NoList(text) from None
        if caller.table.was_offered(self.method, self.path):
            raise self._no_provider()
        similar = caller.table.similar(self.url)
        raise NoRoute(f"no node offers {self.url}" + (f"; is it {similar}?" if similar else ""))

    def _no_provider(self) -> CallError:
        if self._declined is not None:
            return self._declined
        if self._lost is not None:
            return Lost(f"{self._lost} was lost before it answered {self.url}")
        if self._is_full:
            return Overloaded(f"too many calls wait for {self.url}")
        if self._is_too_large:
            return TooLarge(f"the arguments of {self.url} are larger than its nodes accept")
        return NoProvider(f"no node that offers {self.url} can be reached")

    def deadline_error(self) -> Deadline:
        """There was no answer in time."""
        waited = f"{self._within:.1f} s" if self._within >= 1 else f"{self._within * 1000:.0f} ms"
        return Deadline(f"no answer from {self.url} within {waited}")

    def _answers_itself(self, inbox: Inbox | None) -> bool:
        # A stream needs a connection, even to this node itself.
        is_elsewhere = inbox is not None or self._instance is not None or self._declined_here
        return not is_elsewhere and self.caller.service.router.find(self.method, self.path) is not None

    async def _call_local(self, deadline: float, context: Context) -> Result | None:
        """Lets this node itself answer the call. None if it has no room, so that others are
        asked."""
        service, loop = self.caller.service, self.caller.loop
        inner = Context(deadline, context.trace, context.hops + 1)

        async def answer() -> tuple[int, str, Fields]:
            contexts.enter(inner)
            handler, captured = service.find(self.method, self.path, inner)
            if handler.is_stream:
                raise ServiceError(406, "stream", "the answer of this route is a stream: call it as one")
            call = Call(service, self.method, self.path, parse(self._text), None, service.instance)
            return await service.answer(call, handler, captured, has_answer=True)

        task = loop.create_task(answer())
        try:
            await asyncio.wait({task}, timeout=max(deadline - loop.time(), 0))
        except asyncio.CancelledError:
            self._give_up(task)
            raise
        if not task.done():
            self._give_up(task)
            raise self.deadline_error()
        error = task.exception()
        if error is None:
            return Result(parse(task.result()[1]))
        if not isinstance(error, ServiceError):
            raise error
        refused = Refused(error.status, error.reason, error.message, error.retry_after)
        if error.reason == "overloaded" and error.status == 503:
            self._declined, self._declined_here = refused, True
            return None
        raise refused

    def _give_up(self, task: asyncio.Task[Any]) -> None:
        if self._idempotent:
            task.cancel()
        else:
            self.caller.service.release(task)
        task.add_done_callback(lambda task: task.cancelled() or task.exception())


def _is_declined(error: Refused) -> bool:
    said = (error.status, error.reason)
    return said in ((503, "overloaded"), (421, "wrong_instance"))
