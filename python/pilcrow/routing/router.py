"""Routes as nodes register them, and the one that a method and a path belong to."""

from __future__ import annotations

import difflib
from typing import Any, Generic, Iterator, TypeVar
from urllib.parse import unquote

from ..errors import RouteError
from ..wire import shown
from .patterns import is_pattern, matches, pattern_fault, specificity

MAX_ROUTE_BYTES = 512
"""Maximum bytes of a route: the Distributor accepts no longer one."""

MAX_METHOD_CHARS = 17
"""Maximum letters of a method; HTTP's registered methods have at most 17 letters."""

MAX_SHAPES = 16
"""Maximum number of shapes of the routes with parameters that have the same method, number of
segments and first segment. A shape says which segments are parameters. A look-up tries each shape
once, so this bounds its cost."""

MAX_SEGMENTS = 64
"""Maximum number of segments of a route with parameters."""

EVENT = "EVENT"
"""The method of events. Gateways route nothing under it."""

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", EVENT)
"""The usual methods. Others are allowed, unless one looks like a mistyped one of these."""

_CAPITALS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ")

T = TypeVar("T")


class Route:
    """A method and a path: ``GET/goods/{id}``. Whole segments may be ``{name}``."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.method = text[: next((at for at, char in enumerate(text) if char not in _CAPITALS), len(text))]
        self.path = text[len(self.method) :]
        self._check()
        self.segments = self.path.split("/")[1:]
        self.is_parameter = tuple(_is_parameter(segment) for segment in self.segments)
        self.names = [segment[1:-1] for segment in self.segments if _is_parameter(segment)]
        if any(not name or "{" in name or "}" in name for name in self.names):
            raise self._error("a parameter has no name")
        if len(set(self.names)) != len(self.names):
            raise self._error("two parameters have the same name")

    @property
    def is_pattern(self) -> bool:
        """Whether the path has a parameter."""
        return bool(self.names)

    def _error(self, reason: str) -> RouteError:
        return RouteError(self.text, reason)

    def _check(self) -> None:
        if not self.method or len(self.method) > MAX_METHOD_CHARS:
            word = self.text.partition("/")[0]
            hint = f" (is it {word.upper()}?)" if word.upper() in METHODS else ""
            raise self._error(f"it does not begin with a method in capital letters{hint}")
        if not self.path.startswith("/"):
            raise self._error("no path follows the method")
        if len(self.text.encode(errors="replace")) > MAX_ROUTE_BYTES:
            raise self._error(f"it is longer than {MAX_ROUTE_BYTES} bytes")
        if any(char.isspace() or not char.isprintable() or char in "?#\\" for char in self.path):
            raise self._error("the path has a character that is not allowed in paths")
        for segment in self.path.split("/")[1:]:
            if segment in (".", ".."):
                raise self._error("the path has a dot segment")
            if not _is_parameter(segment) and ("{" in segment or "}" in segment):
                raise self._error("a parameter must be a whole segment")

    def __str__(self) -> str:
        return self.text


def own_route(text: str) -> Route:
    """The route of a handler. Raises :class:`RouteError`. What looks like a pattern of another framework, or a mistyped method,
    is refused: no call would match it."""
    if not isinstance(text, str):
        raise RouteError(getattr(text, "__name__", str(text)), "it is not a text")
    route = Route(text)
    if route.method not in METHODS:
        close = difflib.get_close_matches(route.method, METHODS, n=1, cutoff=0.65)
        if close:
            raise RouteError(text, f"there is no method {route.method}; is it {close[0]}?")
    for segment in route.segments:
        if _is_parameter(segment) and any(char in segment for char in "*:"):
            raise RouteError(text, "a parameter matches any one segment: there are no wildcards, and no expressions")
        if "*" in segment:
            raise RouteError(text, "there are no wildcards, and a * matches only itself")
        if segment.startswith(":") or (segment.startswith("<") and segment.endswith(">")):
            raise RouteError(text, f"a parameter is written {{name}}, not {segment}")
    return route


def event_route(event: str) -> Route:
    """The route of an event. Raises :class:`RouteError` when no node can subscribe to it."""
    if not isinstance(event, str) or not event or event.startswith(f"{EVENT}/"):
        raise RouteError(shown(event), "an event is written like orders.created")
    route = Route(f"{EVENT}/{event}")
    if route.is_pattern:
        raise RouteError(event, "an event has no parameters")
    fault = pattern_fault(event)
    if fault is not None:
        raise RouteError(event, fault)
    return route


def event_name(event: str) -> str:
    """Checks the name of an event that is emitted. Raises :class:`RouteError` when no event has it."""
    event_route(event)
    if is_pattern(event):
        raise RouteError(event, "an event is emitted by its whole name; only subscriptions have a * or a >")
    return event


def split_url(url: str, is_call: bool = True) -> tuple[str, str]:
    """The method and the path of a call. Raises :class:`RouteError` when the text is not a url. What
    is not called, but waited for, may be a route with parameters."""
    at = url.find("/")
    method, path = url[:at], url[at:]
    if at <= 0 or not _CAPITALS.issuperset(method):
        word = method.upper()
        hint = f"; is it {word}{path}?" if at > 0 and word in METHODS else ""
        raise RouteError(url, f"it does not begin with a method in capital letters{hint}")
    parameter = next(filter(_is_parameter, path.split("/")), None) if is_call else None
    if parameter is not None:
        raise RouteError(url, f"write the value in place of {shown(parameter)}, as in GET/orders/7")
    if "?" in path or "#" in path:
        raise RouteError(url, "a query is not part of it: what would stand there belongs to the arguments")
    return method, path


def _is_parameter(segment: str) -> bool:
    return len(segment) >= 2 and segment.startswith("{") and segment.endswith("}")


class Router(Generic[T]):
    """A value per route. A path without parameters is preferred to one with, segment by segment
    from the left. The names of parameters make no difference."""

    def __init__(self) -> None:
        self._exact: dict[tuple[str, str], tuple[Route, T]] = {}
        self._events: list[str] = []  # patterns of events, the most specific first
        self._shapes: dict[tuple[Any, ...], list[tuple[bool, ...]]] = {}
        self._counts: dict[tuple[Any, ...], int] = {}
        self._patterns: dict[tuple[Any, ...], tuple[Route, T]] = {}

    def get(self, route: Route) -> tuple[Route, T] | None:
        """The route that stands for this one, and its value."""
        if not route.is_pattern:
            return self._exact.get((route.method, route.path))
        return self._patterns.get(self._key(route))

    def put(self, route: Route, value: T) -> None:
        """Sets the value of a route. Raises :class:`RouteError` when it would make look-ups too
        slow."""
        if not route.is_pattern:
            self._exact[route.method, route.path] = (route, value)
            name = route.path[1:]
            if route.method == EVENT and is_pattern(name) and name not in self._events:
                self._events = sorted([*self._events, name], key=specificity)
            return
        if len(route.segments) > MAX_SEGMENTS:
            raise RouteError(route.text, f"a route with parameters has at most {MAX_SEGMENTS} segments")
        key = self._key(route)
        known = self._patterns.get(key)
        if known is not None:
            self._patterns[key] = (known[0], value)
            return
        group = self._group(route)
        shapes = self._shapes.get(group, [])
        if route.is_parameter not in shapes:
            if len(shapes) >= MAX_SHAPES:
                text = "similar routes already have parameters at other positions"
                raise RouteError(route.text, f"{MAX_SHAPES} {text}")
            # A literal comes first: false is less than true.
            self._shapes[group] = sorted([*shapes, route.is_parameter])
        self._counts[group, route.is_parameter] = self._counts.get((group, route.is_parameter), 0) + 1
        self._patterns[key] = (route, value)

    def remove(self, route: Route) -> None:
        """Removes a route, and leaves nothing behind: names come and go for years."""
        if not route.is_pattern:
            self._exact.pop((route.method, route.path), None)
            if route.method == EVENT:
                self._events = [name for name in self._events if name != route.path[1:]]
            return
        if self._patterns.pop(self._key(route), None) is None:
            return
        group, shape = self._group(route), route.is_parameter
        self._counts[group, shape] -= 1
        if not self._counts[group, shape]:
            del self._counts[group, shape]
            self._shapes[group] = [one for one in self._shapes[group] if one != shape]
            if not self._shapes[group]:
                del self._shapes[group]

    def find(self, method: str, path: str) -> tuple[Route, T, dict[str, str]] | None:
        """The route that a call belongs to, its value, and the parameters of the path, decoded."""
        exact = self._exact.get((method, path))
        if exact is not None:
            return (*exact, {})
        if method == EVENT:
            pattern = next((one for one in self._events if matches(one, path[1:])), None)
            return None if pattern is None else (*self._exact[EVENT, f"/{pattern}"], {})
        segments = path.split("/")[1:]
        for first in (segments[0] if segments else "", None):
            for shape in self._shapes.get((method, len(segments), first), ()):
                literals = tuple("" if free else one for free, one in zip(shape, segments))
                found = self._patterns.get((method, shape, literals))
                if found is None or any(free and not one for free, one in zip(shape, segments)):
                    continue
                captured = (one for free, one in zip(shape, segments) if free)
                return (*found, {name: unquote(one) for name, one in zip(found[0].names, captured)})
        return None

    def routes(self) -> Iterator[Route]:
        """All routes."""
        for route, _ in [*self._exact.values(), *self._patterns.values()]:
            yield route

    @staticmethod
    def _group(route: Route) -> tuple[Any, ...]:
        return route.method, len(route.segments), None if route.is_parameter[0] else route.segments[0]

    @staticmethod
    def _key(route: Route) -> tuple[Any, ...]:
        literals = tuple("" if free else one for free, one in zip(route.is_parameter, route.segments))
        return route.method, route.is_parameter, literals
