"""The wire: how packets are cut from a stream, and JSON that is read strictly.

A packet is one JSON object in UTF-8, ended by ``¶``. Nothing here knows sockets.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from typing import Any, Iterator

DELIMITER = b"\xc2\xb6"
"""``¶`` in UTF-8. It ends every packet."""

MAX_FRAME_BYTES = 8 << 20
"""Maximum bytes of a call or an answer: every node accepts as many. Larger data belongs into a
stream."""

MAX_PAYLOAD_BYTES = MAX_FRAME_BYTES - 4096
"""Maximum bytes of an event, or of a part of a stream. With its envelope it makes a packet that
every node can read."""

MAX_PIECES = 16
"""Maximum number of pieces into which a version 1 writer may cut a packet by a raw ``¶`` in a text.
Each further piece would be parsed again with all that came before it."""

MAX_JOINED_BYTES = 65_536
"""Maximum bytes of such pieces together: version 1 readers accept no larger packet."""

LEGACY_READ_BYTES = 65_536
"""What one read of a version 1 peer takes. Such a peer dies of a packet in two reads."""

MAX_LEGACY_KEY = (1 << 31) - 1
"""Keys of calls to version 1 nodes stay at or below this: version 1 services may keep them in a
signed number of 32 bits."""

SHOWN_CHARS = 128
"""Characters of foreign text that a log line shows."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_SPACE = re.compile(r"[ \t\r\n]*")
_OWN_MEMBERS = ('"uri"', '"method"', '"key"', '"$"', '"params"', '"errorcode"', '"results"')


class NotAPacket(ValueError):
    """A frame is not one JSON value in UTF-8, or has a member twice."""


class FrameTooLarge(Exception):
    """The rest of the stream cannot be read."""


def _no_constant(name: str) -> Any:
    raise NotAPacket(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def _plain(value: Any) -> Any:
    """The JSON form of a value that the ``json`` module does not know."""
    fields = getattr(value, "__dataclass_fields__", None)
    if fields is not None and not isinstance(value, type):
        return {name: getattr(value, name) for name in fields}
    raise TypeError(f"a {type(value).__name__} has no JSON form")


def to_json(value: Any) -> str:
    """JSON text without white space. Data classes become objects.

    Raises ``TypeError`` or ``ValueError`` when the value has no JSON form.
    """
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_plain)
    except RecursionError:
        raise ValueError("it is nested too deeply, or contains itself") from None


