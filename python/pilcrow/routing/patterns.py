"""Names of events, and the patterns to which they belong: a ``*`` is any one word, and a ``>`` at the
end all words that follow."""

from __future__ import annotations

MAX_WORDS = 16
"""Maximum words of a pattern: what all nodes take, as a look-up has to follow them."""

MAX_WILDCARDS = 3
"""Maximum wildcards of a pattern, for the same reason."""

WILDCARDS = ("*", ">")


def pattern_fault(name: str) -> str | None:
    """Why a name with a ``*`` or a ``>`` is not a pattern; ``None`` if it is one, or has none."""
    if not has_wildcard(name):
        return None
    words = name.split(".")
    if any(word not in WILDCARDS and has_wildcard(word) for word in words):
        return "a * or a > is a whole word, as in orders.* or orders.>"
    if ">" in words[:-1]:
        return "a > is the last word; in other places, write a *"
    if "" in words:
        return "a word is empty"
    if len(words) > MAX_WORDS:
        return f"a name with wildcards has at most {MAX_WORDS} words"
    if sum(word in WILDCARDS for word in words) > MAX_WILDCARDS:
        return f"a name has at most {MAX_WILDCARDS} wildcards"
    return None


def has_wildcard(name: str) -> bool:
    """Whether a name has a ``*`` or a ``>`` anywhere."""
    return "*" in name or ">" in name


def is_pattern(name: str) -> bool:
    """Whether a name is a pattern."""
    return has_wildcard(name) and pattern_fault(name) is None


def matches(pattern: str, name: str) -> bool:
    """Whether an event of this name belongs to a pattern."""
    wanted, words = pattern.split("."), name.split(".")
    for at, word in enumerate(wanted):
        if at >= len(words) or not words[at]:
            return False
        if word == ">":
            return True
        if word not in ("*", words[at]):
            return False
    return len(wanted) == len(words)


def specificity(pattern: str) -> list[int]:
    """A key to sort by: the most specific of the patterns that match one event comes first. At the
    first word at which two differ, a word is before a ``*``, and a ``*`` before a ``>``."""
    return [2 if word == ">" else int(word == "*") for word in pattern.split(".")]
