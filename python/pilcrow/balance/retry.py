"""Which failed calls are tried again, and how many. Time is an argument, in seconds."""

from __future__ import annotations

from dataclasses import dataclass

RETRIES_PER_CALL = 0.2
"""Retries for each call: a fifth. When everything fails, the load grows by no more than that."""

RETRIES_PER_SECOND = 10.0
"""Further retries a second, for nodes that call rarely."""

MAX_SAVED_RETRIES = 100.0
"""Maximum number of unused retries that are saved, so that a quiet hour does not pay for a
storm."""

CRASH_WINDOW = 30.0
"""Two nodes that are lost within this time, each with a call of one route and with no answer in
between, count as crashed by it."""

ONE_LOSS = 1.0
"""Calls that one connection loses at once are one loss."""

NO_RETRY = 60.0
"""For how long after a loss calls of such a route are not tried again."""

MAX_ROUTES = 1024
"""Routes that are remembered. With more, later ones count as harmless until old ones are
forgotten."""

IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})
"""Methods whose calls may be carried out twice (RFC 9110, 9.2.2)."""


class RetryBudget:
    """How many retries all calls of a node together may make."""

    def __init__(self, now: float) -> None:
        self._left = RETRIES_PER_SECOND
        self._at = now

    def deposit(self) -> None:
        """Records a call, which adds to the budget."""
        self._left = min(self._left + RETRIES_PER_CALL, MAX_SAVED_RETRIES)

    def try_withdraw(self, now: float) -> bool:
        """Takes one retry from the budget; false when there is none."""
        passed, self._at = max(now - self._at, 0.0), max(now, self._at)
        self._left = min(self._left + passed * RETRIES_PER_SECOND, MAX_SAVED_RETRIES)
        if self._left < 1:
            return False
        self._left -= 1
        return True


@dataclass
class _Loss:
    node: str
    at: float
    crashing_until: float | None = None


class CrashingRoutes:
    """Routes whose calls crash the nodes that handle them: such a call is not tried at the next
    node."""

    def __init__(self) -> None:
        self._losses: dict[str, _Loss] = {}

    def record_loss(self, now: float, route: str, node: str) -> bool:
        """Records that a node was lost with a call of this route. Returns whether the call may be
        tried again."""
        if len(self._losses) >= MAX_ROUTES:
            kept = {
                name: loss
                for name, loss in self._losses.items()
                if now < (loss.crashing_until or loss.at + CRASH_WINDOW)
            }
            self._losses = kept
        loss = self._losses.get(route)
        if loss is None:
            if len(self._losses) < MAX_ROUTES:
                self._losses[route] = _Loss(node, now)
            return True
        passed = now - loss.at
        is_known = loss.crashing_until is not None and now < loss.crashing_until
        is_same = loss.node == node and passed < ONE_LOSS
        is_crashing = is_known or (not is_same and passed < CRASH_WINDOW)
        self._losses[route] = _Loss(node, now, now + NO_RETRY if is_crashing else None)
        return not is_crashing

    def record_response(self, route: str) -> None:
        """Records that another node has answered such a call."""
        self._losses.pop(route, None)
