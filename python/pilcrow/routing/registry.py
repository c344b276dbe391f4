"""The connection to the Distributor: a node registers, is told of others, and is found alive."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import secrets
from typing import Any, Callable

from ..transport.sockets import explain, ip_of, is_own_host, parse_address, tune
from ..wire import FrameReader, FrameTooLarge, NotAPacket, encode, is_number, seal, shown
from .replica import Outcome, Replica

LOG = logging.getLogger("pilcrow")

MAX_LIST_BYTES = 16 << 20
"""Bytes of a list: twice the limit of a Distributor."""

MAX_UNSENT_BYTES = 32 << 20
"""Bytes that wait for a Distributor that does not read: a copy of the list, and more."""

CONNECT_TIME = 5.0
"""How long connecting may take, names included."""

RECONNECT = 3.0
"""Pause before connecting again, in which all nodes come back one by one."""

MAX_FOREIGN_PAUSE = 30.0
"""The longest pause before a server that is not a Distributor is tried again."""

SILENCE = 15.0
"""How long a Distributor may be silent; one of version 2 pings far more often."""

MAX_WAIT = 3600.0
"""The longest wait that the Distributor may ask for."""

ASK_AGAIN = 3.0
"""How long a requested list may be on its way before it is requested again."""

NOT_YOURS_PAUSE = 10.0
"""Pause between tries to register if our instance id is refused."""

REPORT_PAUSE = 0.1
"""Failed nodes are gathered for this long, so that many lost calls are one report."""

MAX_REPORTED = 64
"""Nodes of one report: a Distributor takes no more."""


class Identity:
    """The instance that a process is: an id, and the secret that proves it. Each start makes its
    own."""

    def __init__(self) -> None:
        self.secret = secrets.token_hex(32)
        self.id = "~" + hashlib.sha256(self.secret.encode()).hexdigest()[:32]


class Registry:
    """Registers a node, applies lists and changes, and connects again when the connection is
    lost."""

    def __init__(
        self, where: str, identity: Identity, description: dict[str, Any], on_change: Callable[[Replica], None]
    ) -> None:
        """``description`` is registered as it stands; ``on_change`` is called with what is
        known."""
        self.host, self.port = parse_address(where)
        self._at = where
        self.where = f"Distributor at {where}"
        self.replica = Replica()
        self.listed = asyncio.Event()
        """The first list has come."""
        self.is_registered = asyncio.Event()
        self._identity = identity
        self._description = description
        self._on_change = on_change
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None
        self._timers: set[asyncio.TimerHandle] = set()
        self._trouble = ""
        self._has_left = False
        self._is_v2 = False
        self._was_heard = False
        self._patience = SILENCE
        self._asked_at = float("-inf")
        self._foreign_pause = RECONNECT / 2
        self._failed: set[int] = set()
        self._unreachable: dict[int, str] = {}

    def start(self) -> None:
        """Begins to register. A Distributor that cannot be reached yet is not an error."""
        self._task = asyncio.get_running_loop().create_task(self._keep_registered())

    async def leave(self) -> None:
        """Leaves the list. The connection stays, so that others are told by a Distributor that sees
        it end in order."""
        self._has_left = True
        if self._writer is not None and self._is_v2:
            self._write({"uri": "/distributes", "method": "DELETE", "key": 0, "params": {}, "$": {}})
            try:
                await asyncio.wait_for(self._writer.drain(), 1.0)
            except (OSError, asyncio.TimeoutError):
                pass

    def close(self) -> None:
        """Ends the connection."""
        for timer in self._timers:
            timer.cancel()
        if self._task is not None:
            self._task.cancel()
        if self._writer is not None:
            self._writer.close()

    def report(self, node: int, unreachable: str | None = None) -> None:
        """Tells that calls to a node have failed, or that it has been unreachable for a second."""
        if not self._failed and not self._unreachable:
            self._later(REPORT_PAUSE, self._send_report)
        if unreachable is not None and len(self._unreachable) < MAX_REPORTED:
            self._unreachable[node] = unreachable
        elif unreachable is None and len(self._failed) < MAX_REPORTED:
            self._failed.add(node)

    def _send_report(self) -> None:
        known = self.replica.entries
        failed = [one for one in self._failed if one in known]
        unreachable = [[one, why] for one, why in self._unreachable.items() if one in known]
        self._failed, self._unreachable = set(), {}
        if self._is_v2 and (failed or unreachable):
            params: dict[str, Any] = {"failed": failed} if failed else {}
            if unreachable:
                params["unreachable"] = unreachable
            self._write({"uri": "/distributes", "method": "PATCH", "params": params, "$": {}})

    async def _keep_registered(self) -> None:
        while not self._has_left:
            self._was_heard = False
            foreign = ""
            try:
                foreign = await self._session()
                cause = "it closed the connection"
            except (OSError, asyncio.TimeoutError) as error:
                cause = explain(error)
            except Exception:
                LOG.exception("a packet of the %s was not understood", self.where)
                cause = "a packet was not understood"
            finally:
                self._writer = None
            self.replica.disconnected()
            self.is_registered.clear()
            if self._has_left:
                return
            if foreign:
                self._foreign_pause = min(self._foreign_pause * 2, MAX_FOREIGN_PAUSE)
                self._say(f"the server at {self._at} is not a Distributor: {foreign}. Is the address right?")
                await self._pause(self._foreign_pause * random.uniform(0.9, 1.1))
                continue
            what = "lost the connection" if self._was_heard else "cannot connect"
            self._say(f"{what} to the {self.where}: {cause}; trying every 3 s")
            # All nodes have lost it at this moment, so they come back one after the other. One that
            # has sent nothing may not work.
            share = self.replica.rank(self._identity.id) if self._was_heard else random.uniform(0.9, 1.1)
            await self._pause(RECONNECT * (random.random() if share is None else share))

    async def _pause(self, seconds: float) -> None:
        end = asyncio.get_running_loop().time() + seconds
        while (left := end - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(min(left, 1.0))
            self._expire()

    async def _session(self) -> str:
        """One connection, from its beginning to its end. Returns what the server is if it is no
        Distributor."""
        connecting = asyncio.open_connection(self.host, self.port)
        reader, writer = await asyncio.wait_for(connecting, CONNECT_TIME)
        self._writer = writer
        tune(writer.get_extra_info("socket"))
        self._is_v2, self._asked_at, self._patience = False, float("-inf"), SILENCE
        self.replica.connected(self._far())
        frames = FrameReader(MAX_LIST_BYTES)
        frames.joins_pieces = False
        self._register()
        begin = b""
        try:
            while True:
                data = await asyncio.wait_for(reader.read(1 << 18), self._patience)
                if not data:
                    return "" if self._was_heard else _foreign(begin)
                begin = (begin + data)[:64] if len(begin) < 64 else begin
                frames.feed(data)
                for packet in frames.packets():
                    if isinstance(packet, NotAPacket):
                        if not self._was_heard:
                            return _foreign(begin) or "what it sends is not a packet"
                        continue
                    if (foreign := self._take(packet, frames.text)) is not None:
                        return foreign
                self._expire()
        except asyncio.TimeoutError:
            foreign = "" if self._was_heard else _foreign(begin)
            if foreign:
                return foreign
            raise OSError("it gives no sign of life") from None
        except FrameTooLarge as error:
            raise OSError(str(error)) from None
        finally:
            writer.close()

    def _far(self) -> str | None:
        """The Distributor's address, if it is on another machine."""
        assert self._writer is not None
        here, there = (self._writer.get_extra_info(name) for name in ("sockname", "peername"))
        address = ip_of(there[0]) if there else None
        if address is None or is_own_host(address) or (here and ip_of(here[0]) == address):
            return None
        return f"::ffff:{address}" if address.version == 4 else str(address)

    def _register(self) -> None:
        meta: dict[str, Any] = {"secret": self._identity.secret, "packed": True}
        if self.replica.state is not None:
            epoch, rev = self.replica.state
            meta["have"] = {"epoch": epoch, "rev": rev, "digest": self.replica.digest}
        if self._description.get("loopback"):
            meta["loopback"] = True
        params = {name: value for name, value in self._description.items() if name != "loopback"}
        self._write({"uri": "/distributes", "method": "POST", "key": 0, "params": params, "$": meta})

    def _write(self, packet: dict[str, Any]) -> None:
        self._send(encode(packet))

    def _send(self, packet: bytes) -> None:
        if self._writer is None or self._writer.is_closing():
            return
        if self._writer.transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            self._writer.transport.abort()
            return
        self._writer.write(packet)

    def _take(self, packet: Any, text: str) -> str | None:
        if not isinstance(packet, dict):
            return None
        meta = packet["$"] if isinstance(packet.get("$"), dict) else None
        uri = packet.get("uri")
        if not self._was_heard and uri not in ("/distributes", "$ping"):
            return "it answers like a service" if "key" in packet else None
        if meta is not None and not self._is_v2:
            self._is_v2 = True
        elif meta is None and not self._is_v2:
            self._patience = MAX_WAIT  # of version 1, which is silent for long
        if uri == "$ping":
            self._pinged(meta or {})
        elif uri != "/distributes" or packet.get("method") not in ("GET", "PATCH"):
            pass  # of a later version
        elif meta is not None and meta.get("copy") is True:
            for part in self.replica.copy():
                self._send(seal(part))
        elif meta is not None and isinstance(meta.get("r"), str):
            self._turned_away(meta)
        else:
            self._news(packet, meta or {}, text)
        return None

    def _news(self, packet: dict[str, Any], meta: dict[str, Any], text: str) -> None:
        outcome = self.replica.take(packet, text, asyncio.get_running_loop().time())
        if outcome is Outcome.GAP:
            self._ask()
        elif outcome is Outcome.BAD:
            self._say(f"ignored a packet of the {self.where} that is not a list; what was known before stays in use")
        elif outcome is not Outcome.STALE:
            self._was_heard, self._foreign_pause = True, RECONNECT / 2
            self._asked_at = float("-inf")
            self.listed.set()
            if outcome is Outcome.CHANGED:
                self._on_change(self.replica)
        if meta.get("ack") is True:
            self._pong()
        if self._was_heard and not self.is_registered.is_set() and self._is_listed():
            self.is_registered.set()
            self._trouble = ""
            LOG.info("registered as %s with the %s", self._description["name"], self.where)

    def _is_listed(self) -> bool:
        return self.replica.rank(self._identity.id) is not None or (
            not self._is_v2
            and any(
                entry.content.get("name") == self._description["name"]
                and str(entry.content.get("port")) == str(self._description["port"])
                for entry in self.replica.entries.values()
            )
        )

    def _pinged(self, meta: dict[str, Any]) -> None:
        self._was_heard = True
        every: Any = meta.get("every")
        if is_number(every):
            self._patience = max(SILENCE, 3 * min(every, MAX_WAIT * 1000) / 1000)
        self._pong()
        is_same = self.replica.state == (meta.get("epoch"), meta.get("rev"))
        if is_same and meta.get("digest", self.replica.digest) != self.replica.digest:
            self._ask()

    def _pong(self) -> None:
        meta: dict[str, Any] = {}
        if self.replica.state is not None:
            epoch, rev = self.replica.state
            meta = {"epoch": epoch, "rev": rev, "digest": self.replica.digest}
        self._write({"uri": "$pong", "$": meta})

    def _ask(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._asked_at >= ASK_AGAIN:
            self._asked_at = now
            self._write({"uri": "/distributes", "method": "GET", "key": 1, "$": {}})

    def _turned_away(self, meta: dict[str, Any]) -> None:
        status, word = meta.get("s"), meta["r"]
        retry: Any = meta.get("ra")
        if word == "not_yours":
            self.is_registered.clear()
            self._say(
                f"the {self.where} does not list this node: it says that its instance id belongs to another process. "
                "Start this one anew, which makes a new id"
            )
            self._later(NOT_YOURS_PAUSE, self._register)
            return
        self._say(f"the {self.where} says: {shown(word)}: {shown(meta.get('m', ''), 256)}")
        is_failure = isinstance(status, int) and status >= 400
        if is_failure and is_number(retry) and retry >= 0:
            # The moment is random, because otherwise all refused nodes would come back together.
            wait = max(min(retry, MAX_WAIT * 1000) / 1000, 0.05) * random.uniform(1, 2)
            self._later(wait, self._register)

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        """Acts on this connection later, unless it has ended by then."""
        writer = self._writer

        def due() -> None:
            self._timers.discard(timer)
            if writer is self._writer and not self._has_left:
                act()

        timer = asyncio.get_running_loop().call_later(seconds, due)
        self._timers.add(timer)

    def _expire(self) -> None:
        if self.replica.expire(asyncio.get_running_loop().time()):
            self._on_change(self.replica)

    def _say(self, text: str) -> None:
        # Not at each try.
        if text != self._trouble:
            LOG.warning("%s", text)
        self._trouble = text


def _foreign(begin: bytes) -> str:
    """What kind of server sends these first bytes, if it is not a Distributor."""
    text = begin[:16].decode("latin-1").lstrip()
    if not text or text[0] in "{\u00c2":
        return ""
    if text.startswith(("HTTP", "<")):
        return "it speaks HTTP"
    if text.startswith("\x15\x03"):
        return "it speaks TLS"
    if text.startswith("SSH-"):
        return "it speaks SSH"
    return "what it sends is not a packet"
