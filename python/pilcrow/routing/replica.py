"""What a node knows of the registry: entries, by the rules of docs/PROTOCOL.md.

Changes are applied in order and without gaps, and a restarted Distributor that knows less makes it
forget nothing. Nothing here knows sockets; time is an argument, in seconds.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any, Iterable

from ..transport.sockets import ip_of, is_own_host
from ..wire import NotAPacket, checksum, items, members

MAX_UNPACKED_BYTES = 16 << 20
"""Bytes of the packed entries of one packet: twice the limit of a Distributor. A small packet must
not become a large one without end."""

MAX_BLOCKS = 4096
"""Packed blocks of one packet. A Distributor makes blocks of 4 KiB and more."""

RETENTION = 11.0
"""How long nodes are kept that a restarted version 1 Distributor does not list yet: it does not say
when it knows all."""

COPY_BYTES = 32 * 1024
"""Bytes of entries in one packet of a copy, which must stay below 64 KiB."""


class Outcome(Enum):
    """What a list or a change has led to."""

    CHANGED = "changed"
    SAME = "same"
    STALE = "stale"
    """It is older than what is known."""
    GAP = "gap"
    """Changes are missing before it, or its digest is another: the list is needed."""
    BAD = "bad"
    """It is neither a list nor a change."""


@dataclass(frozen=True)
class Entry:
    """A node of the list."""

    id: int
    content: dict[str, Any]
    text: str
    checksum: int

    @property
    def meta(self) -> dict[str, Any]:
        """Its ``$``; empty in version 1."""
        meta = self.content.get("$")
        return meta if isinstance(meta, dict) else {}

    @property
    def instance(self) -> str | None:
        """Its instance id."""
        instance = self.meta.get("id")
        return instance if isinstance(instance, str) else None

    @cached_property
    def address(self) -> str | None:
        """The address ``host:port`` as Rust writes it, by which sticky keys are placed; none if
        there is none. It is made once: reading an address costs far more than all else that is
        done with an entry at each change."""
        address, port = ip_of(self.content.get("host")), self.content.get("port")
        if isinstance(port, str) and port.isascii() and port.isdigit():
            port = int(port[:6])
        if address is None or not isinstance(port, int) or isinstance(port, bool) or not 0 < port < 65536:
            return None
        return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"

    @property
    def where(self) -> tuple[Any, Any]:
        """Host and port, as they are listed."""
        return self.content.get("host"), self.content.get("port")


class Replica:
    """A copy of the list."""

    def __init__(self) -> None:
        self.state: tuple[int, int] | None = None
        """Epoch and revision; none before the first list, and with a Distributor of version 1."""
        self.entries: dict[int, Entry] = {}
        self.digest = 0
        self.suspects: set[int] = set()
        self.has_list = False
        self._kept: dict[tuple[Any, Any], tuple[Entry, float]] = {}
        """Not listed any more, but not reported to have left either."""
        self._is_fresh = False
        self._far: str | None = None

    def connected(self, far: str | None) -> None:
        """A connection begins. ``far`` is the Distributor's address if it is on another machine."""
        self._is_fresh, self._far = True, far

    def disconnected(self) -> None:
        """The connection has ended. Without a Distributor nothing says that nodes have left."""
        self._is_fresh = False
        self._kept = {where: (entry, float("inf")) for where, (entry, _) in self._kept.items()}

    def nodes(self) -> list[Entry]:
        """All nodes, listed or kept."""
        return [*self.entries.values(), *(entry for entry, _ in self._kept.values())]

    def read_windows(self) -> dict[str, int]:
        """By host, what its version 1 peers say that they can read. It is not known which of them
        calls, so the smallest number counts."""
        windows: dict[str, int] = {}
        for entry in self.nodes():
            if not isinstance(entry.content.get("$"), dict):
                host, said = str(ip_of(entry.content.get("host"))), entry.content.get("readWindow")
                window: int = said if _is_id(said) else 0  # type: ignore[assignment]
                windows[host] = min(window, windows.get(host, window))
        return windows

    def rank(self, instance: str) -> float | None:
        """The position of an instance among all, from 0 to less than 1; none if it is not
        listed."""
        for at, entry in enumerate(self.entries.values()):
            if entry.instance == instance:
                return at / len(self.entries)
        return None

    def take(self, packet: dict[str, Any], text: str, now: float) -> Outcome:
        """Applies a list or a change."""
        meta = packet.get("$")
        stamp = meta if isinstance(meta, dict) and _is_id(meta.get("epoch")) and _is_id(meta.get("rev")) else None
        try:
            raw = {name: value for name, _, value in members(text)}
            if packet.get("method") == "PATCH":
                return self._take_change(stamp, packet, raw)
            listed = packet.get("params")
            if not isinstance(listed, list):
                return Outcome.BAD
            ids = range(len(listed)) if stamp is None else stamp.get("ids", [])
            entries = self._entries(ids, items(raw["params"]), (stamp or {}).get("packed"))
            return self._replace(stamp, entries, now)
        except (NotAPacket, ValueError, KeyError, TypeError, AttributeError, RecursionError, zlib.error):
            return Outcome.BAD

    def _take_change(self, stamp: dict[str, Any] | None, packet: dict[str, Any], raw: dict[str, str]) -> Outcome:
        if stamp is None:
            return Outcome.BAD
        parts = {name: value for name, _, value in members(raw["params"])}
        joined = self._entries(stamp.get("ids", []), items(parts["joined"]), stamp.get("packed"))
        left = {one["id"] for one in packet["params"]["left"]}
        return self._change(stamp, joined, left)

    def _entries(self, ids: Iterable[Any], listed: list[tuple[Any, str]], packed: Any) -> dict[int, Entry]:
        ids, listed, room = list(ids), list(listed), MAX_UNPACKED_BYTES
        blocks = [] if packed is None else packed
        if len(blocks) > MAX_BLOCKS:
            raise ValueError("too many blocks")
        for block in blocks:
            text = _unpack(block, room)
            room -= len(text)
            raw = {name: (value, part) for name, value, part in members(text)}
            ids += raw["ids"][0]
            listed += items(raw["entries"][1])
        if len(ids) != len(listed) or not all(_is_id(one) for one in ids):
            raise ValueError("there is not one id for each entry")
        found = {}
        for at, (content, text) in zip(ids, listed):
            if isinstance(content, dict):
                found[at] = Entry(at, self._resolved(content), text, checksum(f"{at}:{text}".encode()))
        return found

    def _resolved(self, content: dict[str, Any]) -> dict[str, Any]:
        """A Distributor on another machine lists nodes of its own machine with a loopback host,
        which would lead to ours."""
        if self._far is not None and is_own_host(content.get("host")):
            return {**content, "host": self._far}
        return content

    def _replace(self, stamp: dict[str, Any] | None, entries: dict[int, Entry], now: float) -> Outcome:
        if stamp is not None and self.state is not None:
            at = (stamp["epoch"], stamp["rev"])
            is_same_epoch = at[0] == self.state[0]
            # A new connection may lead to another Distributor. One connection leads to the same.
            if at < self.state and (is_same_epoch or not self._is_fresh):
                return Outcome.STALE
        digest = _digest(entries)
        if stamp is not None and stamp.get("digest", digest) != digest:
            return Outcome.GAP
        until = None
        if stamp is not None and stamp.get("warming") is True:
            until = float("inf")
        elif stamp is None and self._is_fresh and self.has_list:
            until = now + RETENTION
        kept: dict[tuple[Any, Any], tuple[Entry, float]] = {}
        for entry, own in [*self._kept.values(), *((entry, float("inf")) for entry in self.entries.values())]:
            goes = own if stamp is None and own < float("inf") else until
            if goes is not None:
                kept[entry.where] = (entry, goes)
        for entry in entries.values():
            kept.pop(entry.where, None)
        suspects = _ids_of(stamp, "suspect")
        before = (self.digest, len(self.entries), set(self._kept), self.suspects, self.has_list)
        self.state = None if stamp is None else (stamp["epoch"], stamp["rev"])
        self.entries, self.digest, self._kept, self.suspects = entries, digest, kept, suspects
        self._is_fresh, self.has_list = False, True
        after = (digest, len(entries), set(kept), suspects, True)
        return Outcome.SAME if before == after else Outcome.CHANGED

    def _change(self, stamp: dict[str, Any], joined: dict[int, Entry], left: set[int]) -> Outcome:
        begins = (stamp.get("was", stamp["epoch"]), stamp.get("base"))
        if self.state is None or self.state != begins:
            known = self.state
            is_old = known is not None and stamp["epoch"] == known[0] and stamp["rev"] <= known[1]
            return Outcome.STALE if is_old else Outcome.GAP
        entries = {at: entry for at, entry in self.entries.items() if at not in left}
        entries.update(joined)
        digest = _digest(entries)
        if stamp.get("digest", digest) != digest:
            return Outcome.GAP
        for entry in joined.values():
            self._kept.pop(entry.where, None)
        is_warm = stamp.get("warming") is not True
        suspects = _ids_of(stamp, "suspect")
        if stamp.get("was", stamp["epoch"]) == stamp["epoch"]:
            # A Distributor does not know whom its predecessor suspected: then it names all of them.
            suspects |= self.suspects - _ids_of(stamp, "trusted")
        suspects &= entries.keys()
        same = not joined and not left and suspects == self.suspects and not (is_warm and self._kept)
        if is_warm:
            self._kept.clear()
        self.state = (stamp["epoch"], stamp["rev"])
        self.entries, self.digest, self.suspects, self._is_fresh = entries, digest, suspects, False
        return Outcome.SAME if same else Outcome.CHANGED

    def expire(self, now: float) -> bool:
        """Removes kept nodes whose time is over. Returns whether there were any."""
        over = [where for where, (_, until) in self._kept.items() if until <= now]
        for where in over:
            del self._kept[where]
        return bool(over)

    def copy(self) -> list[str]:
        """The packets in which a Distributor that has just started is handed what is known."""
        if self.state is None:
            return []
        parts: list[list[Entry]] = [[]]
        size = 0
        for entry in self.entries.values():
            if parts[-1] and size + len(entry.text.encode()) > COPY_BYTES:
                parts.append([])
                size = 0
            parts[-1].append(entry)
            size += len(entry.text.encode())
        epoch, rev = self.state
        packets = []
        for at, part in enumerate(parts):
            meta = {"epoch": epoch, "rev": rev, "digest": self.digest, "more": at + 1 < len(parts)}
            meta["ids"] = [entry.id for entry in part]  # type: ignore[assignment]
            texts = ",".join(entry.text for entry in part)
            head = '{"uri":"/distributes","method":"PUT","key":0,"params":'
            packets.append(f'{head}[{texts}],"$":{json.dumps(meta)}}}')
        return packets


def _digest(entries: dict[int, Entry]) -> int:
    """The same for the same entries in any order."""
    return sum(entry.checksum for entry in entries.values()) % (1 << 32)


def _ids_of(stamp: dict[str, Any] | None, name: str) -> set[int]:
    ids = (stamp or {}).get(name)
    return {one for one in ids if _is_id(one)} if isinstance(ids, list) else set()


def _unpack(block: Any, room: int) -> str:
    try:
        packed = base64.b64decode(block, validate=True)
    except (binascii.Error, TypeError) as error:
        raise ValueError(str(error)) from None
    inflater = zlib.decompressobj()
    text = inflater.decompress(packed, room + 1)
    if len(text) > room or not inflater.eof:
        raise ValueError("the entries are too large, or cut")
    if "¶" in (whole := text.decode()):
        # In a copy it would end the packet.
        raise ValueError("a ¶ is not escaped")
    return whole


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
