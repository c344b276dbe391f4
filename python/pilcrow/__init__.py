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
from .handlers import Status
from .node import Node
from .service import Call

__all__ = [
    "BadAnswer",
    "BadArguments",
    "Call",
    "CallError",
    "Deadline",
    "Ended",
    "Lost",
    "NoList",
    "NoProvider",
    "NoRoute",
    "Node",
    "Overloaded",
    "Refused",
    "RouteError",
    "ServiceError",
    "StartError",
    "Status",
    "Stream",
    "TooLarge",
]
