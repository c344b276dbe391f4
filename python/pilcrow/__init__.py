"""A node of the mesh for asyncio, without dependencies."""

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

__all__ = [
    "BadAnswer",
    "BadArguments",
    "CallError",
    "Deadline",
    "Ended",
    "Lost",
    "NoList",
    "NoProvider",
    "NoRoute",
    "Overloaded",
    "Refused",
    "RouteError",
    "ServiceError",
    "StartError",
    "TooLarge",
]
