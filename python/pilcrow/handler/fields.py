"""Header fields and cookies that a handler gives to the client of a gateway."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, Mapping, Sequence, Union

from ..wire import shown

MAX_FIELDS = 64
"""Maximum number of header fields of one answer. A gateway leaves out more."""

MAX_FIELD_BYTES = 32 * 1024
"""Maximum bytes of their names and values together."""

Fields = list[tuple[str, str]]
"""Names and values of header fields, in their order."""

_TOKEN = re.compile("[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f]")
_COOKIE_VALUE = re.compile(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*")  # RFC 6265, 4.1.1


def checked_name(name: object) -> str:
    """The name of a header field. Raises ``ValueError`` for what none can have."""
    if not isinstance(name, str) or not _TOKEN.fullmatch(name):
        raise ValueError(f"{shown(name)} is not the name of a header field")
    return name


@dataclass(frozen=True)
class Cookie:
    """A cookie for a client. Unless told otherwise, scripts cannot read it, other sites cannot send
    it along, and it is sent over TLS only if the client speaks TLS now."""

    value: str
    """Characters of RFC 6265 only: encode others, such as by ``urllib.parse.quote``."""
    max_age: int | None = None
    """How long the client keeps it, in seconds; until the browser closes unless set."""
    path: str = "/"
    """It is sent with this path and those below it."""
    domain: str | None = None
    """It is sent to this domain and those below it; to its host alone unless set."""
    same_site: Literal["strict", "lax", "none"] = "lax"
    """Which requests that other sites cause it is sent with."""
    http_only: bool = True
    """Whether scripts of the page cannot read it."""
    secure: bool | None = None
    """Whether it is sent over TLS only; unless set, that is so if the client speaks TLS now."""

    def __post_init__(self) -> None:
        if not _COOKIE_VALUE.fullmatch(self.value):
            text = "the value of a cookie has a character that a cookie cannot have"
            raise ValueError(f"{text}: encode it, such as by urllib.parse.quote")
        if self.same_site not in ("strict", "lax", "none"):
            raise ValueError(f"same_site of a cookie is strict, lax or none, and not {shown(self.same_site)}")
        if ";" in self.path or ";" in (self.domain or ""):
            raise ValueError("path and domain of a cookie have no ;")
        if self.max_age is not None and self.max_age < 0:
            raise ValueError("max_age of a cookie is 0 or more")

    def _text(self, name: str, is_https: bool) -> str:
        parts = [f"{name}={self.value}", f"Path={self.path}"]
        if self.domain is not None:
            parts.append(f"Domain={self.domain}")
        if self.max_age is not None:
            parts.append(f"Max-Age={int(self.max_age)}")
        parts.append(f"SameSite={self.same_site.capitalize()}")
        if self.http_only:
            parts.append("HttpOnly")
        # Browsers require it with `none`.
        if self.same_site == "none" or (is_https if self.secure is None else self.secure):
            parts.append("Secure")
        return "; ".join(parts)


Headers = Mapping[str, Union[str, Sequence[str]]]
"""Header fields by name; a list for several of one name."""

Cookies = Mapping[str, Union[str, Cookie, None]]
"""Cookies by name; ``None`` has the client forget one."""


class ClientFields:
    """Header fields and cookies for the client of a gateway."""

    def __init__(self, headers: Headers | None, cookies: Cookies | None, content_type: str | None = None) -> None:
        self._fields: Fields = [] if content_type is None else [("content-type", content_type)]
        for name, values in (headers or {}).items():
            for value in [values] if isinstance(values, str) else values:
                self._fields.append((checked_name(name).lower(), str(value)))
        self._cookies: list[tuple[str, Cookie]] = []
        for name, cookie in (cookies or {}).items():
            if not _TOKEN.fullmatch(name):
                raise ValueError(f"{shown(name)} is not the name of a cookie")
            if not isinstance(cookie, Cookie):
                cookie = Cookie("", max_age=0) if cookie is None else Cookie(cookie)
            self._cookies.append((name, cookie))
        every = self.pairs(True)
        for name, value in every:
            if _CONTROL.search(value):
                raise ValueError(f"the header field {name} has a line break or another control character")
        size = sum(len(name) + len(value.encode()) for name, value in every)
        if len(every) > MAX_FIELDS or size > MAX_FIELD_BYTES:
            raise ValueError(f"an answer has {MAX_FIELDS} header fields and {MAX_FIELD_BYTES} bytes of them at most")

    def pairs(self, is_https: bool) -> Fields:
        """Names and values, for a client that speaks TLS or does not."""
        return self._fields + [("set-cookie", cookie._text(name, is_https)) for name, cookie in self._cookies]

    def __bool__(self) -> bool:
        return bool(self._fields or self._cookies)
