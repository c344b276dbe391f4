"""What a call hands down to the work that is done for it: the deadline, the trace, and the depth.

The rules stand in docs/PROTOCOL.md, under "What a call hands down".
"""

from __future__ import annotations

import re
import secrets
from contextvars import ContextVar
from dataclasses import dataclass, replace

MARGIN_DIVISOR = 10
"""Calls that a handler makes end before its own deadline by one part in this many of the time that
is left, so that it can still answer, or undo what it has done."""

MAX_MARGIN = 0.1
"""And never earlier than this: it is enough for an answer, or one more call."""

MAX_HOPS = 32
"""Maximum number of calls in a row, each made while the one before is handled. Services that call
each other in a circle would go on until the deadline."""

_TRACEPARENT = re.compile("00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True)
class Context:
    """The context of all work for one call."""

    deadline: float | None = None
    """The time until which the caller waits, by the clock of the loop; none once it reads a
    stream."""
    trace: str | None = None
    """A W3C ``traceparent``."""
    hops: int = 0
    """The number of calls in a row that led to this one."""
    may_stream: bool = False
    """Whether the caller takes a stream, so streams that are opened for it may outlast the
    opening."""

    def inner_deadline(self, now: float) -> float | None:
        """The deadline of a call that is made now for this one."""
        if self.deadline is None:
            return None
        return self.deadline - min(max(self.deadline - now, 0.0) / MARGIN_DIVISOR, MAX_MARGIN)

    def outlasting(self) -> Context:
        """For work that outlasts the call: it has no deadline."""
        return replace(self, deadline=None)


class Current:
    """The context of a task. It is shared by the tasks that a handler makes, and changes for all of
    them when the call becomes a stream."""

    __slots__ = ("context",)

    def __init__(self, context: Context) -> None:
        self.context = context


_CURRENT: ContextVar[Current | None] = ContextVar("pilcrow_call", default=None)


def current() -> Context:
    """The context of the call that is being handled; an empty one outside of calls."""
    known = _CURRENT.get()
    return Context() if known is None else known.context


def enter(context: Context) -> Current:
    """Begins a context for the rest of this task, and for the tasks that it makes."""
    entered = Current(context)
    _CURRENT.set(entered)
    return entered


def trace_of(context: Context) -> str:
    """The trace of the work, which begins here if there is none."""
    if context.trace is not None:
        return context.trace
    trace = child_trace(f"00-{secrets.token_hex(16)}-{'0' * 16}-01")
    known = _CURRENT.get()
    if known is not None:
        known.context = replace(known.context, trace=trace)
    return trace


def read_trace(text: object) -> str | None:
    """A ``traceparent`` of version 00, or none."""
    return text if isinstance(text, str) and _TRACEPARENT.fullmatch(text) else None


def child_trace(trace: str) -> str:
    """The trace of a call made in this one: the same id, and a parent of its own."""
    return f"{trace[:36]}{secrets.randbits(64) or 1:016x}{trace[52:]}"
