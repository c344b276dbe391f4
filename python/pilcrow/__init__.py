"""A node of the mesh for asyncio, without dependencies: see :class:`Node`."""

from .duplex import Stream
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
from .fields import Cookie
from .handlers import Status
from .http import Html, HttpRequest, HttpResponse, Redirect, Text
from .node import Node
from .service import Call

__all__ = [
    "BadAnswer",
    "BadArguments",
    "Call",
    "CallError",
    "Cookie",
    "Deadline",
    "Ended",
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
