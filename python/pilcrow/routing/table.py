"""Which nodes offer what: made from the list, changed with it, and looked up for each call."""

from __future__ import annotations

import difflib
import itertools
from os.path import commonprefix
from typing import Any, Callable, Iterable

from ..balance.load import Load
from ..balance.pool import Pool, Readiness
from ..balance.rendezvous import score
from ..errors import RouteError
from ..transport.connection import Connection
from ..transport.pending import Target
from ..transport.sockets import blocked_because, parse_host_port
from ..wire import LEGACY_READ_BYTES, MAX_FRAME_BYTES, shown
from .patterns import is_pattern, matches, specificity
from .replica import Entry
from .router import EVENT, Route, Router

MAX_KNOWN_ROUTES = 16_384
"""Routes that are remembered when no node offers them any more, to tell "not there now" from "never
heard of it"."""

MAX_SCANNED_ROUTES = 16_384
"""Offered routes among which one is looked for that a caller may have meant. In a larger mesh the
search would keep other calls waiting."""

MAX_COMPARED_ROUTES = 100
"""Routes that begin or end like the url and are compared with all of it."""

MAX_COMPARED_CHARS = 128
"""Characters of a url to which others are compared: the time grows with their square."""

MAX_WEIGHT = 1000
"""The largest weight, in hundredths of the usual share."""

DEFAULT_WEIGHT = 100
"""The usual share."""


class Provider:
    """A node as a provider of one route: see :class:`pilcrow.balance.Member`."""

    __slots__ = ("connection", "route", "weight", "same_zone", "is_local", "is_suspect", "rank_score")

    def __init__(self, node: Node, route: Route) -> None:
        self.connection = node.connection
        self.route = route
        self.weight = node.weight
        self.same_zone = node.same_zone
        self.is_local = node.is_local
        self.is_suspect = node.is_suspect
        self.rank_score = node.rank_score
        node.providers.append(self)

    @property
    def address(self) -> str:
        return self.connection.target.address

    @property
    def instance(self) -> str | None:
        return self.connection.target.instance

    @property
    def load(self) -> Load:
        return self.connection.load

    def readiness(self, now: float) -> Readiness:
        rank = self.connection.readiness(now)
        return max(rank, Readiness.EJECTED) if self.is_suspect else rank


class Node:
    """A node that takes calls."""

    def __init__(self, target: Target, routes: list[Route], entry: Entry, connection: Connection) -> None:
        self.target = target
        self.routes = routes
        self.entry = entry
        self.ids = [entry.id]
        self.is_shared = target.is_shared
        self.providers: list[Provider] = []
        self.connection = connection
        self.weight = DEFAULT_WEIGHT
        self.same_zone = False
        self.is_local = False
        self.is_suspect = False
        self.rank_score = 0
        self.signature: Any = None

    def suspect(self, is_suspect: bool) -> None:
        """Says whether others are preferred. On a busy machine that changes often."""
        if self.is_suspect != is_suspect:
            self.is_suspect = is_suspect
            for provider in self.providers:
                provider.is_suspect = is_suspect

    def is_still(self, listed: list[Entry], suspects: set[int]) -> bool:
        """Whether nothing has changed, if that can be told without reading what is listed."""
        is_alone = len(listed) == 1 and not self.is_shared and listed[0] is self.entry
        return is_alone and self.is_suspect == (self.entry.id in suspects)


