"""Handlers: what an author registers for a route, and how the arguments of a call reach it."""

from __future__ import annotations

import asyncio
import inspect
import types
import typing
from dataclasses import dataclass
from typing import Any, Callable, Sequence

from ..errors import ServiceError, StartError
from ..routing.router import EVENT, Route
from ..wire import shown
from .http import HttpRequest, HttpResponse, not_http, wanted_headers

MAX_WAITING = 256
"""Events, and other calls without a key, that wait for a route at its concurrency limit. More are
lost: the node that emits them does not wait."""

Reader = Callable[[str, Any], Any]


@dataclass(frozen=True)
class Status:
    """A result with another status than 200: ``return Status(201, order)``. Callers of version 1
    see the result alone."""

    status: int
    result: Any = None

    def __post_init__(self) -> None:
        if not 200 <= self.status <= 299:
            raise ValueError(f"a result has a status from 200 to 299, and not {self.status}: raise a ServiceError")


class Handler:
    """A function for a route."""

    def __init__(
        self,
        route: Route,
        function: Callable[..., Any],
        max_concurrency: int | None = None,
        is_public: bool = False,
        headers: Sequence[str] | None = None,
    ) -> None:
        self.route = route
        self.function = function
        self.is_public = is_public
        """Whether gateways answer clients with the route."""
        self.is_stream = inspect.isasyncgenfunction(function)
        """Whether it yields the parts of a stream."""
        try:
            self.wanted = None if headers is None else wanted_headers(headers)
            """The header fields that it reads of a client's request; none if it reads no request,
            and gives a client no header fields."""
        except ValueError as error:
            raise StartError(f"headers of {route}: {error}") from None
        self.has_warned = False
        """Whether the log says that it gives header fields that no client gets."""
        self._reads_all = route.method == EVENT
        self._limit = None if max_concurrency is None else asyncio.Semaphore(max_concurrency)
        self._waiting = 0
        name = getattr(function, "__name__", repr(function))
        if max_concurrency is not None and max_concurrency < 1:
            raise StartError(f"{name}: max_concurrency must be 1 or more, and is {max_concurrency}")
        if not self.is_stream and not inspect.iscoroutinefunction(function):
            raise StartError(
                f"the handler {name} of {route} must be written with `async def`; code that blocks can run in "
                "`await asyncio.to_thread(…)`"
            )
        if self.is_stream and self._reads_all:
            raise StartError(f"the handler {name} of {route} yields: what a handler of an event yields is not read")
        self._call_name: str | None = None
        self._request: tuple[str, bool] | None = None
        """The parameter for the request of a client, and whether the handler does without."""
        self._parameters: list[tuple[str, Reader, Any]] = []
        self._read_signature(name)

    def _read_signature(self, name: str) -> None:
        try:
            hints = typing.get_type_hints(self.function)
        except Exception:  # A name of an annotation need not exist when the program runs.
            hints = {}
        for one in inspect.signature(self.function).parameters.values():
            hint = hints.get(one.name)
            if one.kind is one.VAR_POSITIONAL or one.kind is one.POSITIONAL_ONLY:
                text = f"{name}: arguments are passed by name"
                raise StartError(f"{text}, so a handler cannot have the parameter `{one}`")
            if one.kind is one.VAR_KEYWORD:
                raise StartError(f"{name}: write `params` in place of `{one}`: it is given all arguments")
            if one.name == "call" or getattr(hint, "__name__", "") == "Call":
                self._call_name = one.name
            elif HttpRequest in (hint, *typing.get_args(hint)):
                self._request = (one.name, hint is not HttpRequest)
                self.wanted = self.wanted or ()
            elif one.name == "request" and hint is None and self.wanted is not None:
                self._request = (one.name, False)
            else:
                self._parameters.append((one.name, _reader(hint), one.default))
        answer = hints.get("return")
        if isinstance(answer, type) and issubclass(answer, HttpResponse):
            self.wanted = self.wanted or ()
        if self._reads_all and self.wanted is not None:
            raise StartError(f"{name}: no client emits an event, so its handler reads and answers no request")
        if self._reads_all and len(self._parameters) > 1:
            raise StartError(f"{name}: a handler of an event has one parameter for what was emitted")
        names = [name for name, _, _ in self._parameters]
        missing = [one for one in self.route.names if one not in names and "params" not in names]
        if missing:
            text = f"{name}: {self.route} has a parameter {missing[0]}"
            raise StartError(f"{text}, and the handler has none of that name")

    def bind(self, call: Any, params: Any, captured: dict[str, str]) -> dict[str, Any]:
        """The arguments of the function. Raises :class:`ServiceError` when they do not fit."""
        bound = {} if self._call_name is None else {self._call_name: call}
        if self._request is not None:
            parameter, is_optional = self._request
            bound[parameter] = call.request
            if call.request is None and not is_optional:
                raise not_http()
        given = params if isinstance(params, dict) else {}
        for name, read, default in self._parameters:
            if name in captured:
                bound[name] = _read(read, name, captured[name], "bad_path")
            elif self._reads_all:
                bound[name] = _read(read, name, params, "bad_params")
            elif name == "params":
                bound[name] = {**given, **captured} if isinstance(params, dict) or captured else params
            elif name in given:
                bound[name] = _read(read, name, given[name], "bad_params")
            elif default is inspect.Parameter.empty:
                raise ServiceError(400, "bad_params", f"{shown(name)} is missing")
        return bound

    def is_full(self) -> bool:
        """Whether no further call may run now."""
        return self._limit is not None and self._limit.locked()

    async def permit(self) -> asyncio.Semaphore | None:
        """Waits until the call may run, and gives what must be released then. Raises
        :class:`ServiceError` when too many wait."""
        if self._limit is None:
            return None
        if self._limit.locked() and self._waiting >= MAX_WAITING:
            text = "wait for their turn already; allow more at a time with max_concurrency, or start another node"
            raise ServiceError(503, "overloaded", f"{MAX_WAITING} {text}")
        self._waiting += 1
        try:
            await self._limit.acquire()
        finally:
            self._waiting -= 1
        return self._limit


def _read(read: Reader, name: str, value: Any, reason: str) -> Any:
    try:
        return read(name, value)
    except ValueError as error:
        raise ServiceError(400, reason, str(error)) from None


def _reader(hint: Any) -> Reader:
    """How a value is read for an annotation. Members of a query string and of a path are text, so
    numbers and booleans may be written as such."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        inner = [one for one in typing.get_args(hint) if one is not type(None)]
        if len(inner) == 1 and len(typing.get_args(hint)) == 2:
            read = _reader(inner[0])
            return lambda name, value: None if value is None else read(name, value)
    return {int: _int, float: _float, bool: _bool, str: _str}.get(hint, lambda _, value: value)


def _int(name: str, value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            pass
    raise ValueError(f"{name} must be a whole number")


def _float(name: str, value: Any) -> float:
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)
        except (ValueError, OverflowError):
            pass
    raise ValueError(f"{name} must be a number")


def _bool(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return bool(value == "true")
    raise ValueError(f"{name} must be true or false")


def _str(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    raise ValueError(f"{name} must be a text")