def seal(text: str) -> bytes:
    """The bytes of a packet. In JSON a ``¶`` can only stand in a text, where its escape means the
    same. Lone surrogates, which have no UTF-8, are escaped too."""
    try:
        return text.replace("¶", "\\u00b6").encode() + DELIMITER
    except UnicodeEncodeError:
        return seal(_SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def encode(packet: Any) -> bytes:
    """A packet, ready to send."""
    return seal(to_json(packet))


def parse(text: str) -> Any:
    """Reads one JSON value. Raises :class:`NotAPacket`, also for an object with a member twice: two
    readers must not understand it in two ways."""
    try:
        value = _DECODER.decode(text)
        if isinstance(value, dict) and _may_have_doubles(text):
            names = [name for name, _, _ in members(text)]
            if len(names) != len(set(names)):
                raise NotAPacket("it has a member twice")
    except (ValueError, RecursionError) as error:
        raise NotAPacket(str(error)) from None
    return value


def decode(frame: bytes) -> Any:
    """As :func:`parse`, for the bytes of a frame."""
    try:
        return parse(frame.decode())
    except UnicodeDecodeError:
        raise NotAPacket("it is not UTF-8") from None


def _may_have_doubles(text: str) -> bool:
    # Names may be written with escapes. Other members than our own mean nothing, however often.
    return "\\u" in text or any(text.count(name) > 1 for name in _OWN_MEMBERS)


def members(text: str, at: int = 0) -> list[tuple[str, Any, str]]:
    """The members of a JSON object: name, value, and the text of the value as it came."""
    found: list[tuple[str, Any, str]] = []
    at = _after(text, at, "{")
    if text.startswith("}", at):
        return found
    while True:
        name, at = _DECODER.raw_decode(text, at)
        at = _after(text, at, ":")
        value, end = _DECODER.raw_decode(text, at)
        found.append((name, value, text[at:end]))
        at = _skip(text, end)
        if text.startswith("}", at):
            return found
        at = _after(text, at, ",")


def items(text: str, at: int = 0) -> list[tuple[Any, str]]:
    """The items of a JSON array: each value, and its text as it came."""
    found: list[tuple[Any, str]] = []
    at = _after(text, at, "[")
    if text.startswith("]", at):
        return found
    while True:
        value, end = _DECODER.raw_decode(text, at)
        found.append((value, text[at:end]))
        at = _skip(text, end)
        if text.startswith("]", at):
            return found
        at = _after(text, at, ",")


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _after(text: str, at: int, char: str) -> int:
    at = _skip(text, at)
    if not text.startswith(char, at):
        raise NotAPacket(f"{char} was due at {at}")
    return _skip(text, at + 1)


def shown(text: object, most: int = SHOWN_CHARS) -> str:
    """Foreign text for a log or an error: cut to a length, and without characters that a terminal
    acts on."""
    whole = str(text)
    begin = _UNSAFE.sub(lambda found: f"\\u{{{ord(found[0]):x}}}", whole[:most])
    return f"{begin}…" if len(whole) > most else begin


class FrameReader:
    """Cuts a stream of bytes into frames. Bytes stay bytes until a frame is whole: a read may end
    in the middle of a character or of the delimiter."""

    def __init__(self, limit: int = MAX_FRAME_BYTES, joins_pieces: bool = True) -> None:
        self.limit = limit
        self.joins_pieces = joins_pieces
        """Writers of version 1 do not escape ``¶``. Their pieces are joined until this is false."""
        self.pieces = 1
        """How many pieces the last packet was joined of."""
        self.text = ""
        """The text of the last packet."""
        self._buffer = bytearray()
        self._start = 0
        self._searched = 0
        self._pieces: list[str] = []
        self._piece_bytes = 0
        self._piece_is_lost = False

    def feed(self, data: bytes) -> None:
        """Adds bytes that were read."""
        if self._start:
            # Room is made once for many frames that were handed on.
            del self._buffer[: self._start]
            self._searched -= self._start
            self._start = 0
        self._buffer += data

    def __len__(self) -> int:
        """The bytes that were not handed on yet."""
        return len(self._buffer) - self._start + self._piece_bytes

    def packets(self) -> Iterator[Any]:
        """The packets that are whole. A frame that is not one is given as a :class:`NotAPacket`;
        blank frames are skipped.

        Raises :class:`FrameTooLarge`.
        """
        while (frame := self._next_frame()) is not None:
            waited = bool(self._pieces)
            packet = self._packet(frame)
            if waited and self._piece_is_lost:
                yield NotAPacket("the rest of a packet that was cut has not come")
            if packet is not _NOTHING:
                yield packet

    def frames(self) -> Iterator[bytes]:
        """The frames that are whole, unread."""
        while (frame := self._next_frame()) is not None:
            yield frame

    def has_more(self) -> bool:
        """Whether there is a whole frame, or one that is too large."""
        return self._find() >= 0 or len(self._buffer) - self._start > self.limit

    def drop_pieces(self) -> bool:
        """Gives up waiting for the rest of a packet that was cut. Returns whether there was one."""
        waited = bool(self._pieces)
        self._pieces, self._piece_bytes = [], 0
        return waited

    def _find(self) -> int:
        end = self._buffer.find(DELIMITER, max(self._start, self._searched))
        # The last byte may be the first half of the delimiter: it is looked at again.
        self._searched = end if end >= 0 else max(len(self._buffer) - 1, self._start)
        return end

    def _next_frame(self) -> bytes | None:
        end = self._find()
        if (end if end >= 0 else len(self._buffer)) - self._start > self.limit:
            raise FrameTooLarge(f"a frame is longer than {self.limit} bytes")
        if end < 0:
            if self._start == len(self._buffer):
                # An idle connection holds no memory.
                self._buffer = bytearray()
                self._start = self._searched = 0
            return None
        frame = bytes(memoryview(self._buffer)[self._start : end])
        self._start = self._searched = end + len(DELIMITER)
        return frame

    def _packet(self, frame: bytes) -> Any:
        self.pieces = 1
        self._piece_is_lost = False
        try:
            text = frame.decode()
        except UnicodeDecodeError:
            waited = self.drop_pieces()
            return NotAPacket("it is not UTF-8" + (", and cuts a packet" if waited else ""))
        if self._pieces:
            joined = self._join(text, len(frame))
            if joined is not None:
                return joined
        if not text.strip(" \t\r\n"):
            return _NOTHING
        try:
            packet = parse(text)
            self.text = text
            return packet
        except NotAPacket as error:
            if self.joins_pieces and _may_be_piece(text) and len(frame) < MAX_JOINED_BYTES:
                self._pieces, self._piece_bytes = [text], len(frame)
                return _NOTHING
            return error

    def _join(self, text: str, size: int) -> Any:
        """Takes a frame as the next piece of a packet that was cut. ``None`` when it is a frame by
        itself."""
        total = self._piece_bytes + len(DELIMITER) + size
        if total <= MAX_JOINED_BYTES and not _is_sound(text):
            pieces = [*self._pieces, text]
            joined = "¶".join(pieces)
            try:
                packet = parse(joined)
            except NotAPacket:
                if _ends_in_text(joined) and len(pieces) < MAX_PIECES:
                    self._pieces, self._piece_bytes = pieces, total
                    return _NOTHING
            else:
                self._pieces, self._piece_bytes = [], 0
                self.pieces, self.text = len(pieces), joined
                return packet
        self._piece_is_lost = self.drop_pieces()
        return None


_NOTHING = object()


def _may_be_piece(text: str) -> bool:
    return text.lstrip(" \t\r\n").startswith("{") and _ends_in_text(text)


def _ends_in_text(text: str) -> bool:
    """Whether a text of JSON has begun and not ended."""
    return re.sub(r"\\.", "", text, flags=re.DOTALL).count('"') % 2 == 1


def _is_sound(text: str) -> bool:
    """Whether a frame is a packet by itself, and no piece of a text, in which all quotes would be
    escaped."""
    try:
        return '"' in text and isinstance(parse(text), dict)
    except NotAPacket:
        return False


def checksum(text: bytes) -> int:
    """The CRC-32 of zlib, of which digests and rendezvous scores are made."""
    return zlib.crc32(text)


def key_and_params(packet: dict[str, Any], is_v2: bool) -> tuple[Any, Any]:
    """The key of a call, and its arguments without the key that version 1 callers put there."""
    key, params = packet.get("key"), packet.get("params")
    if is_v2:
        # In version 2 a `key` among the arguments is an argument.
        return (key if _is_key(key) else None), params
    if isinstance(params, str):
        # Version 1 nodes send their logs so. An answer would crash them.
        return None, params
    if isinstance(params, dict):
        inner = params.get("key")
        key = key if _is_key(key) else inner
        params = {name: value for name, value in params.items() if name != "key"}
    return (key if _is_key(key) else None), params


def _is_key(key: Any) -> bool:
    if isinstance(key, float):
        return math.isfinite(key)
    return isinstance(key, (int, str)) and not isinstance(key, bool)


def is_count(value: Any) -> bool:
    """Whether a member is a whole number that is not negative."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_number(value: Any) -> bool:
    """Whether a member is a number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
