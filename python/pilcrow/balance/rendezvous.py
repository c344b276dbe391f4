"""Rendezvous hashing: which provider a key belongs to."""

from __future__ import annotations

from ..wire import checksum

_MASK = (1 << 64) - 1


def score(key: str, address: str) -> int:
    """The rendezvous score of an address for a key: the same on every node and in every language,
    so that all callers agree. The highest wins."""
    mixed = (checksum(key.encode(errors="surrogatepass")) << 32 | checksum(address.encode())) + 0x9E37_79B9_7F4A_7C15
    mixed &= _MASK
    mixed = (mixed ^ mixed >> 30) * 0xBF58_476D_1CE4_E5B9 & _MASK
    mixed = (mixed ^ mixed >> 27) * 0x94D0_49BB_1331_11EB & _MASK
    return mixed ^ mixed >> 31
