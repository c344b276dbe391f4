"""Events: messages to every group that has subscribed. Nobody waits for a subscriber."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from .. import context as contexts
from ..balance.pool import Pool, Readiness
from ..context import Context, child_trace
from ..errors import BadArguments, NoList, NoRoute, RouteError, ServiceError, TooLarge
from ..handler.service import Call
from ..routing.router import EVENT, event_name
from ..transport.pending import NotSent
from ..wire import MAX_PAYLOAD_BYTES, parse, seal, shown, to_json

if TYPE_CHECKING:
    from ..routing.table import Provider
    from .caller import Caller


class Emission:
    """An event on its way."""

    def __init__(self, caller: Caller, event: str, payload: Any) -> None:
        self.caller = caller
        self.event = event
        self.path = f"/{event}"
        self.url = f"{EVENT}{self.path}"
        try:
            event_name(event)
            self.text = to_json(payload)
        except RouteError as error:
            raise NoRoute(f"no node can subscribe to {shown(event)}: {error.reason}") from None
        except (TypeError, ValueError) as error:
            raise BadArguments(f"the payload of {shown(self.url)} has no JSON form: {error}") from None
        if len(self.text.encode(errors="replace")) > MAX_PAYLOAD_BYTES:
            raise TooLarge(f"the payload of {shown(self.url)} is larger than a node accepts")
        self.context = contexts.current().outlasting()
        self.groups = caller.table.subscribers(event)
        self.is_own = caller.service.router.find(EVENT, self.path) is not None
        if not caller.registry.listed.is_set() and not self.is_own:
            where = caller.registry.where
            raise NoList(f"the subscribers of {shown(event)} are not known: the {where} has sent no list")

    def to_groups(self) -> int:
        """Sends it to one node of each name."""
        reached = sum(self._reaches(name, self._to_one_of(pool)) for name, pool in self.groups.items())
        # This node may have subscribed and not be listed yet.
        if self.is_own and self.caller.service.name not in self.groups:
            reached += self._to_self()
        return reached

    def to_all(self) -> int:
        """Sends it to all nodes."""
        others = [(name, one) for name, one in self.caller.table.all_subscribers(self.event) if not one.is_local]
        reached = sum(self._reaches(name, self._to(one)) for name, one in others)
        return reached + (self._to_self() if self.is_own else 0)

    def _reaches(self, name: str, is_taken: bool) -> bool:
        if not is_taken:
            self.caller.service.lose(self.url, f"no node {name} takes it now")
        return is_taken

    def _to_one_of(self, pool: Pool[Provider]) -> bool:
        now = self.caller.loop.time()
        here = next((one for one in pool.members if one.is_local), None)
        if here is not None and self.is_own and is_turn_of(here, pool, now, random.random()):
            return self._to_self()
        tried: list[str] = []
        while True:
            excluded = None if here is None else here.address
            one = pool.pick(now, tried=tried, excluded=excluded, connect=_connect)
            if one is None:
                return here is not None and self.is_own and self._to_self()
            if self._to(one):
                return True
            tried.append(one.address)

    def _to(self, provider: Provider) -> bool:
        meta: dict[str, Any] = {}
        if self.context.trace is not None:
            meta["tp"] = child_trace(self.context.trace)
        if self.context.hops:
            meta["h"] = self.context.hops
        said = f',"$":{to_json(meta)}' if provider.connection.target.is_v2 else ""
        packet = seal(f'{{"uri":{to_json(self.path)},"method":"{EVENT}"{said},"params":{self.text}}}')
        try:
            provider.connection.link().send(packet, lost_as=self.url)
        except NotSent:
            return False
        return True

    def _to_self(self) -> bool:
        service = self.caller.service
        context = Context(None, self.context.trace, self.context.hops + 1)

        async def handle() -> None:
            contexts.enter(context)
            try:
                handler, captured = service.find(EVENT, self.path, context)
                call = Call(service, EVENT, self.path, parse(self.text), None, service.instance)
                await service.answer(call, handler, captured, has_answer=False)
            except ServiceError as error:
                service.lose(self.url, error)

        service.release(self.caller.loop.create_task(handle()))
        return True


def _connect(provider: Provider) -> None:
    provider.connection.connect()


def is_turn_of(here: Provider, pool: Pool[Provider], now: float, sample: float) -> bool:
    """Whether this node, a member of the group, takes an event itself: as often as its weight says,
    among those of its zone, and always when no other can be reached."""
    reachable = (Readiness.READY, Readiness.CONNECTING, Readiness.RECONNECT)
    others = (one for one in pool.members if not one.is_local and one.same_zone == here.same_zone)
    weights = sum(one.weight for one in others if one.readiness(now) in reachable)
    own = max(here.weight, 1)
    return sample * (own + weights) < own
