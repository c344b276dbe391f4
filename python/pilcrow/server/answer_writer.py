"""What is written to one caller: packets of version 2 together, those of version 1 one by one."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Callable

LEGACY_READ_TIME = 0.05
"""How long a caller of version 1 takes to read an answer that it waits for: an estimate."""


class AnswerWriter:
    """Answers on their way to a caller."""

    def __init__(
        self, transport: asyncio.Transport, read_window: Callable[[], int], written: Callable[[], None]
    ) -> None:
        """``read_window`` is how many bytes a caller of version 1 may have unread; ``written`` is
        called when all is written."""
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._read_window = read_window
        self._on_written = written
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._legacy: deque[bytes] = deque()
        self._legacy_bytes = 0
        self._unread = 0
        self._wrote_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """Bytes that the system has not taken yet."""
        return self._transport.get_write_buffer_size() + self._out_bytes + self._legacy_bytes

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits here."""
        return not self._out and not self._legacy

    def write(self, packet: bytes) -> None:
        """Writes a packet of version 2, with others of this turn of the event loop."""
        if self._transport.is_closing():
            return
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(packet)
        self._out_bytes += len(packet)

    def write_legacy(self, packet: bytes) -> None:
        """Writes a packet of version 1."""
        if not self._transport.is_closing():
            self._legacy.append(packet)
            self._legacy_bytes += len(packet)
            if self._timer is None:
                self._flush_legacy()

    def _flush(self) -> None:
        out, self._out, self._out_bytes = self._out, [], 0
        if out and not self._transport.is_closing():
            self._transport.write(b"".join(out))
            self._on_written()

    def _flush_legacy(self) -> None:
        """One write carries one packet, and a caller never has more unread than it can read at
        once."""
        self._timer = None
        now = self._loop.time()
        if now - self._wrote_at >= LEGACY_READ_TIME:
            self._unread = 0
        while self._legacy and not self._transport.is_closing():
            size = len(self._legacy[0])
            waits = self._unread > 0 and self._unread + size > self._read_window()
            if waits or self._transport.get_write_buffer_size() > 0:
                self._timer = self._loop.call_later(LEGACY_READ_TIME, self._flush_legacy)
                return
            self._transport.write(self._legacy.popleft())
            self._legacy_bytes -= size
            self._unread += size
            self._wrote_at = now
        self._loop.call_soon(self._on_written)
