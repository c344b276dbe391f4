"""A node of the mesh: it offers routes, and calls those of others."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
import signal
import sys
from typing import Any, Callable, Coroutine, Sequence, TypeVar

from .client.caller import DEFAULT_TIMEOUT, Caller
from .client.stream import Stream
from .errors import RouteError, StartError
from .handler.handler import Handler
from .handler.service import Service
from .routing.registry import Identity, Registry
from .routing.router import EVENT, event_route, own_route
from .server.server import Server
from .transport.sockets import explain, is_own_host, parse_address
from .wire import LEGACY_READ_BYTES, encode

LOG = logging.getLogger("pilcrow")

MAX_ROUTES = 256
"""Urls of a node: a Distributor takes no more."""

MAX_REGISTRATION_BYTES = 65_000
"""Bytes of what a node registers: a Distributor takes packets of 65,536, and some are its own."""

MAX_BUFFER_BYTES = 256 << 20
"""Bytes that are held for all callers: calls at work, packets that have begun, answers that were
not read."""

LEAVE_TIME = 2.0
"""How long callers have to learn that the node leaves, and to close their connections."""

FINISH_TIME = 10.0
"""How long calls in flight may take after that."""

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

_NAME = re.compile("[A-Za-z0-9._-]{1,128}")


class Node:
    """A node. It offers what its decorators name, once it is started::

        node = Node("orders")

        @node.route("GET/orders/{id}", public=True)
        async def find(call: Call, id: int) -> dict:
            return {"id": id, "goods": await call.call("GET/goods/7", timeout=2)}

        asyncio.run(node.serve())
    """

    def __init__(
        self,
        name: str,
        *,
        listen: str = "127.0.0.1:0",
        distributor: str = "127.0.0.1:9000",
        advertise: str | None = None,
        zone: str | None = None,
        weight: int = 100,
        version: str | None = None,
        meta: Any = None,
        public_routes: bool = False,
        max_buffer_bytes: int = MAX_BUFFER_BYTES,
        max_legacy_response_bytes: int = LEGACY_READ_BYTES,
    ) -> None:
        """``listen`` is where it listens; other nodes call the port at the address that the
        Distributor sees. ``advertise`` is the address ``host:port`` at which others can call it, if
        that is another one (behind a NAT, in a container); without it the variable
        ``NODE_ADVERTISE`` of the environment counts. ``weight`` is its share of the calls, in
        hundredths. ``public_routes`` says whether routes that do not say so themselves are public.
        ``max_legacy_response_bytes`` is what one read of its version 1 callers takes.

        Raises :class:`StartError`.
        """
        if not _NAME.fullmatch(name):
            raise StartError(f"'{name}' is not a name for a node: a name has 1 to 128 of A-Z a-z 0-9 . _ -")
        if not 0 <= weight <= 1000:
            raise StartError(f"a weight is from 0 to 1000, in hundredths of the usual share, and not {weight}")
        self.name = name
        self._listen = parse_address(listen)
        self._distributor = distributor
        if parse_address(distributor)[1] == 0:
            raise StartError(f"'{distributor}' is not the address of a Distributor: its port is not 0")
        self._advertise = advertise or os.environ.get("NODE_ADVERTISE")
        if self._advertise is not None:
            parse_address(self._advertise)
        self._about = {"version": version, "zone": zone, "weight": None if weight == 100 else weight, "meta": meta}
        self._identity = Identity()
        self._service = Service(name, self._identity.id, max_buffer_bytes, max_legacy_response_bytes)
        self._public_routes = public_routes
        self._handlers: list[Handler] = []
        self._server: Server | None = None
        self._registry: Registry | None = None
        self._address: tuple[str, int] | None = None
        self._caller: Caller | None = None
        self._is_started = False

    # What it offers.

    def route(
        self,
        url: str,
        *,
        max_concurrency: int | None = None,
        public: bool | None = None,
        headers: Sequence[str] | None = None,
    ) -> Callable[[F], F]:
        """Offers a url, such as ``GET/orders/{id}``. The function is ``async def``. It is given the
        parameters of the path and the members of the arguments by name, read as its annotations
        say; ``params`` is all arguments, and ``call`` the :class:`Call`. A function that yields
        answers with a stream. ``max_concurrency`` is how many calls of it run at a time.

        ``public`` says whether clients of a gateway can call the route; without it the
        ``public_routes`` of the node counts. A route that is not public is internal: nodes call
        it, and to clients it does not exist.

        ``headers`` are the header fields that the function reads of a client's request, in any case
        of letters, at most 32. Give ``[]`` if it reads none of them, but the rest of the request
        (:class:`HttpRequest`), or answers with a status, fields or a media type of its own
        (:class:`HttpResponse`). Annotations that name these classes say ``[]``, too."""
        route = own_route(url)
        if route.method == EVENT:
            raise RouteError(url, f"a handler of an event is registered with @node.on('{route.path[1:]}')")

        def add(function: F) -> F:
            is_public = self._public_routes if public is None else public
            if not isinstance(is_public, bool):
                raise StartError(f"public of {route} is {is_public!r}: it is True or False")
            self._add(Handler(route, function, max_concurrency, is_public, headers))
            return function

        return add

    def on(self, event: str, *, max_concurrency: int | None = None) -> Callable[[F], F]:
        """Subscribes to an event, such as ``goods.sold``. Of several nodes of one name one is told,
        or all of them if the event is broadcast."""
        route = event_route(event)

        def add(function: F) -> F:
            self._add(Handler(route, function, max_concurrency))
            return function

        return add

    def _add(self, handler: Handler) -> None:
        if self._is_started:
            raise StartError(f"{handler.route} comes too late: the node has started")
        known = self._service.router.get(handler.route)
        if known is not None:
            raise StartError(f"{handler.route} is offered twice: it is the same as {known[0]}")
        if len(self._handlers) >= MAX_ROUTES:
            raise StartError(f"a node offers at most {MAX_ROUTES} routes: divide it")
        self._service.router.put(handler.route, handler)
        self._handlers.append(handler)

    # What it calls.

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
        """Calls a node that offers the url, and returns its result. ``timeout`` is in seconds, with
        all attempts. ``idempotent`` says that the call may be carried out twice, so that it is made
        again when it was lost; the methods GET, HEAD, PUT, DELETE and OPTIONS say so anyway. Calls
        with the same ``sticky_key`` go to the same node, whichever node calls. ``to_instance`` is
        the only instance that is called.

        Raises :class:`CallError`. When its task is cancelled, the work on the other node is, too.
        """
        options = {"idempotent": idempotent, "sticky_key": sticky_key, "to_instance": to_instance}
        return await self._started().call(url, params, timeout=timeout, **options)  # type: ignore[arg-type]

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
        """Opens a stream: ``async for tick in node.stream("GET/ticks")``. ``timeout`` is how long
        opening it may take."""
        options = {"idempotent": idempotent, "sticky_key": sticky_key, "to_instance": to_instance}
        return self._started().stream(url, params, timeout=timeout, **options)  # type: ignore[arg-type]

    def emit(self, event: str, payload: Any = None) -> int:
        """Tells one node of each name that has subscribed to the event. Returns how many are told.
        Nobody waits for them: one that is not there is not told later."""
        return self._started().emit(event, payload)

    def broadcast(self, event: str, payload: Any = None) -> int:
        """Tells every node that has subscribed to the event."""
        return self._started().broadcast(event, payload)

    async def wait_for(self, *urls: str) -> None:
        """Waits until nodes offer all of these urls."""
        await self._started().wait_for(urls)

    def detach(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Runs a task that the node waits for when it stops."""
        return self._service.detach(work)

    @property
    def lost_events(self) -> int:
        """Events, and other calls without an answer, that were lost: no node took them, or they
        failed."""
        return self._service.lost_events

    @property
    def instance(self) -> str:
        """The id of this instance."""
        return self._identity.id

    @property
    def address(self) -> str:
        """Where it listens, as ``host:port``."""
        if self._address is None:
            raise RuntimeError("the node has not been started: await node.start(), or use node.serve()")
        return _at(*self._address)

    def _started(self) -> Caller:
        if self._caller is None:
            raise RuntimeError("the node has not been started: await node.start(), or use node.serve()")
        return self._caller

    # Its life.

    async def start(self) -> Node:
        """Listens and begins to register. A Distributor that cannot be reached yet is not an error:
        it is tried again, and the log says so. Raises :class:`StartError`."""
        if self._is_started:
            raise StartError("a node is started once: make another one")
        server = Server(self._service)
        try:
            self._address = await server.listen(*self._listen)
        except OSError as error:
            raise StartError(_cannot_listen(_at(*self._listen), error)) from None
        description = self._description(self._address)
        if len(encode(description)) > MAX_REGISTRATION_BYTES:
            await server.stop(0, 0)
            text = f"what it registers has more than {MAX_REGISTRATION_BYTES} bytes"
            raise StartError(f"{text}, and a Distributor takes no more: offer fewer routes, or less `meta`")
        self._is_started = True
        self._server = server
        LOG.info("listening on %s as %s", self.address, self.name)
        self._registry = Registry(self._distributor, self._identity, description, self._update)
        self._caller = Caller(self._service, self._registry, self._about["zone"])
        self._service.caller = self._caller
        self._registry.start()
        return self

    async def stop(self) -> bool:
        """Leaves the list first, so that no caller picks this node any more; then calls in flight are
        finished, and work that was detached. Returns whether all were."""
        if self._server is None or self._registry is None or self._caller is None:
            return True
        server, self._server = self._server, None
        await self._registry.leave()
        is_done = await server.stop(LEAVE_TIME, FINISH_TIME)
        self._caller.table.retire()
        self._registry.close()
        return is_done

    async def serve(self) -> None:
        """Starts, and serves until SIGTERM, SIGINT (Ctrl-C) or SIGHUP; then stops in order. A
        second signal ends the process at once, with status 130. If nothing listens to the log, it
        goes to standard error.

        Raises ``SystemExit`` with status 1 when the node cannot start, or when calls did not finish
        in time; the log says why.
        """
        _log_to_stderr()
        loop, asked = asyncio.get_running_loop(), asyncio.Event()

        def stop(number: int) -> None:
            # A terminal that is closed asks twice by itself.
            if asked.is_set() and number != getattr(signal, "SIGHUP", None):
                os._exit(130)
            asked.set()

        for name in ("SIGTERM", "SIGINT", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and not (name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN):
                try:
                    loop.add_signal_handler(number, stop, number)
                except NotImplementedError:
                    pass  # There are systems without signals.
        try:
            await self.start()
        except StartError as error:
            LOG.error("%s", error)
            raise SystemExit(1) from None
        await asked.wait()
        LOG.info("leaving")
        if not await self.stop():
            LOG.error("calls did not finish within %.0f s, and were cut", FINISH_TIME)
            raise SystemExit(1)

    async def __aenter__(self) -> Node:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def _update(self, replica: Any) -> None:
        assert self._caller is not None
        if self._server is not None:
            self._server.read_windows = replica.read_windows()
        self._caller.update(replica)

    def _stated_routes(self) -> list[dict[str, Any]]:
        """What is stated of the urls. It is there even if it is empty: all routes of a node without
        it are public."""
        stated: dict[Any, list[int]] = {}
        for position, handler in enumerate(self._handlers):
            acks = handler.route.method == EVENT
            stated.setdefault((handler.is_public, handler.wanted, acks), []).append(position)
        return [
            {
                "at": at,
                **({"public": True} if public else {}),
                **({} if wanted is None else {"headers": list(wanted)}),
                **({"acks": True} if acks else {}),
            }
            for (public, wanted, acks), at in stated.items()
            if public or wanted is not None or acks
        ]

    def _description(self, address: tuple[str, int]) -> dict[str, Any]:
        """What the Distributor is told of this node."""
        meta = {name: value for name, value in self._about.items() if value is not None}
        meta = {"v": 2, "id": self._identity.id, "routes": self._stated_routes(), **meta}
        if self._advertise is not None:
            meta["advertise"] = self._advertise
        urls = [handler.route.text for handler in self._handlers]
        described: dict[str, Any] = {"port": address[1], "name": self.name, "urls": urls, "$": meta}
        if self._advertise is None and is_own_host(address[0]) and address[0] not in ("0.0.0.0", "::"):
            described["loopback"] = True
        return described


def _at(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _cannot_listen(where: str, error: OSError) -> str:
    why = {
        errno.EADDRINUSE: "another program is using that port. Choose another one, or port 0 for any",
        errno.EACCES: "the system does not permit it. Ports below 1024 are often for root only",
        errno.EADDRNOTAVAIL: "this machine does not have that address",
    }.get(error.errno or 0)
    return f"cannot listen on {where}: {why or explain(error)}"


def _log_to_stderr() -> None:
    if not LOG.hasHandlers():
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        LOG.addHandler(handler)
        LOG.setLevel(logging.INFO)
