"""Calls that wait for their answers, and the node that they wait for."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional, Tuple

from ..wire import LEGACY_READ_BYTES
from .flow import Inbox, Outbox

if TYPE_CHECKING:
    from .link import Link


class NotSent(Exception):
    """Nothing was sent: the call may be made elsewhere, whatever it is."""

    def __init__(self, why: str, is_full: bool = False, is_too_large: bool = False) -> None:
        super().__init__(why)
        self.is_full = is_full
        self.is_too_large = is_too_large


class TimedOut(Exception):
    """There was no answer in time."""


@dataclass(frozen=True)
class Target:
    """The node that a connection leads to."""

    address: str
    """The place where lists say that it is, as ``host:port``."""
    host: str
    port: int
    name: str
    is_v2: bool
    instance: str | None = None
    """The instance that it is; nodes of version 1 do not say."""
    read_window: int = LEGACY_READ_BYTES
    """The number of unread bytes that it may have, if it is of version 1."""
    advertised: tuple[str, int] | None = None
    """The place where it says that it is. The Distributor has not seen it, so anything may listen
    there."""
    is_shared: bool = False
    """Whether several instances are listed there. Then any of them may answer."""


class Pending:
    """A call that waits for its answer, or a stream."""

    def __init__(self, key: int, future: asyncio.Future[Any], began: float, inbox: Inbox | None) -> None:
        self.key = key
        self.future = future
        self.began = began
        self.inbox = inbox
        self.outbox: Outbox | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.is_written = False
        self.link: Link = None  # type: ignore[assignment]  # It is set when it is queued.

    def fail(self, error: BaseException) -> None:
        """Ends the call or the stream."""
        if self.timer is not None:
            self.timer.cancel()
        if not self.future.done():
            self.future.set_exception(error)
        elif self.outbox is not None and self.inbox is not None:
            self.outbox.close()
            self.inbox.end(error)
        if self.future.done() and not self.future.cancelled():
            self.future.exception()  # Whoever waited may have gone.


Queued = Tuple[bytes, Optional[Pending], Optional[str]]
"""A packet that waits to be written, its call if it has one, and what is logged if it is lost."""