class Table:
    """The nodes that are listed, by address, and the pools of providers of each route."""

    def __init__(
        self,
        instance: str,
        zone: str | None,
        connect: Callable[[Target], Connection],
        warn: Callable[[str], None],
    ) -> None:
        self._instance = instance
        self._zone = zone
        self._connect = connect
        self._warn = warn
        self._nodes: dict[str, Node] = {}
        self._providers: Router[dict[str, Provider]] = Router()
        self._subscribers: dict[str, dict[str, dict[str, Provider]]] = {}
        self._patterns: set[str] = set()  # of events that have subscribers
        self._pools: dict[Any, Pool[Provider]] = {}
        self._turns: dict[Any, int] = {}
        self._seen: Router[None] = Router()
        self._seen_count = 0
        self._warned: set[str] = set()

    def update(self, entries: Iterable[Entry], suspects: set[int]) -> None:
        """Takes over what is listed now. Connections to nodes that are still there stay."""
        listed: dict[str, list[Entry]] = {}
        for entry in entries:
            if entry.address is not None:
                listed.setdefault(entry.address, []).append(entry)
        for address in [one for one in self._nodes if one not in listed]:
            node = self._nodes.pop(address)
            self._take_out(node)
            node.connection.retire()
        for address, several in listed.items():
            before = self._nodes.get(address)
            if before is not None and before.is_still(several, suspects):
                continue  # As nearly all are.
            # What a Distributor has seen itself counts more than what a node says of itself.
            seen = [one for one in several if "advertise" not in one.meta] or several
            self._put(address, seen[0], len(seen) > 1, {one.id for one in several}, suspects)

    def _put(self, address: str, entry: Entry, is_shared: bool, ids: set[int], suspects: set[int]) -> None:
        is_suspect = bool(ids & suspects)
        signature = (entry.text, entry.content.get("host"), is_shared)
        before = self._nodes.get(address)
        if before is not None and before.signature == signature:
            before.entry, before.ids = entry, sorted(ids)
            before.suspect(is_suspect)
            return
        if before is not None:
            self._take_out(before)
        target = _target(address, entry, is_shared)
        why = blocked_because(target.host)
        routes = self._routes_of(entry)
        meta = entry.meta
        if "http" in meta or why is not None:
            if why is not None and routes:
                self._warn_once(f"{shown(target.name)} at {address} is not called: {why}")
            routes = []
        if before is not None and before.target == target:
            connection = before.connection
        else:
            # Another process listens there now.
            if before is not None:
                before.connection.retire()
            connection = self._connect(target)
        node = Node(target, routes, entry, connection)
        node.ids, node.signature, node.is_suspect = sorted(ids), signature, is_suspect
        node.is_local = target.instance == self._instance
        node.same_zone = self._zone is not None and meta.get("zone") == self._zone
        weight = meta.get("weight", DEFAULT_WEIGHT)
        is_weight = isinstance(weight, int) and not isinstance(weight, bool) and 0 <= weight <= MAX_WEIGHT
        node.weight = 0 if meta.get("draining") is True else weight if is_weight else DEFAULT_WEIGHT
        node.rank_score = score(self._instance, address)
        self._nodes[address] = node
        self._put_in(node)

    def _routes_of(self, entry: Entry) -> list[Route]:
        urls = entry.content.get("urls")
        routes = []
        for url in urls if isinstance(urls, list) else []:
            try:
                routes.append(Route(url if isinstance(url, str) else ""))
            except RouteError:
                self._warn_once(f"{shown(entry.content.get('name'))} offers {shown(url)}, which is not a route")
        return routes

    def _warn_once(self, text: str) -> None:
        if text not in self._warned and len(self._warned) < 1000:
            self._warned.add(text)
            self._warn(text)

    def _put_in(self, node: Node) -> None:
        for route in node.routes:
            if route.method == EVENT:
                if node.weight:
                    groups = self._subscribers.setdefault(route.path, {})
                    if is_pattern(route.path[1:]):
                        self._patterns.add(route.path[1:])
                    groups.setdefault(node.target.name, {})[node.target.address] = Provider(node, route)
                    self._forget_pool((route.path, node.target.name))
                continue
            self._remember(route)
            if not node.weight:
                continue
            try:
                known = self._providers.get(route)
                if known is None:
                    self._providers.put(route, {})
                    known = self._providers.get(route)
            except RouteError as error:
                self._warn_once(f"a route of {shown(node.target.name)} is not called: {error}")
                continue
            assert known is not None
            # Two routes of one node may differ only in the names of parameters.
            known[1].setdefault(node.target.address, Provider(node, route))
            self._forget_pool(known[0].text)

    def _take_out(self, node: Node) -> None:
        address = node.target.address
        for route in node.routes:
            if route.method == EVENT:
                groups = self._subscribers.get(route.path, {})
                group = groups.get(node.target.name, {})
                group.pop(address, None)
                self._forget_pool((route.path, node.target.name))
                if not group:
                    groups.pop(node.target.name, None)
                if not groups:
                    self._subscribers.pop(route.path, None)
                    self._patterns.discard(route.path[1:])
                continue
            known = self._providers.get(route)
            if known is not None:
                known[1].pop(address, None)
                self._forget_pool(known[0].text)
                if not known[1]:
                    self._providers.remove(route)
                    self._turns.pop(known[0].text, None)

    def _forget_pool(self, key: Any) -> None:
        pool = self._pools.pop(key, None)
        if pool is not None:
            self._turns[key] = pool.turn

    def _remember(self, route: Route) -> None:
        if self._seen.get(route) is None and self._seen_count < MAX_KNOWN_ROUTES:
            try:
                self._seen.put(route, None)
                self._seen_count += 1
            except RouteError:
                pass

    def find(self, method: str, path: str) -> tuple[Route, Pool[Provider]] | None:
        """The route that a call belongs to, and who offers it now."""
        found = self._providers.find(method, path)
        if found is None:
            return None
        route, providers, _ = found
        return route, self._pool(route.text, providers)

    def subscribers(self, event: str) -> dict[str, Pool[Provider]]:
        """The nodes that have subscribed to an event, by their names. Of several subscriptions of one
        name, the most specific one counts."""
        pools: dict[str, Pool[Provider]] = {}
        for path in self._paths_of(event):
            for name, group in self._subscribers[path].items():
                if name not in pools:
                    pools[name] = self._pool((path, name), group)
        return pools

    def all_subscribers(self, event: str) -> list[tuple[str, Provider]]:
        """The same, each node once, with its name."""
        nodes: dict[str, tuple[str, Provider]] = {}
        for path in self._paths_of(event):
            for name, group in self._subscribers[path].items():
                for provider in group.values():
                    nodes.setdefault(provider.address, (name, provider))
        return list(nodes.values())

    def _paths_of(self, event: str) -> list[str]:
        """The name of an event, and the patterns to which it belongs, the most specific first, as far
        as there are subscribers."""
        patterns = sorted((one for one in self._patterns if matches(one, event)), key=specificity)
        return [path for path in (f"/{event}", *(f"/{one}" for one in patterns)) if path in self._subscribers]

    def was_offered(self, method: str, path: str) -> bool:
        """Whether a node has offered the route before."""
        return self._seen.find(method, path) is not None

    def similar(self, url: str) -> str | None:
        """The offered route that looks most like a url, if one is found in a few milliseconds."""
        if len(url) > MAX_COMPARED_CHARS:
            return None
        given = url.split("/")
        spelled: dict[str, str] = {}
        for route in itertools.islice(self._providers.routes(), MAX_SCANNED_ROUTES):
            if len(route.segments) + 1 != len(given):
                continue
            # A parameter stands for whatever the url has there.
            parts = zip(route.is_parameter, route.segments, given[1:])
            text = "/".join([route.method, *(mine if free else one for free, one, mine in parts)])
            # A slip of the pen leaves a beginning or an end as it was.
            same = len(commonprefix([text, url])) + len(commonprefix([text[::-1], url[::-1]]))
            if 2 * same >= len(url):
                spelled[text] = route.text
            if len(spelled) == MAX_COMPARED_ROUTES:
                break
        close = difflib.get_close_matches(url, spelled, n=1, cutoff=0.75)
        return spelled[close[0]] if close else None

    def ids_of(self, address: str) -> list[int]:
        """The ids of the list for the nodes at an address."""
        node = self._nodes.get(address)
        return [] if node is None else node.ids

    def nodes(self) -> list[Node]:
        """All nodes that may be called."""
        return list(self._nodes.values())

    def retire(self) -> None:
        """Closes all connections when their calls are over."""
        for node in self._nodes.values():
            node.connection.retire()

    def _pool(self, key: Any, providers: dict[str, Provider]) -> Pool[Provider]:
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = Pool(providers.values(), self._turns.pop(key, None))
        return pool


def _target(address: str, entry: Entry, is_shared: bool) -> Target:
    host, _, port = address.rpartition(":")
    window = entry.content.get("readWindow")
    window = window if isinstance(window, int) and not isinstance(window, bool) else 0
    advertise = entry.meta.get("advertise")
    name = entry.content.get("name")
    return Target(
        address=address,
        host=host.strip("[]"),
        port=int(port),
        name=name if isinstance(name, str) else shown(name),
        is_v2=isinstance(entry.content.get("$"), dict),
        instance=entry.instance,
        read_window=min(max(window, LEGACY_READ_BYTES), MAX_FRAME_BYTES),
        advertised=parse_host_port(advertise) if isinstance(advertise, str) else None,
        is_shared=is_shared,
    )
