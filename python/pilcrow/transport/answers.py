"""Answers to calls, in the form of either version."""

from __future__ import annotations

from typing import Any, Sequence

from ..errors import Refused, ServiceError
from ..wire import is_number, seal, to_json

MAX_RETRY_MS = 3_600_000
"""The longest wait that a node may ask for: longer ones count as this."""


def failure_of(packet: Any) -> Refused | None:
    """Why an answer is a failure; none if it is not."""
    if packet is None:
        return Refused(501, "old_error", "the node does not know the method")
    meta = packet.get("$")
    if meta is not None:
        meta = meta if isinstance(meta, dict) else {}
        status = meta.get("s", 200)
        # A status that cannot be read does not count as success.
        status = status if isinstance(status, int) and 100 <= status <= 999 else 502
        if status < 400:
            return None
        reason, message = meta.get("r"), meta.get("m")
        retry: Any = meta.get("ra")
        retry_after = min(retry, MAX_RETRY_MS) / 1000 if is_number(retry) else None
        return Refused(status, _text(reason) or "old_error", _text(message), retry_after)
    codes = (packet.get("errorcode"), packet.get("errorCode"))
    code = next((one for one in codes if one not in (None, 0, "0", "", False)), None)
    if code is None:
        return None
    text = str(code)
    status = int(text) if len(text) == 3 and text.isascii() and text.isdigit() else 500
    status = status if 400 <= status <= 599 else 500
    is_word = bool(text) and all(char.isascii() and (char.isalnum() or char == "_") for char in text)
    message = packet.get("errormessage", packet.get("errorMessage"))
    said = message if isinstance(message, str) else "" if message is None else str(message)
    return Refused(status, f"errorcode_{text.lower()}" if is_word else "errorcode", said)


def result_of(packet: dict[str, Any]) -> Any:
    """The result of an answer that is not a failure. Of version 1 it is ``results`` if nothing else
    is there, and otherwise an object of all that is not the answer's own."""
    if packet.get("$") is not None:
        return packet.get("params")
    data = {}
    for name, value in packet.items():
        if name in ("key", "errorcode", "errorCode", "$"):
            continue
        # Some services put their data here. A text is for people.
        if name in ("errormessage", "errorMessage") and (value is None or isinstance(value, str)):
            continue
        data[name] = value
    if len(data) == 1 and next(iter(data)) in ("results", "errormessage", "errorMessage"):
        return next(iter(data.values()))
    return data or None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def success_packet(head: str, is_v2: bool, status: int, text: str, fields: Sequence[tuple[str, str]]) -> bytes:
    """The answer with a result, which is JSON text. ``head`` is the beginning of the packet, with its
    key; ``fields`` are header fields for a gateway."""
    if not is_v2:
        return seal(f'{head},"errorcode":0,"errormessage":"success","results":{text}}}')
    said = [] if status == 200 else [f'"s":{status}']
    if fields:
        said.append(f'"h":{to_json(fields)}')
    return seal(f'{head},"$":{{{",".join(said)}}},"params":{text}}}')


def failure_packet(head: str, is_v2: bool, error: ServiceError, fields: Sequence[tuple[str, str]]) -> bytes:
    """The answer that says why there is no result."""
    if not is_v2:
        return seal(f'{head},"errorcode":{error.status},"errormessage":{to_json(error.message)}}}')
    said = [f'"s":{error.status},"r":{to_json(error.reason)},"m":{to_json(error.message)}']
    if error.retry_after is not None:
        said.append(f'"ra":{max(int(error.retry_after * 1000 + 0.999), 0)}')
    if fields:
        said.append(f'"h":{to_json(fields)}')
    return seal(f'{head},"$":{{{",".join(said)}}}}}')
