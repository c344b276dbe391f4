"""What can go wrong, as types. Their texts say what to do."""

from __future__ import annotations

from .handler.fields import ClientFields, Cookies, Headers
from .wire import shown


class RouteError(ValueError):
    """A text that is not a route."""

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(f"'{shown(text, 60)}' is not a route: {reason}. Write it like GET/goods or GET/goods/{{id}}")
        self.reason = reason


class StartError(Exception):
    """A node cannot start. Nothing is left running."""


class ServiceError(Exception):
    """A handler raises it to refuse a call. The caller is told all of it, and nothing of any other
    exception."""

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        *,
        retry_after: float | None = None,
        headers: Headers | None = None,
        cookies: Cookies | None = None,
    ) -> None:
        """``status`` is one of HTTP's from 400 to 599, ``reason`` a stable word in snake_case,
        ``message`` a text for people, and ``retry_after`` the seconds until another try is
        worthwhile. ``headers`` and ``cookies`` are for the client of a gateway."""
        if not 400 <= status <= 599:
            raise ValueError(f"the status of an error is from 400 to 599, and not {status}")
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after
        self.fields = ClientFields(headers, cookies)


class CallError(Exception):
    """A call has no result. Its subclasses say why; :attr:`was_sent` whether it may have been
    carried out."""

    was_sent = False
    """Whether the call may have been carried out."""


class NoRoute(CallError):
    """No node offers this. Nothing was sent."""


class NoList(CallError):
    """No Distributor has sent a list since this node started. Nothing was sent; try again later."""


class NoProvider(CallError):
    """Nodes have offered this, but none can be reached now. Nothing was sent; try again in a few
    seconds."""


class Overloaded(CallError):
    """The queues to all nodes that offer this are full. Nothing was sent; try again later."""


class TooLarge(CallError):
    """The arguments are larger than the nodes that offer this can take. Nothing was sent."""


class BadArguments(CallError):
    """The arguments have no JSON form, or none that the node can take. Nothing was sent."""


class Deadline(CallError):
    """No answer in time. The call may have been carried out."""

    was_sent = True


class Lost(CallError):
    """The node was lost before it answered. The call may have been carried out."""

    was_sent = True


class Ended(CallError):
    """The stream has ended, and its end says why. The part was not sent."""


class BadAnswer(CallError):
    """The node broke the rules of a stream. The call may have been carried out."""

    was_sent = True


class Refused(CallError):
    """The node refused the call, or failed to carry it out."""

    was_sent = True

    def __init__(self, status: int, reason: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after


def to_service_error(error: CallError) -> ServiceError:
    """What the caller of a handler is told if a call that the handler made has failed. The inner
    error names services, urls and addresses that are not for all clients: its text stays here."""
    busy = "a service that this one needs has no time now"
    if isinstance(error, Overloaded) or (isinstance(error, Refused) and error.reason == "overloaded"):
        # The word `overloaded` itself would say that this node has done nothing, so that the call
        # may be made again elsewhere.
        return ServiceError(503, "inner_overloaded", busy, retry_after=getattr(error, "retry_after", None) or 1.0)
    if isinstance(error, Refused) and error.status == 429:
        return ServiceError(429, error.reason, busy, retry_after=error.retry_after)
    if isinstance(error, Deadline) or (isinstance(error, Refused) and error.reason == "deadline"):
        return ServiceError(504, "deadline", "a service that this one needs did not answer in time")
    if isinstance(error, (NoRoute, NoList, NoProvider)):
        return ServiceError(503, "no_provider", "a service that this one needs is not there now")
    return ServiceError(502, "inner_call", "a service that this one needs has failed")
