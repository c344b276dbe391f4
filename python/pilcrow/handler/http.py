"""HTTP in calls: what a handler reads of the request of a gateway's client, and what it gives to the
client. See "HTTP in calls" in docs/PROTOCOL.md."""

from __future__ import annotations

import re
from typing import Any, Iterable, Iterator, Mapping, Sequence
from urllib.parse import quote

from ..errors import ServiceError
from ..wire import shown
from .fields import ClientFields, Cookies, Fields, Headers, checked_name

MAX_WANTED = 32
"""Maximum number of header fields that one route reads: each is looked for in each request."""

MAX_NAME_CHARS = 64
"""Maximum characters of the name of such a field. Known fields have fewer than 40."""

REDIRECTIONS = (301, 302, 303, 307, 308)
"""The statuses that send a client elsewhere."""

_JSON_TYPE = re.compile(r"application/([\w.+-]+\+)?json\b", re.IGNORECASE)


class HttpRequest:
    """The request of a client, for which a gateway makes a call. A handler has it as a parameter
    with this annotation, or as :attr:`Call.request`. It is what the gateway and the client say."""

    def __init__(self, said: Mapping[str, Any], wanted: Sequence[str]) -> None:
        def text(name: str) -> str:
            value = said.get(name)
            return value if isinstance(value, str) else ""

        self._wanted = wanted
        self.method = text("m")
        """The method of the request: HEAD also calls a route of GET."""
        self.target = text("t")
        """Path and query as the client has sent them, with their escapes."""
        self.path, has_query, query = self.target.partition("?")
        self.query: str | None = query if has_query else None
        """What stands behind ``?``."""
        self.host = text("o")
        """The host that the client names, with a port if it names one; empty if none."""
        self.is_https = said.get("s") is True
        """Whether the client speaks TLS, with the gateway or with a trusted proxy in front of it."""
        self.client_address = text("a")
        """The address of the client, IPv4 or IPv6."""
        self.id = text("id")
        """The id of the request, which is also in the gateway's log."""
        self.headers: Fields = _pairs(said.get("h"))
        """Names, in small letters, and values of the header fields that the route reads."""

    def header(self, name: str) -> str | None:
        """The first value of a header field, in any case of letters.

        Raises ``RuntimeError`` if the route does not name the field.
        """
        return next(self._values(name.lower()), None)

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies of the client, by name. They are what the client says.

        Raises ``RuntimeError`` if the route does not name the header field ``cookie``.
        """
        cookies: dict[str, str] = {}
        # HTTP/2 may divide the field.
        for pair in ";".join(self._values("cookie")).split(";"):
            name, is_pair, value = pair.partition("=")
            name, value = name.strip(), value.strip()
            if len(value) > 1 and value[0] == value[-1] == '"':
                value = value[1:-1]
            # Of several of one name the first counts, which browsers send for the longest path.
            if is_pair and name:
                cookies.setdefault(name, value)
        return cookies

    def _values(self, name: str) -> Iterator[str]:
        if name not in self._wanted:
            raise RuntimeError(
                f"the route reads the header field {name} and does not name it: write headers=['{name}'] in @node.route"
            )
        return (value for other, value in self.headers if other.lower() == name)


def _pairs(listed: Any) -> Fields:
    if not isinstance(listed, list):
        return []
    is_sound = all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair) for pair in listed
    )
    return [(name, value) for name, value in listed] if is_sound else []


def request_of(meta: Mapping[str, Any], wanted: Sequence[str] | None) -> HttpRequest | None:
    """The request that a call has in its ``$``, for a route that reads these header fields."""
    said = meta.get("q")
    return HttpRequest(said, wanted) if wanted is not None and isinstance(said, dict) else None


def not_http() -> ServiceError:
    """The handler needs the request of a client, and a node has made the call itself."""
    return ServiceError(400, "not_http", "this route answers HTTP requests that come through a gateway")


def wanted_headers(names: Iterable[str]) -> tuple[str, ...]:
    """The names of header fields that a route reads, in small letters, each once. Raises
    ``ValueError``."""
    if isinstance(names, str):
        raise ValueError("a list of names is due, such as ['cookie']; [] for none of them")
    wanted = sorted({checked_name(name).lower() for name in names})
    for name in wanted:
        if len(name) > MAX_NAME_CHARS:
            raise ValueError(f"{shown(name)} has more than {MAX_NAME_CHARS} characters")
    if len(wanted) > MAX_WANTED:
        raise ValueError(f"there are {len(wanted)}; a route reads {MAX_WANTED} at most")
    return tuple(wanted)


class HttpResponse:
    """A result with a status, header fields, cookies or a media type of its own::

        return HttpResponse(order, status=201, headers={"location": "/orders/7"})

    The client of a gateway gets all of it; a caller that is a node gets the status and the
    result."""

    def __init__(
        self,
        result: Any = None,
        *,
        status: int = 200,
        headers: Headers | None = None,
        cookies: Cookies | None = None,
        content_type: str | None = None,
    ) -> None:
        """``status`` is from 200 to 399; with a ``content_type`` to 599, for pages about errors. 204
        and 304 have no body. If ``content_type`` is not JSON, the result is a ``str``, and that text
        is the body.

        Raises ``ValueError`` for what a response cannot have.
        """
        most = 399 if content_type is None else 599
        if not 200 <= status <= most:
            raise ValueError(f"a result has a status from 200 to {most}, and not {status}: raise a ServiceError")
        if content_type is not None and not isinstance(result, str) and not _JSON_TYPE.match(content_type):
            raise ValueError(f"the body of a response of type {content_type} is a text")
        self.status = status
        self.result = result
        self.fields = ClientFields(headers, cookies, content_type)


class Text(HttpResponse):
    """A plain text as the body. A caller that is a node gets it as a JSON text."""

    def __init__(self, text: str, **options: Any) -> None:
        super().__init__(text, **{"content_type": "text/plain; charset=utf-8", **options})


class Html(HttpResponse):
    """A page of HTML as the body. Texts of others that stand in it have to be escaped."""

    def __init__(self, text: str, **options: Any) -> None:
        super().__init__(text, **{"content_type": "text/html; charset=utf-8", **options})


class Redirect(HttpResponse):
    """Sends the client elsewhere. 303: it gets that page with GET, as after a form was sent; 307 and
    308: it repeats this very request there. Check a place that comes from the client."""

    def __init__(
        self, location: str, status: int = 303, *, headers: Headers | None = None, cookies: Cookies | None = None
    ) -> None:
        if status not in REDIRECTIONS:
            raise ValueError(f"{status} is none of {', '.join(map(str, REDIRECTIONS))}")
        # What is not ASCII is escaped, as browsers do.
        place = re.sub("[^\x00-\x7f]+", lambda found: quote(found[0], errors="ignore"), location)
        super().__init__(status=status, headers={**(headers or {}), "location": place}, cookies=cookies)
