"""A node of the mesh for asyncio, without dependencies: see :class:`Node`."""

from .client.stream import Stream
from .errors import (
    BadAnswer,
    BadArguments,
    CallError,
    Deadline,
    Ended,
    Lost,
    NoList,
    NoProvider,
    NoRoute,
    Overloaded,
    Refused,
    RouteError,
    ServiceError,
    StartError,
    TooLarge,
)
from .handler.fields import Cookie
from .handler.handler import Status
from .handler.http import Html, HttpRequest, HttpResponse, Redirect, Text
from .handler.service import Call, Event
from .node import Node

__all__ = [
    "BadAnswer",
    "BadArguments",
    "Call",
    "CallError",
    "Cookie",
    "Deadline",
    "Ended",
    "Event",
    "Html",
    "HttpRequest",
    "HttpResponse",
    "Lost",
    "NoList",
    "NoProvider",
    "NoRoute",
    "Node",
    "Overloaded",
    "Redirect",
    "Refused",
    "RouteError",
    "ServiceError",
    "StartError",
    "Status",
    "Stream",
    "Text",
    "TooLarge",
]
